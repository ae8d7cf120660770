"""One point: every contender built, checked against the oracle, and then timed in turns.

Whatever a contender does, it gets a row: absent, wrong, out of memory, dropped for want of time, or failed.
"""

import functools
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tritonlstm.tuning.cases import Case

from . import rows
from .cases import Problem, problem, sequence
from .check import Oracle, WrongResult
from .deadline import Deadline, OutOfTime
from .measure import Drive, Sampler, Times, drive, interleave
from .providers import CONV_FLOOR, Built, Provider
from .rows import Key, Row, Rows

INPUTS = 3
"""Inputs that go round: no contender sees the same one twice in a row."""

MODES = ("inference", "training")


@dataclass(frozen=True)
class Point:
    """A case and its contenders, the first of them ours. They are built once and timed in every mode."""

    run: str
    name: str
    case: Case
    dtype: torch.dtype
    providers: Sequence[Provider]
    modes: Sequence[str] = MODES
    graph: bool = True
    """Whether those that can are timed as CUDA graphs, where there are any."""

    def key(self, mode: str) -> Key:
        dtype = str(self.dtype).removeprefix("torch.")
        return Key(self.run, self.name, str(self.case), self.case.steps, dtype, mode)

    def rows(self, provider: Provider, status: str, reason: str) -> list[Row]:
        """A row without a time for every mode."""
        return [Row(self.key(mode), provider.name, provider.peephole, status, reason) for mode in self.modes]


@dataclass
class Ready:
    """A contender that computes what is right."""

    provider: Provider
    note: str
    launch: str
    samplers: dict[str, Sampler] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)


class Problems:
    """The problems of one case, with and without peepholes, and their oracles; each made when it is first wanted."""

    def __init__(self, point: Point, device: torch.device):
        self.of = functools.cache(lambda peephole: problem(point.case, point.dtype, device, peephole=peephole))
        self.oracle = functools.cache(lambda peephole: Oracle(self.of(peephole)))


def _arguments(given: Problem, built: Built, mode: str) -> list[tuple]:
    """INPUTS inputs, in training each with a cotangent, as the contender likes them."""
    case, dtype = given.case, given.input.dtype
    generator = torch.Generator(given.input.device).manual_seed(1)
    inputs = [given.input] + [sequence(case, case.in_channels, dtype, generator) for _ in range(INPUTS - 1)]
    if mode == "inference":
        return [(built.load(input),) for input in inputs]
    return [(built.load(input), built.load(given.cotangent)) for input in inputs]


def _prepare(point: Point, provider: Provider, problems: Problems, clock: Any) -> Ready:
    given = problems.of(provider.peephole)
    built = provider.build(given)
    note = ""
    if built.results is not None:
        slack = 1.0 if point.dtype.itemsize > 2 else provider.slack
        note = f"error {problems.oracle(provider.peephole).check(built, slack):.2f} of the budget"
    graph = point.graph and provider.capturable and clock.graphs
    ready = Ready(provider, note, "graph" if graph else "calls")
    for mode in point.modes:
        run = built.infer if mode == "inference" else built.train
        arguments = _arguments(given, built, mode)
        if built.peak is not None:
            ready.peaks[mode] = built.peak(mode)
        elif provider.capturable and built.results is not None:
            # What holds its memory in graphs of its own, or from the beginning, shows nothing.
            ready.peaks[mode] = clock.peak(functools.partial(run, *arguments[0]))
        ready.samplers[mode] = clock.sampler(run, arguments, graph=graph, wait=built.wait)
    return ready


def failure(error: BaseException) -> tuple[str, str]:
    """An exception as a row's status and reason."""
    if isinstance(error, OutOfTime):
        return rows.DROPPED, "the run's time was over"
    if isinstance(error, WrongResult):
        return rows.WRONG, str(error)
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    signs = "RESOURCE_EXHAUSTED", "can't allocate memory", "out of memory"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in str(error) for sign in signs):
        return rows.OUT_OF_MEMORY, reason
    return rows.FAILED, reason


def _free() -> None:
    """Give back what a point or a failed contender held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(
    point: Point, clock: Any, collected: Rows, deadline: Deadline, rounds: Callable[[str], int], drive: Drive = drive
) -> None:
    """Time a point, and add a row for each contender and mode. `rounds` tells how many a mode gets."""
    torch.compiler.reset()  # or one problem's graphs would count as another's recompilations
    _free()
    problems, ready, others = Problems(point, clock.device), [], []
    for provider in point.providers:
        reason = provider.why_absent(clock.device)
        if reason is not None:
            others += point.rows(provider, rows.ABSENT, reason)
            continue
        try:
            with deadline.limit():
                ready.append(_prepare(point, provider, problems, clock))
        except (Exception, OutOfTime) as error:
            others += point.rows(provider, *failure(error))
        _free()
    for mode in point.modes:
        samplers = {each.provider.name: each.samplers[mode] for each in ready}
        try:
            with deadline.limit():
                clock.settle()
                times = interleave(samplers, rounds(mode), drive=drive) if samplers else {}
            timed = [_row(point, mode, each, times[each.provider.name]) for each in ready]
        except (Exception, OutOfTime) as error:
            failed = failure(error)
            timed = [row for each in ready for row in point.rows(each.provider, *failed) if row.key.mode == mode]
        collected.add(rows.with_floor(timed + [row for row in others if row.key.mode == mode], CONV_FLOOR.name))


def _row(point: Point, mode: str, each: Ready, times: Times) -> Row:
    p20, p80 = times.spread
    return Row(
        point.key(mode),
        each.provider.name,
        each.provider.peephole,
        rows.OK,
        each.note,
        each.launch,
        1e3 * times.median,
        1e3 * p20,
        1e3 * p80,
        len(times.durations),
        each.peaks.get(mode),
    )
