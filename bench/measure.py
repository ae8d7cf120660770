"""How time and memory are measured: in turns, and on a CPU. `cuda_clock` has the same for a GPU."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tritonlstm.tuning.timing import order

Sampler = Callable[[], float]
"""Runs what is timed once, and returns the seconds it took."""

Drive = Callable[[Sampler, Callable[[], None], Callable[[], None], int], None]
"""drive(first, before, after, rounds) calls before, first and after, so many times."""


class Failed(Exception):
    """A contender's sampler raised. Its `__cause__` says what."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


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
        if len(self.durations) == 1:
            return self.durations[0], self.durations[0]
        p20, _, _, p80 = statistics.quantiles(self.durations, n=5, method="inclusive")
        return p20, p80


def drive(first: Sampler, before: Callable[[], None], after: Callable[[], None], rounds: int) -> None:
    for _ in range(rounds):
        before()
        first()
        after()


def interleave(samplers: dict[str, Sampler], rounds: int, warmup: int = 2, drive: Drive = drive) -> dict[str, Times]:
    """Time contenders round by round, so that whatever disturbs the machine disturbs all of them.

    `drive` calls the first contender; pytest-benchmark may do so. Raises Failed where one of them raises.
    """
    names = list(samplers)
    durations = {name: [] for name in names}
    round_ = 0

    def sample(name: str) -> None:
        try:
            durations[name].append(samplers[name]())
        except Exception as error:
            raise Failed(name) from error

    def others() -> tuple[list[str], list[str]]:
        """Who comes before and after the first contender in this round."""
        found = [names[index] for index in order(round_, len(names))]
        at = found.index(names[0])
        return found[:at], found[at + 1 :]

    def before() -> None:
        for name in others()[0]:
            sample(name)

    def first() -> float:
        sample(names[0])
        return durations[names[0]][-1]

    def after() -> None:
        nonlocal round_
        for name in others()[1]:
            sample(name)
        round_ += 1

    drive(first, before, after, warmup + rounds)
    return {name: Times(values[warmup:]) for name, values in durations.items()}


class WallClock:
    """Times by the machine's clock."""

    device = torch.device("cpu")
    graphs = False

    def settle(self) -> None:
        """Nothing to wait for here."""

    def sampler(
        self,
        run: Callable[..., Any],
        arguments: Sequence[tuple],
        *,
        graph: bool = False,
        wait: Callable[[Any], Any] | None = None,
    ) -> Sampler:
        """A call of `run` with the next of `arguments`, which go round. There are no graphs here.

        `wait` returns when what `run` returned is there.
        """
        following = itertools.cycle(arguments)

        def sample() -> float:
            own = next(following)
            start = time.perf_counter()
            result = run(*own)
            if wait is not None:
                wait(result)
            return time.perf_counter() - start

        return sample

    def peak(self, run: Callable[[], Any]) -> int:
        """How far `run` drives PyTorch's memory above where it was: the largest sum of what is allocated less freed."""
        run()  # what is cached for good is not this run's
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run()
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak
