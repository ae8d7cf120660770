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
from .check import Oracles, WrongResult
from .deadline import Deadline, OutOfTime
from .measure import Drive, Failed, Sampler, Times, drive, interleave
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


def _arguments(given: Problem, built: Built, mode: str) -> list[tuple]:
    """INPUTS inputs, in training each with a cotangent, as the contender likes them."""
    case, dtype = given.case, given.input.dtype
    generator = torch.Generator(given.input.device).manual_seed(1)
    inputs = [given.input] + [sequence(case, case.in_channels, dtype, generator) for _ in range(INPUTS - 1)]
    if mode == "inference":
        return [(built.load_input(input),) for input in inputs]
    return [(built.load_input(input), built.load_cotangent(given.cotangent)) for input in inputs]


def _prepare(point: Point, provider: Provider, given: Problem, oracles: Oracles, clock: Any) -> Ready:
    built = provider.build(given)
    note = ""
    if built.results is not None:
        note = f"error {oracles.of(given).check(built, given, provider.slack):.2f} of the budget"
    graph = point.graph and provider.capturable and clock.graphs
    ready = Ready(provider, note, rows.GRAPH if graph else rows.CALLS)
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
        return rows.DROPPED, str(error)
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
    point: Point,
    clock: Any,
    collected: Rows,
    deadline: Deadline,
    rounds: Callable[[str], int],
    drive: Drive = drive,
    oracles: Oracles | None = None,
) -> None:
    """Time a point, and add a row for each contender and mode. `rounds` tells how many a mode gets."""
    try:
        with deadline.limit():
            torch.compiler.reset()  # or one problem's graphs would count as another's recompilations
    except (Exception, OutOfTime) as error:
        status = failure(error)
        collected.add(row for provider in point.providers for row in point.rows(provider, *status))
        return
    ready, others = _build(point, clock, deadline, Oracles() if oracles is None else oracles)
    for mode in point.modes:
        times, failed = _time(mode, ready, clock, deadline, rounds(mode), drive)
        found = [_row(point, mode, each, times[each.provider.name]) for each in ready if each.provider.name in times]
        lost = [(each.provider, failed[each.provider.name]) for each in ready if each.provider.name in failed]
        found += [row for provider, status in lost for row in point.rows(provider, *status) if row.key.mode == mode]
        found += [row for row in others if row.key.mode == mode]
        collected.add(rows.with_floor(found, CONV_FLOOR.name))


def _build(point: Point, clock: Any, deadline: Deadline, oracles: Oracles) -> tuple[list[Ready], list[Row]]:
    """The contenders that compute what is right, and the rows of the others."""
    of = functools.cache(lambda peephole: problem(point.case, point.dtype, clock.device, peephole=peephole))
    ready, others = [], []
    for provider in point.providers:
        try:
            with deadline.limit(provider.seconds):
                _free()
                reason = provider.why_absent(clock.device)
                if reason is None:
                    ready.append(_prepare(point, provider, of(provider.peephole), oracles, clock))
                else:
                    others += point.rows(provider, rows.ABSENT, reason)
        except (Exception, OutOfTime) as error:
            others += point.rows(provider, *failure(error))
    return ready, others


def _time(
    mode: str, ready: list[Ready], clock: Any, deadline: Deadline, rounds: int, drive: Drive
) -> tuple[dict[str, Times], dict[str, tuple[str, str]]]:
    """The contenders' times and, of those that failed, status and reason. The others are timed anew without them."""
    samplers = {each.provider.name: each.samplers[mode] for each in ready}
    failed = {}
    while samplers:
        try:
            with deadline.limit():
                _free()
                clock.settle()
                return interleave(samplers, rounds, drive=drive), failed
        except Failed as error:
            failed[error.name] = failure(error.__cause__)
            del samplers[error.name]
        except (Exception, OutOfTime) as error:
            return {}, dict.fromkeys(samplers, failure(error)) | failed
    return {}, failed


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
