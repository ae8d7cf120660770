"""The choice between a layer's two schedules, by timing whole layers.

Only a device tells: without one nothing is chosen, and "concat" stands.
"""

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..functional import conv_lstm
from .cases import Case
from .launches import DTYPES
from .search import MARGIN
from ..launch.tables import SCHEDULES, ScheduleKey

MODES = ("inference", "training")


@dataclass(frozen=True)
class Layer:
    """One ConvLSTM layer and the sequence it runs over."""

    dtype: str
    in_channels: int
    channels: int
    kernel: int
    steps: int
    batch: int
    height: int
    width: int

    @property
    def key(self) -> ScheduleKey:
        return ScheduleKey(DTYPES[self.dtype].itemsize, self.in_channels, self.channels, (self.kernel, self.kernel))


@dataclass(frozen=True)
class ScheduleOutcome:
    """A layer's schedule; median seconds by (mode, schedule), one for each size; what was wrong with "hoisted"."""

    key: ScheduleKey
    chosen: str
    medians: dict[tuple[str, str], tuple[float, ...]]
    rejected: str = ""

    def speedup(self, mode: str) -> float:
        """How often "hoisted" runs while "concat" runs once."""
        pairs = zip(self.medians[mode, "concat"], self.medians[mode, "hoisted"], strict=True)
        return statistics.geometric_mean(concat / hoisted for concat, hoisted in pairs)


@dataclass(frozen=True)
class LayerBench:
    """What the choice needs of a device.

    bind(layer, mode, schedule): a run of the layer. check(dtype, key, schedule): what is wrong with its results, or "".
    time: as in `search.Bench`.
    """

    bind: Callable[[Layer, str, str], Callable[[], object]]
    check: Callable[[str, ScheduleKey, str], str]
    time: Callable[[Sequence[Callable[[], object]]], list[list[float]]]


def layers(cases: Sequence[Case], dtype: str) -> dict[ScheduleKey, list[Layer]]:
    """The layers of some cases, by what their schedule depends on."""
    found = {}
    for case in cases:
        for in_channels, channels in case.layers:
            layer = Layer(dtype, in_channels, channels, case.kernel, case.steps, case.batch, case.height, case.width)
            same = found.setdefault(layer.key, [])
            if layer not in same:
                same.append(layer)
    return found


def choose(key: ScheduleKey, layers: Sequence[Layer], bench: LayerBench) -> ScheduleOutcome:
    """The schedule of the layers with one key.

    "hoisted" wins if it is faster by more than MARGIN over both modes together, and slower by more in none. Where
    either cannot be timed, "concat" stands.
    """
    try:
        return _choose(key, layers, bench)
    except Exception as error:  # of whatever kind: the other layers are to be tried all the same
        return ScheduleOutcome(key, "concat", {}, f"not timed: {error}")


def _choose(key: ScheduleKey, layers: Sequence[Layer], bench: LayerBench) -> ScheduleOutcome:
    wrong = bench.check(layers[0].dtype, key, "hoisted")
    if wrong:
        return ScheduleOutcome(key, "concat", {}, f"wrong results: {wrong}")
    medians = {}
    for mode in MODES:
        times = [bench.time([bench.bind(layer, mode, schedule) for schedule in SCHEDULES]) for layer in layers]
        for schedule, runs in zip(SCHEDULES, zip(*times, strict=True), strict=True):
            medians[mode, schedule] = tuple(map(statistics.median, runs))
    outcome = ScheduleOutcome(key, "concat", medians)
    speedups = [outcome.speedup(mode) for mode in MODES]
    wins = statistics.geometric_mean(speedups) > 1 + MARGIN and min(speedups) > 1 - MARGIN
    return ScheduleOutcome(key, "hoisted", medians) if wins else outcome


def bind(device: str, layer: Layer, mode: str, schedule: str) -> Callable[[], object]:
    """A run of a layer with random parameters over a random sequence: its inference, or its training step."""
    dtype, channels = DTYPES[layer.dtype], layer.channels
    columns = layer.in_channels + channels
    training = mode == "training"

    def normal(*shape: int, learns: bool = True) -> torch.Tensor:
        tensor = torch.randn(shape, dtype=dtype, device=device)
        return tensor.requires_grad_(training and learns)

    image = (layer.height, layer.width)
    input = normal(layer.steps, layer.batch, layer.in_channels, *image)
    weight = normal(4 * channels, columns, layer.kernel, layer.kernel)
    bias, peephole = normal(4 * channels), normal(3, channels, 1, 1)
    with torch.no_grad():
        weight *= (columns * layer.kernel**2) ** -0.5
    call = functools.partial(conv_lstm, input, None, weight, bias, peephole, backend="triton", schedule=schedule)
    if not training:
        return torch.no_grad()(call)
    cotangent = normal(layer.steps, layer.batch, channels, *image, learns=False)

    def train() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(call()[0], (input, weight, bias, peephole), cotangent)

    return train
