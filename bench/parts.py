"""Parts of a layer alone: what the design assumes of cuDNN's convolutions, and the gate kernels against their bytes.

Each part runs over a whole sequence, or over as many tensors as overflow the L2 cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.launches import DTYPES, Launch, bind
from tritonlstm.tuning.random_layers import normal

from . import rows
from .flow import Clock, failure, time_in_turns
from .providers.conv_floor import convolution_backward, data_gradient, weight_gradient
from .rows import Row, Rows
from .timer import Deadline, OutOfTime, summary

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
    dtype: str
    functions: Callable[[torch.device], Functions]
    per_run: int = 1
    limits: dict[str, float] = field(default_factory=dict)
    """Seconds that a unit of a function may take, where that is known."""

    def measure(self, clock: Clock, collected: Rows, deadline: Deadline, rounds: int) -> None:
        point = self.run, self.name, str(self.case), self.case.steps, self.dtype, self.run
        try:
            with deadline.limit():
                functions = self.functions(clock.device)
                samplers = {name: clock.sampler(run, [()], graph=clock.graphs) for name, run in functions.items()}
        except (Exception, OutOfTime) as error:
            collected.add([Row(*point, "all", False, *failure(error))])
            return
        seconds, failed = time_in_turns(samplers, clock, deadline, rounds)
        found = [Row(*point, name, False, *status) for name, status in failed.items()]
        for name, each in seconds.items():
            row = Row(*point, name, False, rows.OK, launch=rows.GRAPH if clock.graphs else rows.CALLS)
            row = replace(row, **summary(each, self.per_run))
            if name in self.limits:
                limit = self.limits[name]
                row = replace(row, reason=f"{row.median_ms / 1e3 / limit:.2f} of the limit, {1e6 * limit:.1f} µs")
            found.append(row)
        collected.add(found)


def _layers(case: Case) -> list[Case]:
    """The case's distinct layers, each alone."""
    return [case.but(in_channels=layer[0], channels=layer[1:]) for layer in dict.fromkeys(case.layers)]


def convolutions(name: str, case: Case) -> list[Part]:
    """The alternatives side by side, for each layer, over all steps."""
    return [Part("convolutions", name, layer, "bfloat16", partial(_convolutions, layer)) for layer in _layers(case)]


def _convolutions(case: Case, device: torch.device) -> Functions:
    ((in_channels, channels),) = case.layers
    width, padding = in_channels + channels, case.kernel // 2
    generator = torch.Generator(device).manual_seed(0)

    def images(*shape: int) -> Tensor:
        """Channels last."""
        return normal(generator, *shape, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)

    count, size = case.steps * case.batch, (case.height, case.width)
    rows, grads = images(count, width, *size), images(count, 4 * channels, *size)
    weight = images(4 * channels, width, case.kernel, case.kernel)
    row_steps, grad_steps = rows.chunk(case.steps), grads.chunk(case.steps)
    of_input, of_hidden = (
        (part.contiguous(memory_format=torch.channels_last), images(len(grads) // steps, part.shape[1], *size))
        for part, steps in zip(weight.split([in_channels, channels], 1), (1, case.steps))
    )

    def forward(dtype: torch.dtype) -> Callable[[], object]:
        steps, own = [each.to(dtype) for each in row_steps], weight.to(dtype)
        return lambda: [F.conv2d(step, own, padding=padding) for step in steps]

    def into_buffer() -> Callable[[], object]:
        ones, cudnn, out = [1, 1], torch.backends.cudnn, torch.empty_like(grad_steps[0])
        options = ([padding, padding], ones, ones, 1, cudnn.benchmark, cudnn.deterministic, True)
        return lambda: [torch.cudnn_convolution(step, weight, *options, out=out) for step in row_steps]

    def weight_grad(dtype: torch.dtype, *, by_step: bool = False) -> Callable[[], object]:
        own = weight.to(dtype)
        parts = [(each_grad.to(dtype), each.to(dtype)) for each_grad, each in zip(grad_steps, row_steps)]
        parts = parts if by_step else [(grads.to(dtype), rows.to(dtype))]

        def run() -> Tensor:
            total = convolution_backward(*parts[0], own, weight_gradient)
            for grad, step in parts[1:]:
                total += convolution_backward(grad, step, own, weight_gradient)
            return total

        return run

    def data_grad(parts: list[Tensor], weight: Tensor, rows: Tensor) -> list[Tensor]:
        return [convolution_backward(grad, rows, weight, data_gradient) for grad in parts]

    functions = {
        "forward, bf16": forward(torch.bfloat16),
        "forward, fp16": forward(torch.float16),
        "dW, step by step": weight_grad(torch.bfloat16, by_step=True),
        "dW, all steps at once, bf16": weight_grad(torch.bfloat16),
        "dW, all steps at once, fp16": weight_grad(torch.float16),
        "dX and dH together": lambda: data_grad(grad_steps, weight, row_steps[0]),
        "dH by step, dX at once": lambda: data_grad(grad_steps, *of_hidden) + data_grad([grads], *of_input),
    }
    return functions | ({"forward, bf16, into a buffer": into_buffer()} if device.type == "cuda" else {})


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
            dtype = str(DTYPES[launch.dtype]).removeprefix("torch.")
            parts.append(Part("gates", name, layer, dtype, partial(_launches, launch, count), count, limits))
    return parts


def _launches(launch: Launch, count: int, device: torch.device) -> Functions:
    runs = [bind(launch, str(device)) for _ in range(count)]
    return {
        f"{launch.kernel}, cold": lambda: [run() for run in runs],
        f"{launch.kernel}, hot": lambda: [runs[0]() for _ in runs],
    }
