"""The search for a kernel's launch configuration.

What a point's candidates compile to is known before any runs: those that spill or lose wide accesses are dropped, the
others ranked by a static cost. Where there is a device, the best of them are checked against the oracle, and those that
pass are timed beside the default.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

from .cases import Case
from ..launch.config import find_config, use
from .inspect import Figures, faults
from .launches import DTYPES, Launch
from .occupancy import limits, resident_blocks
from ..launch.tables import KERNELS, Config

MARGIN = 0.03
"""A contender must be faster than the default by this part to take its place: below, it may be noise."""

TIMED = 6
"""Candidates that are timed beside the default, the best by static cost."""

_BLOCKS = (128, 256, 512, 1024, 2048, 4096)
_WARPS = (1, 2, 4, 8)
_SHARE_BYTES = (16, 64)
"""A thread's share of a tile, in bytes of the layer's dtype: from one access to four."""

_ENOUGH_WARPS = 0.375
"""The part of a multiprocessor's warps, each with 16-byte accesses in flight, beyond which more are taken to hide no
more latency. Not measured."""


class Size(NamedTuple):
    """Images of a step."""

    batch: int
    height: int
    width: int


@dataclass(frozen=True)
class Point:
    """What one configuration is chosen for, and the sizes at which it is to be fast."""

    kernel: str
    dtype: str
    channels: int
    sizes: tuple[Size, ...]

    def launch(self, size: Size) -> Launch:
        return Launch(self.kernel, self.dtype, self.channels, "channel", *size)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Trial:
    """A candidate, and how far it came. `rejected` says why it is out; `cost` is the static one; `times` has the
    seconds of each run, for each of the point's sizes."""

    config: Config
    figures: Figures | None = None
    rejected: str = ""
    cost: float = math.inf
    times: tuple[tuple[float, ...], ...] = ()

    @property
    def medians(self) -> tuple[float, ...]:
        return tuple(statistics.median(runs) for runs in self.times)


@dataclass(frozen=True)
class Outcome:
    """A point's trials, the default's first; the configuration that is chosen; its speed over the default's, the
    geometric mean over the sizes, None where nothing was timed."""

    point: Point
    trials: tuple[Trial, ...]
    chosen: Config
    speedup: float | None

    @property
    def default(self) -> Config:
        return self.trials[0].config


@dataclass(frozen=True)
class Bench:
    """What the search needs of a device.

    bind: the launch with the configuration that is in use, as a function of nothing. check: what is wrong with the
    results under the configurations in use, or "". time: the seconds of each run of each function, measured in turns.
    """

    bind: Callable[[Launch], Callable[[], object]]
    check: Callable[[str, int], str]
    time: Callable[[Sequence[Callable[[], object]]], list[list[float]]]


def points(cases: Sequence[Case], dtype: str, kernels: Sequence[str] = KERNELS) -> list[Point]:
    """What there is to choose for the layers of some cases: a point for each kernel and number of channels."""
    sizes = {}
    for case in cases:
        for _, channels in case.layers:
            sizes.setdefault(channels, {})[Size(case.batch, case.height, case.width)] = None
    return [Point(kernel, dtype, channels, tuple(of)) for kernel in kernels for channels, of in sizes.items()]


def candidates(arch: str, point: Point) -> list[Config]:
    """The configurations to try, the default of the package's tables first."""
    default = find_config(point.kernel, arch, point.itemsize, point.channels, user=False)[0].value
    least, most = _SHARE_BYTES
    lanes = limits(arch).warp_size
    found = [
        Config(block, warps)
        for block, warps in product(_BLOCKS, _WARPS)
        if least <= block * point.itemsize / (warps * lanes) <= most
    ]
    return [default, *(config for config in found if config != default)]


def judge(arch: str, point: Point, config: Config, figures: Figures | str) -> Trial:
    """A candidate as it is compiled: rejected for its faults, or with its static cost."""
    if isinstance(figures, str):
        return Trial(config, rejected=f"does not compile: {figures.splitlines()[0]}")
    cost = statistics.geometric_mean(static_cost(arch, point.launch(size), config, figures) for size in point.sizes)
    return Trial(config, figures, "; ".join(faults(point.launch(point.sizes[0]), figures)), cost)


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


def search(arch: str, point: Point, compiled: Sequence[tuple[Config, Figures | str]], bench: Bench | None) -> Outcome:
    """Choose among the candidates, the default first, by their figures and, with a `bench`, by their times.

    A default with faults is still timed, for comparison, and kept where nothing is better.
    """
    default, *others = (judge(arch, point, config, figures) for config, figures in compiled)
    ranked = sorted((trial for trial in others if not trial.rejected), key=lambda trial: trial.cost)
    rejected = [trial for trial in others if trial.rejected]
    if bench is None:
        sound = [trial for trial in (default, *ranked) if not trial.rejected]
        best = min(sound, key=lambda trial: trial.cost, default=default)
        return Outcome(point, (default, *ranked, *rejected), best.config, None)

    ranked, left = ranked[:TIMED], ranked[TIMED:]
    checked = [_checked(point, trial, bench) for trial in ranked]
    default, *tried = _timed(point, [default, *(trial for trial in checked if not trial.rejected)], bench)
    contenders = [trial for trial in tried if trial.times]
    wrong = [trial for trial in (*checked, *tried) if trial.rejected]
    if not default.times:
        return Outcome(point, (default, *contenders, *left, *wrong, *rejected), default.config, None)
    fastest = max(contenders, key=lambda trial: speedup(default, trial), default=default)
    wins = speedup(default, fastest) > 1 + MARGIN
    best = fastest if wins else default
    return Outcome(point, (default, *contenders, *left, *wrong, *rejected), best.config, speedup(default, best))


def speedup(default: Trial, trial: Trial) -> float:
    """How often `trial` runs while the default runs once: the geometric mean over the sizes."""
    return statistics.geometric_mean(slow / fast for slow, fast in zip(default.medians, trial.medians, strict=True))


def _checked(point: Point, trial: Trial, bench: Bench) -> Trial:
    try:
        with use({point.kernel: trial.config}):
            wrong = bench.check(point.dtype, point.channels)
    except Exception as error:  # what a launch that asks for too much raises differs between versions and devices
        return replace(trial, rejected=f"does not run: {error}")
    return replace(trial, rejected=f"wrong results: {wrong}") if wrong else trial


def _timed(point: Point, trials: Sequence[Trial], bench: Bench) -> list[Trial]:
    """The trials with their times. One that fails is rejected, and the others are timed without it."""
    failed, times = {}, []
    for size in point.sizes:
        runs = {}
        for trial in trials:
            if trial.config not in failed:
                try:
                    run = _bound(bench, point.launch(size), trial.config)
                    run()
                    runs[trial.config] = run
                except Exception as error:  # as above
                    failed[trial.config] = f"does not run: {error}"
        try:
            times.append(dict(zip(runs, bench.time(list(runs.values())), strict=True)))
        except Exception as error:  # out of memory, with all of them at once: nothing here can be compared
            failed = {trial.config: f"not timed: {error}" for trial in trials} | failed
    return [
        replace(trial, rejected=failed[trial.config])
        if trial.config in failed
        else replace(trial, times=tuple(tuple(of[trial.config]) for of in times))
        for trial in trials
    ]


def _bound(bench: Bench, launch: Launch, config: Config) -> Callable[[], object]:
    with use({launch.kernel: config}):
        run = bench.bind(launch)

    def run_with_config() -> object:
        with use({launch.kernel: config}):
            return run()

    return run_with_config
