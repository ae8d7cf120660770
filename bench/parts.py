"""The parts of a layer alone: what the design takes for granted of cuDNN, and the gate kernels against their bytes.

Each part runs over a whole sequence, or over as many tensors as overflow the L2 cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tritonlstm._layout import Layout, from_rows
from tritonlstm._maps import adjoint_weight
from tritonlstm._maps.convolution import Map, WeightGrad
from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.launches import DTYPES, Launch, bind

from . import rows
from .deadline import Deadline, OutOfTime
from .flow import failure
from .measure import interleave
from .rows import Key, Row, Rows

LAUNCH_SECONDS = 7e-6
BYTES_PER_SECOND = 3.0e12
SLACK = 1.05
"""The line that well-made pointwise kernels keep on an H100: t = 7.0 µs + bytes / 3.03 TB/s fits Liger's LayerNorm
there, 3.0 TB/s was seen for a large copy. A gate kernel, with the L2 cache cold, may take 5% more."""

COLD_BYTES = 256 * 2**20
"""What the tensors of a gate kernel's repeated launches hold together: several times the L2 cache of any GPU here."""

_MOST_LAUNCHES = 64


@dataclass(frozen=True)
class Part:
    """What is timed in turns: functions by name. `per_run` units of work are in one call; times are of one unit."""

    key: Key
    functions: Callable[[torch.device], dict[str, Callable[[], object]]]
    per_run: int = 1
    limits: dict[str, float] = field(default_factory=dict)
    """Seconds that a unit of a function may take, where that is known."""

    def measure(self, clock: Any, collected: Rows, deadline: Deadline, rounds: int) -> None:
        launch = rows.GRAPH if clock.graphs else rows.CALLS
        try:
            with deadline.limit():
                functions = self.functions(clock.device)
                samplers = {name: clock.sampler(run, [()], graph=clock.graphs) for name, run in functions.items()}
                clock.settle()
                times = interleave(samplers, rounds)
        except (Exception, OutOfTime) as error:
            collected.add([Row(self.key, "all", False, *failure(error))])
            return
        timed = []
        for name, each in times.items():
            median, p20, p80 = (1e3 * value / self.per_run for value in (each.median, *each.spread))
            limit = self.limits.get(name)
            reason = f"{median / 1e3 / limit:.2f} of the limit, {1e6 * limit:.1f} µs" if limit else ""
            timed.append(Row(self.key, name, False, rows.OK, reason, launch, median, p20, p80, len(each.durations)))
        collected.add(timed)


def _key(run: str, name: str, case: Case, layer: tuple[int, int], dtype: str) -> Key:
    return Key(run, name, f"{case.but(in_channels=layer[0], channels=layer[1:])}", case.steps, dtype, run)


def _distinct(case: Case) -> list[tuple[int, int]]:
    """(Cin, C) of the case's layers, each once."""
    return list(dict.fromkeys(case.layers))


def convolutions(name: str, case: Case) -> list[Part]:
    """What the design assumes of the convolutions, for each layer: the alternatives side by side, over all steps."""
    return [
        Part(
            _key("first-measurements", name, case, layer, "bfloat16"),
            lambda device, layer=layer: _of(case, layer, device),
        )
        for layer in _distinct(case)
    ]


def _of(case: Case, layer: tuple[int, int], device: torch.device) -> dict[str, Callable[[], object]]:
    in_channels, channels = layer
    width, image = in_channels + channels, (case.batch, case.height, case.width)

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    def forward(dtype: torch.dtype) -> Callable[[], object]:
        inputs = normal(case.steps, *image, width, dtype=dtype)
        convolve = Map(layout, normal(*kernel, width, dtype=dtype))
        out = inputs.new_empty(*image, 4 * channels)
        return lambda: [convolve(step, out=out) for step in inputs]

    kernel = (4 * channels, case.kernel, case.kernel)
    inputs, weight = normal(case.steps, *image, width), normal(*kernel, width)
    grads = normal(case.steps, *image, 4 * channels)
    image_weight = from_rows(weight)
    layout = Layout.of(image_weight, None, case.steps, case.batch, image[1:], triton=True)
    whole, of_hidden, of_input = (
        Map(layout, adjoint_weight(layout, weight, part))
        for part in (slice(None), slice(channels), slice(channels, None))
    )
    full, hidden = grads.new_empty(*image, width), grads.new_empty(*image, channels)

    def by_functional() -> None:
        for step in inputs:
            F.conv2d(step.movedim(-1, 1), image_weight, padding=case.kernel // 2)

    def weight_grad(dtype: torch.dtype, *, by_step: bool = False) -> Callable[[], object]:
        """Of all steps at once, or added up step by step."""
        rows, of_gates, like = (tensor.to(dtype) for tensor in (inputs, grads, weight))
        parts = list(zip(rows, of_gates)) if by_step else [(rows.flatten(0, 1), of_gates.flatten(0, 1))]

        def run() -> Tensor | None:
            total = WeightGrad(layout, like)
            for part in parts:
                total.add(*part)
            return total.result()

        return run

    def split_dx() -> None:
        for grad in grads:
            of_hidden(grad, out=hidden)
        of_input(grads.flatten(0, 1))

    return {
        "forward, bf16": forward(torch.bfloat16),
        "forward, fp16": forward(torch.float16),
        "forward, bf16, F.conv2d": by_functional,
        "dW, step by step": weight_grad(torch.bfloat16, by_step=True),
        "dW, all steps at once, bf16": weight_grad(torch.bfloat16),
        "dW, all steps at once, fp16": weight_grad(torch.float16),
        "dX and dH together": lambda: [whole(grad, out=full) for grad in grads],
        "dH by step, dX at once": split_dx,
    }


def gates(name: str, case: Case, cold_bytes: int) -> list[Part]:
    """The gate kernels of each layer in training, one launch after another.

    Cold, each on tensors of its own, which are not in the cache; hot, all on the same, which are if they fit.
    """
    parts = []
    for layer in _distinct(case):
        for kernel in ("gates_forward", "gates_backward"):
            launch = Launch(kernel, "bf16", layer[1], batch=case.batch, height=case.height, width=case.width)
            moved = _moved_bytes(launch)
            count = min(_MOST_LAUNCHES, max(2, -(-cold_bytes // moved)))
            limit = SLACK * (LAUNCH_SECONDS + moved / BYTES_PER_SECOND)

            def functions(device: torch.device, launch: Launch = launch, count: int = count) -> dict:
                runs = [bind(launch, str(device)) for _ in range(count)]
                return {
                    f"{launch.kernel}, cold": lambda: [run() for run in runs],
                    f"{launch.kernel}, hot": lambda: [runs[0]() for _ in runs],
                }

            dtype = str(DTYPES[launch.dtype]).removeprefix("torch.")
            key = _key("gates", name, case, layer, dtype)
            parts.append(Part(key, functions, count, {f"{kernel}, cold": limit}))
    return parts


def _moved_bytes(launch: Launch) -> int:
    """Bytes that a launch must read and write; bias and peepholes, which every tile shares, left out.

    Forward: pre-activations, c_prev, gates, c, and h twice. Backward: gates, c_prev, dH in two parts, dC in and out,
    dA.
    """
    half = launch.itemsize
    each = {
        "gates_forward": 4 * half + 4 + 4 * half + 4 + 2 * half,
        "gates_backward": 4 * half + 4 + 2 * half + 8 + 4 * half,
    }
    return launch.elements * each[launch.kernel]
