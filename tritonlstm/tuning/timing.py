"""Timing on a GPU: replays of CUDA graphs by the device's own events, with a cold cache, the functions in turns."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from .graphs import capture

_LEAST_FLUSH = 256 * 2**20
"""Bytes that are overwritten before each run: several times the last cache of any GPU here. It also keeps the device
busy until the next run is queued, so that no launch waits for Python between the events."""


def order(turn: int, count: int) -> list[int]:
    """The order in which `count` functions run in a round.

    Each round begins one function later than the one before, and every other round goes backwards, so that none always
    follows the same other.
    """
    found = [(turn // 2 + place) % count for place in range(count)]
    return found[::-1] if turn % 2 else found


def flush_buffer(device: torch.device) -> torch.Tensor:
    """What to overwrite so that nothing else is left in the device's L2 cache."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return torch.empty(max(2 * cache, _LEAST_FLUSH), dtype=torch.uint8, device=device)


@contextmanager
def best_plans() -> Iterator[None]:
    """cuDNN tries all of its plans for a convolution, and takes the fastest; ten would be its limit."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    cudnn.benchmark, cudnn.benchmark_limit = True, 0
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.benchmark_limit = before


class CudaTimer:
    """Times functions on the current CUDA device, `rounds` times each."""

    def __init__(self, rounds: int):
        self._rounds = rounds
        self._flush = flush_buffer(torch.device("cuda", torch.cuda.current_device()))

    def __call__(self, runs: Sequence[Callable[[], object]]) -> list[list[float]]:
        """The seconds of each replay of each function, taken in turns."""
        with best_plans():
            graphs = [capture(run) for run in runs]
        events = [[] for _ in runs]
        for turn in range(self._rounds):
            for index in order(turn, len(runs)):
                replay, _ = graphs[index]
                self._flush.zero_()
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                replay()
                end.record()
                events[index].append((start, end))
            torch.cuda.synchronize()
        return [[start.elapsed_time(end) / 1e3 for start, end in of] for of in events]
