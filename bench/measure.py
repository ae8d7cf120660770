"""How time and memory are measured."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Times:
    """The durations of many runs, in seconds."""

    durations: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.durations)

    @property
    def spread(self) -> tuple[float, float]:
        """The durations that a fifth of the runs stay below, and above: p20 and p80."""
        p20, _, _, p80 = statistics.quantiles(self.durations, n=5, method="inclusive")
        return p20, p80


def interleave(
    benchmark, ours: Callable[[], object], other: Callable[[], object], rounds: int, warmup_rounds: int = 2
) -> tuple[Times, Times]:
    """Time two functions round by round, so that whatever disturbs the machine disturbs both.

    pytest-benchmark times `ours`; `other` runs around it, before it in even rounds and after it in odd ones, so that
    neither always follows the other.
    """
    durations = []
    rounds_done = 0

    def time_other() -> None:
        start = time.perf_counter()
        other()
        durations.append(time.perf_counter() - start)

    def before() -> None:
        if rounds_done % 2 == 0:
            time_other()

    def after() -> None:
        nonlocal rounds_done
        if rounds_done % 2 == 1:
            time_other()
        rounds_done += 1

    benchmark.pedantic(ours, setup=before, teardown=after, rounds=rounds, warmup_rounds=warmup_rounds)
    return Times(benchmark.stats.stats.data), Times(durations[warmup_rounds:])


def peak_bytes(run: Callable[[], object]) -> int:
    """How far `run` drives PyTorch's CPU memory above where it was: the largest sum of what is allocated less freed."""
    run()  # what is cached for good is not this run's
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
