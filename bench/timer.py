"""What timing needs beside the clocks: limits of time and what to say of them, memory, and the figures of times."""

import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tritonlstm.tuning.timing import CudaClock, Sampler, host_sampler, spread

from .rows import TIME_OVER

SETTLE_SECONDS = 0.3
"""Large products before a point is timed bring a GPU's clocks to their steady state. The length was not measured."""

REPEAT = 1.0
"""Seconds after which a deadline interrupts again, should something have caught the first interruption."""


class CpuClock:
    """Calls timed by the host's clock; as `CudaClock`, without graphs, and with the caches as they are."""

    device = torch.device("cpu")
    graphs = False

    def sampler(
        self,
        run: Callable,
        arguments: Sequence[tuple] = ((),),
        *,
        graph: bool = False,
        cold: bool = True,
        wait: Callable[[Any], Any] | None = None,
    ) -> Sampler:
        following = itertools.cycle(arguments)
        return lambda: host_sampler(partial(run, *next(following)), wait)()


Clock = CpuClock | CudaClock


class OutOfTime(BaseException):
    """A time limit was reached. Not an Exception, so that no library takes it for a failure of its own."""

    def __init__(self, reason: str = TIME_OVER):
        super().__init__(reason)


class Deadline:
    def __init__(self, seconds: float = math.inf):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds from now."""
        return self._end - time.monotonic()

    def within(self, seconds: float) -> "Deadline":
        """In so many seconds from now, but not after this one."""
        return Deadline(min(seconds, self.left))

    @contextmanager
    def limit(self, most: float = math.inf) -> Iterator[None]:
        """Raises OutOfTime inside the block at the deadline, or after `most` seconds.

        Only when a call into a library returns to Python.
        """
        left = self.left
        if left <= 0:
            raise OutOfTime
        if math.isinf(min(left, most)):
            yield
            return

        def stop(*_: object) -> None:
            raise OutOfTime(f"it took more than {most:g} s") if most < left else OutOfTime

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, min(left, most), REPEAT)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def plan(counts: Mapping[str, int], limits: Mapping[str, float], whole: float, path: Path) -> list[str]:
    """What a run says before it begins: how much there is in each section, and the seconds that it and all may take."""

    def limit(seconds: float) -> str:
        return "no limit" if math.isinf(seconds) else f"at most {seconds:.0f} s"

    sections = [f"  {name:26}{count:4}, {limit(limits[name])}" for name, count in counts.items()]
    saved = f"Each result is saved at once, to {path}; --resume goes on from there, --section chooses."
    return ["Sections, in this order:", *sections, f"All: {limit(whole)}. {saved}"]


def settle(device: torch.device) -> None:
    """Bring a GPU's clocks to their steady state."""
    if device.type != "cuda":
        return
    factor = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    end = time.perf_counter() + SETTLE_SECONDS
    while time.perf_counter() < end:
        for _ in range(10):
            factor @ factor
        torch.cuda.synchronize(device)


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """How many bytes `run` drives PyTorch's memory above where it was."""
    run()  # what it caches for good does not count
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in events), initial=0))


def summary(seconds: list[float]) -> dict[str, float]:
    """A row's figures of the times of several runs."""
    names = "median_ms", "p20_ms", "p80_ms"
    return {name: 1e3 * each for name, each in zip(names, spread(seconds))} | {"samples": len(seconds)}
