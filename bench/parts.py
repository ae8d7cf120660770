"""Parts of a layer alone: what the design assumes of cuDNN's convolutions, and the gate kernels by their bytes.

A convolution runs over a whole sequence, a gate kernel in a row of launches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tritonlstm.tuning import timing
from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.launches import Launch, bind

from . import rows, work
from .flow import Session, Turns, failure
from .providers.conv_floor import Layer, convolution_backward, data_gradient, weight_gradient
from .rows import Row
from .timer import OutOfTime

GATES = ("gates_forward", "gates_backward")

Functions = dict[str, tuple[Callable[[], object], bool]]
"""By name: what runs, and whether with a cold cache."""


@dataclass(frozen=True)
class Part:
    """Functions that are timed in turns. `per_run` units of work are in one call; times are of one unit."""

    run: str
    name: str
    case: Case
    functions: Callable[[torch.device], Functions]
    note: Callable[[str, float], str]
    """What a row says of a function's name and seconds."""
    per_run: int = 1
    dtype: str = "bfloat16"

    @property
    def modes(self) -> tuple[str]:
        """The only one, named as the run."""
        return (self.run,)

    def point(self, mode: str) -> rows.Key:
        return self.run, self.name, str(self.case), self.case.steps, self.dtype, mode

    def prepare(self, session: Session) -> dict[str, Turns]:
        """What is timed in its only mode."""
        point, clock = self.point(self.run), session.clock
        try:
            with session.deadline.limit():
                samplers = {
                    name: clock.sampler(run, graph=clock.graphs, cold=cold)
                    for name, (run, cold) in self.functions(clock.device).items()
                }
        except (Exception, OutOfTime) as error:
            return {self.run: Turns([Row(*point, "all", False, *failure(error))], {})}
        launch = rows.GRAPH if clock.graphs else rows.CALLS
        untimed = [Row(*point, name, False, rows.OK, launch=launch) for name in samplers]
        return {self.run: Turns(untimed, samplers, self.per_run, self.note)}


def _layers(case: Case) -> list[Case]:
    """The case's distinct layers, each alone."""
    return [case.but(in_channels=layer[0], channels=layer[1:]) for layer in dict.fromkeys(case.layers)]


def gates(name: str, case: Case) -> list[Part]:
    """The gate kernels of each layer in training, in rows of launches with a cold cache and with a hot one."""

    def launches(layer: Case) -> dict[str, Launch]:
        sizes = {"batch": case.batch, "height": case.height, "width": case.width}
        return {kernel: Launch(kernel, "bf16", layer.channels[0], **sizes) for kernel in GATES}

    def note(layer: Case, name: str, seconds: float) -> str:
        launch = launches(layer)[name.split(",")[0]]
        return f"{launch.nbytes / seconds / 1e12:.2f} TB/s"

    return [
        Part("gates", name, layer, partial(_launches, launches(layer)), partial(note, layer), timing.ROTATED)
        for layer in _layers(case)
    ]


def _launches(launches: dict[str, Launch], device: torch.device) -> Functions:
    functions = {}
    for kernel, launch in launches.items():
        rotation = timing.Rotation.of(partial(bind, launch, str(device)), launch.nbytes)
        functions |= {f"{kernel}, cold": (rotation.cold, True), f"{kernel}, hot": (rotation.hot, False)}
    return functions


def flops(layer: Case) -> float:
    """Of the convolutions of all steps, or of one of their gradients."""
    (sizes,) = work.layers(layer, torch.bfloat16)
    return sizes.convolution(layer.steps, layer.steps, sizes.padded, 4 * sizes.channels).flops


def convolutions(name: str, case: Case) -> list[Part]:
    """cuDNN's rate for each layer, over all steps: the forward pass and the gradients, alternatives side by side."""

    def note(layer: Case, name: str, seconds: float) -> str:
        return f"{flops(layer) / seconds / 1e12:.0f} TFLOP/s"

    return [
        Part("convolutions", name, layer, partial(_convolutions, layer), partial(note, layer))
        for layer in _layers(case)
    ]


def _convolutions(case: Case, device: torch.device) -> Functions:
    (sizes,) = work.layers(case, torch.bfloat16)
    case = case.but(in_channels=sizes.padded - sizes.channels)  # rows as on a GPU, [X | 0 | H | 0]
    layer = Layer(case, 0, torch.bfloat16, device, torch.channels_last)
    rows, grads = list(layer.rows.chunk(case.steps)), list(layer.grads.chunk(case.steps))
    inputs, hidden, of_input, of_hidden = (
        part.contiguous(memory_format=torch.channels_last)
        for whole in (layer.rows, layer.weight)
        for part in whole.split([case.in_channels, *case.channels], 1)
    )

    def forward() -> list[Tensor]:
        return [F.conv2d(step, layer.weight, padding=case.kernel // 2) for step in rows]

    def forward_into(out: Tensor) -> list[Tensor]:
        ones, padding, cudnn = [1, 1], [case.kernel // 2] * 2, torch.backends.cudnn
        options = padding, ones, ones, 1, cudnn.benchmark, cudnn.deterministic, True
        return [torch.cudnn_convolution(step, layer.weight, *options, out=out) for step in rows]

    def weight_grad(grads: list[Tensor], rows: list[Tensor]) -> Tensor:
        total = convolution_backward(grads[0], rows[0], layer.weight, weight_gradient)
        for grad, row in zip(grads[1:], rows[1:]):
            total += convolution_backward(grad, row, layer.weight, weight_gradient)
        return total

    def data_grad(grads: list[Tensor], rows: Tensor, weight: Tensor) -> list[Tensor]:
        return [convolution_backward(grad, rows, weight, data_gradient) for grad in grads]

    def data_grads_apart() -> list[Tensor]:
        return data_grad(grads, hidden[: case.batch], of_hidden) + data_grad([layer.grads], inputs, of_input)

    functions = {
        "forward": forward,
        "dW, step by step": partial(weight_grad, grads, rows),
        "dW, all steps at once": partial(weight_grad, [layer.grads], [layer.rows]),
        "dX and dH together": partial(data_grad, grads, rows[0], layer.weight),
        "dH by step, dX at once": data_grads_apart,
    }
    if device.type == "cuda":
        functions["forward, into a buffer"] = partial(forward_into, torch.empty_like(grads[0]))
    return {name: (run, True) for name, run in functions.items()}
