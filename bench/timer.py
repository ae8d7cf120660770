"""Time and memory of functions that run in turns, on a CPU or a GPU, within a limit of time."""

import functools
import itertools
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tritonlstm.tuning.graphs import capture
from tritonlstm.tuning.timing import flush_buffer, order

Sampler = Callable[[], float]
"""Runs what is timed once, and returns the seconds it took."""

SETTLE_SECONDS = 0.3
"""Large products before a point is timed bring a GPU's clocks to their steady state. The length was not measured."""

REPEAT = 1.0
"""Seconds after which a deadline interrupts again, should something have caught the first interruption."""


class Failed(Exception):
    """The sampler of this name raised. The `__cause__` is its exception."""


class OutOfTime(BaseException):
    """A time limit was reached. Not an Exception, so that no library takes it for a failure of its own."""

    def __init__(self, reason: str = "the run's time was over"):
        super().__init__(reason)


class Deadline:
    def __init__(self, seconds: float = math.inf):
        self._end = time.monotonic() + seconds

    @contextmanager
    def limit(self, most: float = math.inf) -> Iterator[None]:
        """Raises OutOfTime inside the block at the deadline, or after `most` seconds.

        In the main thread only, and only when a call into a library returns to Python.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise OutOfTime
        if math.isinf(min(left, most)) or threading.current_thread() is not threading.main_thread():
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


def drive(first: Sampler, before: Callable[[], object], after: Callable[[], object], rounds: int) -> None:
    for _ in range(rounds):
        before()
        first()
        after()


def interleave(
    samplers: dict[str, Sampler], rounds: int, warmup: int = 2, drive: Callable[..., None] = drive
) -> dict[str, list[float]]:
    """The seconds of each sampler in each round. Every round runs all of them, so that a disturbance hits them all.

    `drive` calls the first one between `before` and `after`, which run the others; pytest-benchmark may do so.
    """
    names = list(samplers)
    seconds = {name: [] for name in names}
    pending = []

    def sample() -> float:
        name = pending.pop(0)
        try:
            seconds[name].append(samplers[name]())
        except Exception as error:
            raise Failed(name) from error
        return seconds[name][-1]

    def before() -> None:
        pending[:] = [names[index] for index in order(len(seconds[names[0]]), len(names))]
        while pending[0] != names[0]:
            sample()

    def after() -> None:
        while pending:
            sample()

    drive(sample, before, after, warmup + rounds)
    return {name: each[warmup:] for name, each in seconds.items()}


def summary(seconds: list[float], per_run: int = 1) -> dict[str, float]:
    """A row's figures: the median, and the times that a fifth of the runs stay below (p20) and above (p80)."""
    fifths = statistics.quantiles(seconds, n=5, method="inclusive") if len(seconds) > 1 else 4 * seconds
    times = {"median_ms": statistics.median(seconds), "p20_ms": fifths[0], "p80_ms": fifths[3]}
    return {name: 1e3 * value / per_run for name, value in times.items()} | {"samples": len(seconds)}


def _host_sampler(call: Callable[[], Any], wait: Callable[[Any], Any] | None) -> Sampler:
    """Calls until the result is there, timed by the host's clock."""

    def sample() -> float:
        start = time.perf_counter()
        result = call()
        if wait is not None:
            wait(result)
        return time.perf_counter() - start

    return sample


class CpuClock:
    device = torch.device("cpu")
    graphs = False

    def settle(self) -> None:
        """Nothing to wait for here."""

    def sampler(
        self, run: Callable, arguments: Sequence[tuple], *, graph: bool = False, wait: Callable | None = None
    ) -> Sampler:
        """Calls `run` with the next of `arguments`, in a cycle. `wait` blocks until its result is computed."""
        following = itertools.cycle(arguments)
        return _host_sampler(lambda: run(*next(following)), wait)

    def peak(self, run: Callable[[], Any]) -> int:
        """How far `run` drives PyTorch's memory above where it was: the largest sum of what is allocated less freed."""
        run()  # what it caches for good does not count
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run()
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        return max(itertools.accumulate((event.nbytes() for event in events), initial=0))


class CudaClock:
    """Before every sample the next input is copied in and the L2 cache overwritten, both outside the measured time."""

    graphs = True

    def __init__(self, device: torch.device):
        self.device = device
        self._flush = flush_buffer(device)

    def settle(self) -> None:
        factor = torch.randn(8192, 8192, device=self.device, dtype=torch.bfloat16)
        end = time.perf_counter() + SETTLE_SECONDS
        while time.perf_counter() < end:
            for _ in range(10):
                factor @ factor
            torch.cuda.synchronize(self.device)

    def sampler(
        self, run: Callable, arguments: Sequence[tuple], *, graph: bool = True, wait: Callable | None = None
    ) -> Sampler:
        """Replays of a graph of `run`, or calls, timed by the device's events; with `wait`, by the host's clock."""
        following, static = itertools.cycle(arguments), ()
        if graph:
            static = tuple(argument.clone() for argument in arguments[0])
            replay, results = capture(functools.partial(run, *static))

            def call() -> Any:
                replay()
                return results  # kept alive: the graph writes to them

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def sample() -> float:
            own = next(following)
            for place, argument in zip(static, own):
                place.copy_(argument)
            # This also keeps the device busy until the call is queued: no launch waits for Python.
            self._flush.zero_()
            once = call if graph else functools.partial(run, *own)
            if wait is not None:
                torch.cuda.synchronize(self.device)
                return _host_sampler(once, wait)()
            start.record()
            once()
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
