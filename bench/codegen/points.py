"""The launches that are compiled: kernels × dtypes × channels × peepholes × architectures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from tritonlstm import _launch
from tritonlstm._layout import Layout, from_rows, pack_inputs

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Point:
    """One compilation. `variant` is a peephole kind, or "strided" for a gradient that is not dense."""

    kernel: str
    dtype: str
    channels: int
    variant: str
    arch: str

    @property
    def key(self) -> str:
        return f"{self.kernel}/{self.dtype}/C{self.channels}/{self.variant}/{self.arch}"

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize


ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
KERNELS = ("gates_forward", "gates_backward", "parameter_grads")
CHANNELS = (1, 3, 17, 64, 96, 130)


def points(architectures: tuple[str, ...] = ARCHITECTURES) -> Iterator[Point]:
    """Every channel class in bf16 and fp32 with channel peepholes; the other variants at 64 channels."""
    for arch in architectures:
        for kernel in KERNELS:
            for dtype in ("bf16", "fp32"):
                for channels in CHANNELS:
                    yield Point(kernel, dtype, channels, "channel", arch)
                for variant in ("none", "full", *(["strided"] if kernel == "gates_backward" else [])):
                    yield Point(kernel, dtype, 64, variant, arch)
            yield Point(kernel, "fp16", 64, "channel", arch)


def launch(point: Point) -> None:
    """Call the launcher of the point's kernel as the sequence operator does, on tensors without data."""
    dtype, channels = DTYPES[point.dtype], point.channels
    steps, batch, height, width = 4, 8, 16, 16
    weight = torch.empty(4 * channels, 2 * channels, 3, 3, dtype=dtype, device="meta")
    layout = Layout.of(weight, steps, batch, (height, width), triton=True)
    peephole_pixels = {"none": 0, "full": layout.pixels}.get(point.variant, 1)
    peephole = weight.new_empty(3, peephole_pixels, channels) if peephole_pixels else None
    gates = weight.new_empty(layout.sequence_shape(4 * channels))
    cells = weight.new_empty(layout.sequence_shape(channels, steps + 1), dtype=torch.float32)
    rows = weight.new_empty(layout.sequence_shape(channels))
    inputs = pack_inputs(None, from_rows(rows[0]), layout)
    slot = inputs[1, ..., layout.hidden_slot]

    def gates_forward() -> None:
        _launch.gates_forward(
            layout,
            gates[0],
            weight.new_empty(4 * channels),
            peephole,
            cells[0],
            activation="tanh",
            gates=gates[0],
            c=cells[1],
            h=rows[0],
            h_next=slot,
        )

    def gates_backward() -> None:
        images = rows.transpose(2, 3) if point.variant == "strided" else rows
        _launch.gates_backward(
            layout,
            gates[0],
            peephole,
            cells[0],
            activation="tanh",
            grad_output=images[0],
            grad_h=slot,
            grad_c=cells[1],
            grad_preact=weight.new_empty(gates.shape[1:]),
        )

    def parameter_grads() -> None:
        sums = _launch.ParameterGrads(
            layout, like=cells, bias=True, peephole_pixels=peephole_pixels, itemsize=dtype.itemsize
        )
        sums.add(gates, cells[:-1], cells[1:])

    launchers: dict[str, Callable[[], None]] = {
        "gates_forward": gates_forward,
        "gates_backward": gates_backward,
        "parameter_grads": parameter_grads,
    }
    launchers[point.kernel]()
