"""The search for a kernel's launch configuration, and for a layer's schedule.

What the candidates of a kernel compile to is known before any runs: those that spill or lose wide accesses are dropped,
the others ranked by a static cost. Where there is a device, the best of them are checked against the oracle, and those
that pass are timed beside the default. A layer has two schedules, which are checked and timed in the same way; without
a device "concat" stands.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from ..launch.config import find_config
from ..launch.tables import KERNELS, SCHEDULES, Config, ConfigKey, ScheduleKey
from .cases import Case
from .inspect import Figures, faults
from .launches import MODES, Launch, Layer
from .occupancy import limits, resident_blocks

MARGIN = 0.03
"""How much faster than the default a candidate must be to replace it: less may be noise."""

TIMED = 6
"""Candidates that are timed beside the default, the best by static cost."""

_BLOCKS = (128, 256, 512, 1024, 2048, 4096)
_WARPS = (1, 2, 4, 8)
_SHARE_BYTES = (16, 64)
"""A thread's share of a tile, in bytes of the layer's dtype: from one access to four."""

_ENOUGH_WARPS = 0.375
"""The fraction of a multiprocessor's warps, each with 16-byte accesses in flight, beyond which more are assumed to hide
no more latency. Not measured."""

Workload = Launch | Layer
Choice = Config | str
"""A launch's configuration, or a layer's schedule."""


@dataclass(frozen=True)
class Bench:
    """What the search needs of a device.

    bind: the workload with this choice, as a function of nothing. check: what is wrong with its results, or "". time:
    the seconds of each run of each function, measured in turns.
    """

    bind: Callable[[Workload, Choice], Callable[[], object]]
    check: Callable[[Workload, Choice], str]
    time: Callable[[Sequence[Callable[[], object]]], list[list[float]]]


@dataclass(frozen=True)
class Trial:
    """A candidate, and how far it came. `rejected` says why it is out; `cost` is the static one; `times` has the
    seconds of each run, by workload."""

    choice: Choice
    figures: Figures | None = None
    rejected: str = ""
    cost: float = math.inf
    times: dict[Workload, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The trials, the default's first; what is chosen; its speed over the default's, None where nothing was timed."""

    key: ConfigKey | ScheduleKey
    trials: tuple[Trial, ...]
    chosen: Choice
    speedup: float | None

    @property
    def default(self) -> Choice:
        return self.trials[0].choice


def speedup(default: Trial, trial: Trial, workloads: Iterable[Workload] | None = None) -> float:
    """The default's time over that of `trial`: the geometric mean over the workloads."""
    chosen = default.times if workloads is None else workloads
    slow, fast = ([statistics.median(each.times[workload]) for workload in chosen] for each in (default, trial))
    return statistics.geometric_mean(one / other for one, other in zip(slow, fast, strict=True))


def by_mode(outcome: Outcome) -> dict[str, float]:
    """The speed-up of "hoisted" over "concat" in each mode, for layers that were timed."""
    concat, hoisted = outcome.trials
    return {mode: speedup(concat, hoisted, [layer for layer in concat.times if layer.mode == mode]) for mode in MODES}


def launches(cases: Iterable[Case], dtype: str, kernels: Sequence[str] = KERNELS) -> dict[ConfigKey, list[Launch]]:
    """The kernels' launches for the layers of some cases, by what their configuration depends on."""
    return _by_key(
        Launch(kernel, dtype, channels, "channel", case.batch, case.height, case.width)
        for kernel, case in product(kernels, cases)
        for channels in case.channels
    )


def layers(cases: Iterable[Case], dtype: str) -> dict[ScheduleKey, list[Layer]]:
    """The layers of some cases in both modes, by what their schedule depends on."""
    return _by_key(
        Layer(dtype, case.but(in_channels=in_channels, channels=(channels,)), mode)
        for mode, case in product(MODES, cases)
        for in_channels, channels in case.layers
    )


def _by_key(workloads: Iterable[Workload]) -> dict:
    """Each once, under its key."""
    found = {}
    for workload in dict.fromkeys(workloads):
        found.setdefault(workload.key, []).append(workload)
    return found


def candidates(arch: str, key: ConfigKey, launch_pdl: bool = False) -> list[Config]:
    """The configurations to try, the default of the package's tables first; with `launch_pdl` each with and without."""
    default = find_config(key.kernel, arch, key.itemsize, key.channels, user=False)[0].value
    least, most = _SHARE_BYTES
    lanes = limits(arch).warp_size
    found = [
        Config(block, warps)
        for block, warps in product(_BLOCKS, _WARPS)
        if least <= block * key.itemsize / (warps * lanes) <= most
    ]
    found = [default, *(config for config in found if config != default)]
    return [config._replace(launch_pdl=early) for config in found for early in (False, True)[: 1 + launch_pdl]]


def judge(arch: str, launches: Sequence[Launch], config: Config, figures: Figures | str) -> Trial:
    """A candidate as it is compiled: rejected for its faults, or with its static cost."""
    if isinstance(figures, str):
        return Trial(config, rejected=f"does not compile: {figures.splitlines()[0]}")
    cost = statistics.geometric_mean(static_cost(arch, launch, config, figures) for launch in launches)
    return Trial(config, figures, "; ".join(faults(launches[0], figures)), cost)


def static_cost(arch: str, launch: Launch, config: Config, figures: Figures) -> float:
    """What ranks candidates that were not timed: lower is better, and it has no unit.

    accesses an element: a thread's global loads and stores over its elements; the kernels do little else.
    tail: the rounds in which the device takes its programs, a last one that is not full counted as full. The parameter
        reduction has a fixed number of programs, and no tail to compare.
    idle: where fewer than _ENOUGH_WARPS are resident, the cost grows as they shrink.
    """
    limit = limits(arch)
    tile = config.block
    if launch.kernel == "parameter_grads":  # whose tile is as wide as its block of columns at least
        tile = max(tile, min(256, 1 << (launch.channels - 1).bit_length()))
    share = tile / (config.num_warps * limit.warp_size)
    accesses = sum(figures.accesses.values()) / share
    blocks = resident_blocks(arch, figures.registers, figures.shared, config.num_warps)
    if not blocks:
        return math.inf
    idle = max(1.0, _ENOUGH_WARPS * limit.warps / (blocks * config.num_warps))
    tail = 1.0
    if launch.kernel != "parameter_grads":
        rounds = launch.elements / config.block / (blocks * limit.multiprocessors)
        tail = math.ceil(rounds) / rounds
    return accesses * tail * idle


def search(
    arch: str, launches: Sequence[Launch], compiled: Sequence[tuple[Config, Figures | str]], bench: Bench | None
) -> Outcome:
    """Choose a configuration for launches with one key: by the figures of the candidates, the default first, and, with
    a `bench`, by their times.

    A default with faults is still timed, for comparison, and kept where nothing is better.
    """
    default, *others = (judge(arch, launches, config, figures) for config, figures in compiled)
    ranked = sorted((trial for trial in others if not trial.rejected), key=lambda trial: trial.cost)
    rejected = [trial for trial in others if trial.rejected]
    if bench is None:
        sound = [trial for trial in (default, *ranked) if not trial.rejected]
        best = min(sound, key=lambda trial: trial.cost, default=default)
        return Outcome(launches[0].key, (default, *ranked, *rejected), best.choice, None)
    outcome = _compare(launches, [default, *ranked[:TIMED]], bench)
    return replace(outcome, trials=(*outcome.trials, *ranked[TIMED:], *rejected))


def choose_schedule(layers: Sequence[Layer], bench: Bench) -> Outcome:
    """Choose the schedule of layers with one key.

    "hoisted" wins if it is faster by more than MARGIN over both modes together, and slower by more in none.
    """
    outcome = _compare(layers, [Trial(schedule) for schedule in SCHEDULES], bench)
    if outcome.chosen != outcome.default and min(by_mode(outcome).values()) < 1 - MARGIN:
        return replace(outcome, chosen=outcome.default, speedup=1.0)
    return outcome


def _compare(workloads: Sequence[Workload], trials: Sequence[Trial], bench: Bench) -> Outcome:
    """Check all trials but the first, the default, time those that pass, and choose.

    What cannot run is rejected, whatever it raises: that differs between versions and devices.
    """
    failed, times = {}, {}
    for trial in trials[1:]:
        try:
            wrong = bench.check(workloads[0], trial.choice)
        except Exception as error:
            failed[trial.choice] = f"does not run: {error}"
        else:
            if wrong:
                failed[trial.choice] = f"wrong results: {wrong}"
    for workload in workloads:
        runs = {}
        for choice in (trial.choice for trial in trials if trial.choice not in failed):
            try:
                run = bench.bind(workload, choice)
                run()
                runs[choice] = run
            except Exception as error:
                failed[choice] = f"does not run: {error}"
        try:
            for choice, seconds in zip(runs, bench.time(list(runs.values())), strict=True):
                times.setdefault(choice, {})[workload] = tuple(seconds)
        except Exception as error:  # out of memory, with all of them at once: nothing here can be compared
            failed = {trial.choice: f"not timed: {error}" for trial in trials} | failed
            break
    default, *others = (
        replace(trial, rejected=failed[trial.choice])
        if trial.choice in failed
        else replace(trial, times=times[trial.choice])
        for trial in trials
    )
    best, gain = default, None
    if default.times:
        timed = [trial for trial in (default, *others) if trial.times]
        fastest = max(timed, key=lambda trial: speedup(default, trial))
        best = fastest if speedup(default, fastest) > 1 + MARGIN else default
        gain = speedup(default, best)
    return Outcome(workloads[0].key, (default, *others), best.choice, gain)
