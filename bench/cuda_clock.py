"""Time and memory on a GPU: device events around graph replays or calls, with a cold L2 cache."""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tritonlstm.tuning.graphs import capture
from tritonlstm.tuning.timing import flush_buffer

from .measure import Sampler

SETTLE_SECONDS = 0.3
"""Of large products before a point is timed, so that the GPU's clocks are where a long run has them. Not measured."""


class CudaClock:
    """Before every sample the next input is put in place and the L2 cache overwritten, both outside the time."""

    graphs = True

    def __init__(self, device: torch.device):
        self.device = device
        self._scratch = flush_buffer(device)

    def settle(self) -> None:
        factor = torch.randn(8192, 8192, device=self.device, dtype=torch.bfloat16)
        end = time.perf_counter() + SETTLE_SECONDS
        while time.perf_counter() < end:
            for _ in range(10):
                factor @ factor
            torch.cuda.synchronize(self.device)

    def sampler(
        self,
        run: Callable[..., Any],
        arguments: Sequence[tuple],
        *,
        graph: bool = True,
        wait: Callable[[Any], Any] | None = None,
    ) -> Sampler:
        """Replays of a graph of `run`, or calls, with the next of `arguments`, which go round.

        With `wait`, for a framework with a queue of its own, a call is timed by the machine's clock until that returns.
        """
        following = itertools.cycle(arguments)
        if graph:
            static = tuple(argument.clone() for argument in arguments[0])
            replay, results = capture(functools.partial(run, *static))

            def call(*_: Any) -> Any:
                replay()
                return results  # kept: the graph writes to them
        else:
            static, call = None, run
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def sample() -> float:
            own = next(following)
            if static is not None:
                for place, argument in zip(static, own):
                    place.copy_(argument)
            # It also keeps the device busy until what is timed is queued: no launch waits for Python.
            self._scratch.zero_()
            if wait is not None:
                torch.cuda.synchronize(self.device)
                begin = time.perf_counter()
                wait(call(*own))
                return time.perf_counter() - begin
            start.record()
            call(*own)
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3

        return sample

    def peak(self, run: Callable[[], Any]) -> int:
        """How far `run` drives PyTorch's memory above where it was."""
        run()
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before
