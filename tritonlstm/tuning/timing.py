"""Timing on a GPU: by its own events, with a cold cache, the contenders in turns."""

from collections.abc import Callable, Sequence

import torch

_WARMUPS = 3
_LEAST_FLUSH = 256 * 2**20
"""Bytes that are overwritten before each run: several times the last cache of any GPU here. It also keeps the device
busy until the next run is queued, so that no launch waits for Python between the events."""


class CudaTimer:
    """Times functions on the current CUDA device, `rounds` times each."""

    def __init__(self, rounds: int):
        cache = torch.cuda.get_device_properties().L2_cache_size
        self._rounds = rounds
        self._flush = torch.empty(max(4 * cache, _LEAST_FLUSH), dtype=torch.uint8, device="cuda")

    def __call__(self, runs: Sequence[Callable[[], object]]) -> list[list[float]]:
        """The seconds of each run of each function.

        A round runs each function once, so that whatever disturbs the device disturbs all; it begins with another each
        time, and every other round goes backwards, so that none always follows the same.
        """
        for run in runs:
            for _ in range(_WARMUPS):
                run()
        events = [[] for _ in runs]
        for turn in range(self._rounds):
            for place in range(len(runs)):
                index = (turn // 2 + (place if turn % 2 else -place)) % len(runs)
                self._flush.zero_()
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                runs[index]()
                end.record()
                events[index].append((start, end))
            torch.cuda.synchronize()
        return [[start.elapsed_time(end) / 1e3 for start, end in of] for of in events]
