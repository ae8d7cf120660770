"""One point: every provider built, checked against the oracle, and then timed in turns.

Whatever a provider does, it gets a row: ok, absent, wrong, out of memory, dropped for lack of time, or failed.
"""

import functools
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from tritonlstm.tuning.cases import Case

from . import rows
from .cases import Problem, sequence
from .check import Oracle, WrongResult
from .providers.protocol import Built, Provider
from .rows import MODES, Row, Rows
from .timer import CpuClock, CudaClock, Deadline, Failed, OutOfTime, Sampler, drive, interleave, summary

INPUTS = 3
"""Inputs in a cycle: no provider sees the same one twice in a row."""

Clock = CpuClock | CudaClock
Status = tuple[str, str]
"""A row's status and reason."""


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

    def rows(self, provider: Provider, status: str, reason: str) -> list[Row]:
        """A row without a time for each mode."""
        dtype = str(self.dtype).removeprefix("torch.")
        point = self.run, self.name, str(self.case), self.case.steps, dtype
        return [Row(*point, mode, provider.name, provider.peephole, status, reason) for mode in MODES]


@dataclass
class Prepared:
    """The point's providers that compute the right results, ready to be timed, and the rows of the others."""

    samplers: dict[str, dict[str, Sampler]] = field(default_factory=lambda: {mode: {} for mode in MODES})
    rows: dict[str, list[Row]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    """By mode. Those of the providers with samplers have no time yet."""

    def add(self, found: Sequence[Row]) -> None:
        for row in found:
            self.rows[row.mode].append(row)


def failure(error: BaseException) -> Status:
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
    """Release what a point or a failed provider held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def prepare(
    point: Point,
    clock: Clock,
    deadline: Deadline,
    oracle: Callable[..., Oracle] = Oracle,
    compile_limit: float = math.inf,
) -> Prepared:
    """Build and check the providers. `oracle` may be a cache; `compile_limit` is for each provider that compiles."""
    prepared = Prepared()
    try:
        with deadline.limit():
            torch.compiler.reset()  # or the graphs of another problem would count as recompilations
    except (Exception, OutOfTime) as error:
        for provider in point.providers:
            prepared.add(point.rows(provider, *failure(error)))
        return prepared
    for provider in point.providers:
        try:
            with deadline.limit(compile_limit if provider.compiles else math.inf):
                _free()
                reason = provider.why_absent(clock.device)
                if reason is None:
                    own = oracle(point.case, point.dtype, clock.device, provider.peephole)
                    samplers, found = _prepare(point, provider, own, clock)
                else:
                    samplers, found = {}, point.rows(provider, rows.ABSENT, reason)
        except (Exception, OutOfTime) as error:
            samplers, found = {}, point.rows(provider, *failure(error))
        prepared.add(found)
        for mode, sampler in samplers.items():
            prepared.samplers[mode][provider.name] = sampler
    return prepared


def _prepare(point: Point, provider: Provider, oracle: Oracle, clock: Clock) -> tuple[dict[str, Sampler], list[Row]]:
    built = provider.build(oracle.problem)
    arguments = {mode: _arguments(oracle.problem, built, mode) for mode in MODES}
    runs = dict(zip(MODES, (built.infer, built.train)))
    compile_seconds = dict.fromkeys(MODES)
    if provider.compiles:
        for mode, run in runs.items():
            start = time.perf_counter()
            result = run(*arguments[mode][0])
            if built.wait is not None:
                built.wait(result)
            compile_seconds[mode] = time.perf_counter() - start
    note = "" if built.results is None else f"error {oracle.check(built, provider.slack):.2f} of the budget"
    graph = point.graph and provider.capturable and clock.graphs
    launch = rows.GRAPH if graph else rows.CALLS
    samplers, found = {}, []
    for row in point.rows(provider, rows.OK, note):
        mode, peak = row.mode, None
        if built.peak is not None:
            peak = built.peak(mode)
        elif built.results is not None:
            peak = clock.peak(functools.partial(runs[mode], *arguments[mode][0]))
        found.append(replace(row, launch=launch, peak_bytes=peak, compile_seconds=compile_seconds[mode]))
        samplers[mode] = clock.sampler(runs[mode], arguments[mode], graph=graph, wait=built.wait)
    return samplers, found


def _arguments(problem: Problem, built: Built, mode: str) -> list[tuple]:
    """INPUTS inputs, in training each with the cotangent, as the provider's own arrays."""
    generator = torch.Generator(problem.input.device).manual_seed(1)
    dtype, case = problem.input.dtype, problem.case
    inputs = [problem.input, *(sequence(generator, case, case.in_channels, dtype) for _ in range(INPUTS - 1))]
    cotangent = () if mode == "inference" else (built.load(problem.cotangent),)
    return [(built.load(input), *cotangent) for input in inputs]


def time_in_turns(
    samplers: dict[str, Sampler], clock: Clock, deadline: Deadline, rounds: int, drive: Callable[..., None] = drive
) -> tuple[dict[str, list[float]], dict[str, Status]]:
    """The seconds of each sampler, and the status of those that failed. The others are timed again without them."""
    left, failed = dict(samplers), {}
    while left:
        try:
            with deadline.limit():
                _free()
                clock.settle()
                return interleave(left, rounds, drive=drive), failed
        except Failed as error:
            name = str(error)
            failed[name] = failure(error.__cause__)
            del left[name]
        except (Exception, OutOfTime) as error:
            return {}, dict.fromkeys(left, failure(error)) | failed
    return {}, failed


def measure(
    prepared: Prepared,
    mode: str,
    clock: Clock,
    collected: Rows,
    deadline: Deadline,
    rounds: int,
    drive: Callable[..., None] = drive,
) -> None:
    """Time the providers in one mode, and add a row for each."""
    seconds, failed = time_in_turns(prepared.samplers[mode], clock, deadline, rounds, drive)

    def finished(row: Row) -> Row:
        if row.provider in seconds:
            return replace(row, **summary(seconds[row.provider]))
        if row.provider in failed:
            status, reason = failed[row.provider]
            return replace(row, status=status, reason=reason)
        return row

    collected.add(map(finished, prepared.rows[mode]))


def show(collected: Rows) -> None:
    """Print the rows at the end of a run, and draw plots of them beside the file. The plain lines need no pandas."""
    try:
        from . import report
    except ImportError:
        for row in collected.all:
            print(row.run, row.case, row.sizes, row.dtype, row.mode, row.provider, row.launch, row.status, end=": ")
            print(
                row.reason if row.median_ms is None else f"{row.median_ms:.3f} ms ({row.p20_ms:.3f}–{row.p80_ms:.3f})"
            )
        print("tables and plots need pandas")
    else:
        print(report.text(report.frame(collected.records())))
    if collected.path is None or not collected.all:
        return
    try:
        from . import plots
    except ImportError:
        print("plots need pandas and matplotlib")
    else:
        print(*plots.draw(collected.path), sep="\n")
    print(f"written to {collected.path}")
