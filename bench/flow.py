"""One point: every provider built, checked against the oracle, and then timed in turns.

Whatever a provider does, it gets a row: ok, absent, wrong, out of memory, dropped for lack of time, or failed.
"""

import functools
import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.timing import Failed, Sampler, host_sampler, interleave

from . import rows
from .cases import Problem, name_of, sequence
from .check import Oracle, WrongResult
from .providers import OURS
from .providers.protocol import Built, Provider
from .rows import MODES, Row, Rows
from .timer import Clock, Deadline, OutOfTime, peak_memory, settle, summary

INPUTS = 3
"""Inputs in a cycle: no provider sees the same one twice in a row."""


UNSTEADY = 1.1
"""The ratio p80 / p20 above which a time is named as unsteady: the device's clock has changed, or something ran beside
it. Times of one point still compare, since they take turns. A choice, not a measurement."""


class Absent(Exception):
    """A provider cannot run here. The message says why."""


def failure(error: BaseException) -> tuple[str, str]:
    """A row's status and reason."""
    kinds = {OutOfTime: rows.DROPPED, WrongResult: rows.WRONG, Absent: rows.ABSENT}
    if type(error) in kinds:
        return kinds[type(error)], str(error)
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    signs = "RESOURCE_EXHAUSTED", "can't allocate memory", "out of memory"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in str(error) for sign in signs):
        return rows.OUT_OF_MEMORY, reason
    return rows.FAILED, reason


def free_memory() -> None:
    """Release what a point or a failed provider held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Turns:
    """What is timed in turns: a row for each provider, ours first, and the sampler of each that can run.

    `per_run` units of work are in one sample; times are of one unit.
    """

    untimed: Sequence[Row]
    samplers: dict[str, Sampler]
    per_run: int = 1
    note: Callable[[str, float], str] | None = None
    """What a row says beside a provider's median in seconds."""

    def timed(self, row: Row, seconds: list[float]) -> Row:
        row = replace(row, **summary(seconds))
        return row if self.note is None else replace(row, reason=self.note(row.provider, row.median_ms / 1e3))


@dataclass(frozen=True)
class Session:
    """What all points of a run share."""

    clock: Clock
    collected: Rows
    deadline: Deadline
    rounds: int
    compile_seconds: float = math.inf
    """A provider may take so long to compile a case, all modes together."""
    oracle: Callable[..., Oracle] = field(default_factory=lambda: functools.cache(Oracle))

    def measure(self, turns: Turns) -> tuple[list[Row], dict[str, list[float]]]:
        """Add a row for each provider, with its times or with the status of its failure.

        Returns the rows, and the seconds of each provider that was timed. One that fails is left out, and the others
        are timed again.
        """
        left, seconds, failed = dict(turns.samplers), {}, {}
        while left and not seconds:
            try:
                with self.deadline.limit():
                    free_memory()
                    settle(self.clock.device)
                    seconds = interleave(left, self.rounds)
            except Failed as error:
                failed[error.name] = failure(error.__cause__)
                del left[error.name]
            except (Exception, OutOfTime) as error:
                failed |= dict.fromkeys(left, failure(error))
                break
        seconds = {name: [each / turns.per_run for each in of] for name, of in seconds.items()}

        def timed(row: Row) -> Row:
            if row.provider in seconds:
                return turns.timed(row, seconds[row.provider])
            if row.provider in failed:
                status, reason = failed[row.provider]
                return replace(row, status=status, reason=reason)
            return row

        measured = [timed(row) for row in turns.untimed]
        self.collected.add(measured)
        return measured, seconds


def faults(measured: Sequence[Row]) -> list[str]:
    """The rows of ours that are wrong or did not run, in words. Others, and lack of time or memory, are no faults."""
    bad = [row for row in measured if row.provider.startswith(OURS.name) and row.status in (rows.WRONG, rows.FAILED)]
    return [f"{row.provider}, {row.case}, {row.mode}: {row.status}: {row.reason}" for row in bad]


def show(collected: Rows) -> None:
    """Print the tables, draw the plots beside the file of results, and say what is missing."""
    if not collected.records():
        return
    try:
        from . import plots, report
    except ImportError as error:  # collecting needs no pandas
        print(f"no tables and plots: {error}")
    else:
        print(report.text(report.frame(collected.records())))
        print(*plots.draw(collected.path), sep="\n")
    print(f"written to {collected.path}")
    unsteady = [row for row in collected.all if row.p20_ms and row.p80_ms > UNSTEADY * row.p20_ms]
    if unsteady:
        where = ", ".join(dict.fromkeys(f"{row.case} ({row.run}, {row.mode})" for row in unsteady))
        print(f"{len(unsteady)} of {len(collected.all)} times spread by more than a tenth, p20 to p80: {where}")
    dropped = sum(row.status == rows.DROPPED for row in collected.all)
    if dropped:
        print(f"{dropped} of {len(collected.all)} rows were dropped for lack of time; --resume goes on with them")


@dataclass(frozen=True)
class Point:
    """A case and its providers, the first of them ours."""

    run: str
    name: str
    case: Case
    dtype: torch.dtype
    providers: Sequence[Provider]
    graph: bool = True
    """Whether those that can are timed as CUDA graphs, on a GPU."""
    modes: Sequence[str] = MODES

    def prepare(self, session: Session) -> dict[str, Turns]:
        """The providers built and checked, once for all modes: what is timed in each mode."""
        untimed, samplers = {mode: [] for mode in self.modes}, {mode: {} for mode in self.modes}
        for provider in self.providers:
            try:
                with session.deadline.limit(session.compile_seconds if provider.compiles else math.inf):
                    if provider is self.providers[0]:
                        torch.compiler.reset()  # or the graphs of another problem would count as recompilations
                    free_memory()
                    prepared = self._prepare(provider, session)
            except (Exception, OutOfTime) as error:
                prepared = {mode: (self._row(mode, provider, *failure(error)), None) for mode in self.modes}
            for mode, (row, sampler) in prepared.items():
                untimed[mode].append(row)
                if sampler is not None:
                    samplers[mode][provider.name] = sampler
        return {mode: Turns(untimed[mode], samplers[mode]) for mode in self.modes}

    def point(self, mode: str) -> rows.Key:
        return self.run, self.name, str(self.case), self.case.steps, name_of(self.dtype), mode

    def _row(self, mode: str, provider: Provider, status: str, reason: str, **figures: object) -> Row:
        return Row(*self.point(mode), provider.name, provider.peephole, status, reason, **figures)

    def _prepare(self, provider: Provider, session: Session) -> dict[str, tuple[Row, Sampler]]:
        """A provider built and checked: by mode, its row without a time, and its sampler."""
        clock = session.clock
        if (why := provider.why_absent(clock.device)) is not None:
            raise Absent(why)
        oracle = session.oracle(self.case, self.dtype, clock.device, provider.peephole)
        built = provider.build(oracle.problem)
        arguments = {mode: _arguments(oracle.problem, built, mode) for mode in self.modes}
        calls = {"inference": built.infer, "training": built.train}
        first = {mode: functools.partial(calls[mode], *arguments[mode][0]) for mode in self.modes}
        compiling = {mode: host_sampler(first[mode], built.wait)() for mode in self.modes if provider.compiles}
        note = "" if built.results is None else f"error {oracle.check(built, provider.slack):.2f} of the budget"
        graph = self.graph and provider.capturable and clock.graphs
        prepared = {}
        for mode in self.modes:
            peak = None
            if built.peak is not None:
                peak = built.peak(mode)
            elif built.results is not None:
                peak = peak_memory(first[mode], clock.device)
            launch = rows.GRAPH if graph else rows.CALLS
            figures = {"launch": launch, "peak_bytes": peak, "compile_seconds": compiling.get(mode)}
            sampler = clock.sampler(calls[mode], arguments[mode], graph=graph, wait=built.wait)
            prepared[mode] = self._row(mode, provider, rows.OK, note, **figures), sampler
        return prepared


def _arguments(problem: Problem, built: Built, mode: str) -> list[tuple]:
    """INPUTS inputs, in training each with the cotangent, as the provider's own arrays."""
    generator = torch.Generator(problem.input.device).manual_seed(1)
    dtype, case = problem.input.dtype, problem.case
    inputs = [problem.input, *(sequence(generator, case, case.in_channels, dtype) for _ in range(INPUTS - 1))]
    cotangent = () if mode == "inference" else (built.load(problem.cotangent),)
    return [(built.load(input), *cotangent) for input in inputs]
