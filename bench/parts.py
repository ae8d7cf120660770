"""Parts of a layer alone: what the design assumes of cuDNN's convolutions, and the gate kernels against their bytes.

Each part runs over a whole sequence, or over as many tensors as overflow the L2 cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.launches import Launch, bind

from . import rows
from .flow import Session, Turns, failure
from .providers.conv_floor import Layer, convolution_backward, data_gradient, weight_gradient
from .rows import Row
from .timer import OutOfTime

LAUNCH_SECONDS = 7e-6
BYTES_PER_SECOND = 3.0e12
SLACK = 1.05
"""The line that well-made pointwise kernels keep on an H100: t = 7.0 µs + bytes / 3.03 TB/s fits Liger's LayerNorm
there, 3.0 TB/s was seen for a large copy. A gate kernel, with the L2 cache cold, may take 5% more."""

COLD_BYTES = 256 * 2**20
"""Together, the tensors of a gate kernel's repeated launches hold several times the L2 cache of any GPU here."""

_MOST_LAUNCHES = 64

_MOVED = {"gates_forward": (4 + 4 + 2, 2), "gates_backward": (4 + 2 + 4, 3)}
"""Numbers of the layer's dtype and of float32 that a launch must read and write for each element of c. Forward:
pre-activations, gates, h twice; c_prev, c. Backward: gates, dH in two parts, dA; c_prev, dC in and out. Bias and
peepholes, which every tile shares, are left out."""

Functions = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Part:
    """Functions that are timed in turns. `per_run` units of work are in one call; times are of one unit."""

    run: str
    name: str
    case: Case
    functions: Callable[[torch.device], Functions]
    per_run: int = 1
    limits: dict[str, float] = field(default_factory=dict)
    """Seconds that a unit of a function may take, where that is known."""
    dtype: str = "bfloat16"

    @property
    def modes(self) -> tuple[str]:
        return (self.run,)

    def prepare(self, session: Session) -> dict[str, Turns]:
        """What is timed in its only mode, which is named as the run."""
        point, clock = (self.run, self.name, str(self.case), self.case.steps, self.dtype, self.run), session.clock
        try:
            with session.deadline.limit():
                functions = self.functions(clock.device)
                samplers = {name: clock.sampler(run, graph=clock.graphs) for name, run in functions.items()}
        except (Exception, OutOfTime) as error:
            return {self.run: Turns([Row(*point, "all", False, *failure(error))], {})}
        launch = rows.GRAPH if clock.graphs else rows.CALLS
        untimed = [Row(*point, name, False, rows.OK, launch=launch) for name in samplers]
        return {self.run: Turns(untimed, samplers, self.per_run, self.limits)}


def _layers(case: Case) -> list[Case]:
    """The case's distinct layers, each alone."""
    return [case.but(in_channels=layer[0], channels=layer[1:]) for layer in dict.fromkeys(case.layers)]


def gates(name: str, case: Case, cold_bytes: int = COLD_BYTES) -> list[Part]:
    """The gate kernels of each layer in training, one launch after another.

    Cold, each on tensors of its own, which are not in the cache; hot, all on the same, which are if they fit.
    """
    parts = []
    for layer in _layers(case):
        for kernel, (halves, floats) in _MOVED.items():
            launch = Launch(kernel, "bf16", layer.channels[0], batch=case.batch, height=case.height, width=case.width)
            moved = launch.elements * (halves * launch.itemsize + floats * 4)
            count = min(_MOST_LAUNCHES, max(2, -(-cold_bytes // moved)))
            limits = {f"{kernel}, cold": SLACK * (LAUNCH_SECONDS + moved / BYTES_PER_SECOND)}
            parts.append(Part("gates", name, layer, partial(_launches, launch, count), count, limits))
    return parts


def _launches(launch: Launch, count: int, device: torch.device) -> Functions:
    runs = [bind(launch, str(device)) for _ in range(count)]
    return {
        f"{launch.kernel}, cold": lambda: [run() for run in runs],
        f"{launch.kernel}, hot": lambda: [runs[0]() for _ in runs],
    }


def convolutions(name: str, case: Case) -> list[Part]:
    """The alternatives side by side, for each layer, over all steps."""
    return [Part("convolutions", name, layer, partial(_convolutions, layer)) for layer in _layers(case)]


def _convolutions(case: Case, device: torch.device) -> Functions:
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
    return functions
