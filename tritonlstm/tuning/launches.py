"""What is timed: the launches that the sequence operator makes, one kernel at a time, and whole layers.

On the meta device a launch shows how its kernel is specialised.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..cells import BackwardMarks, BackwardStep, ForwardMarks, ForwardStep
from ..cells.triton import TritonCell
from ..core.layout import Layout
from ..core.spec import Spec
from ..functional import conv_lstm
from ..launch.tables import ConfigKey, ScheduleKey
from .cases import Case
from .random_layers import random_layer

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

VARIANTS = {
    "gates_forward": ("channel", "none", "full", "hoisted", "clipped", "marks"),
    "gates_backward": ("channel", "none", "full", "strided", "recompute", "clipped", "marks"),
    "parameter_grads": ("channel", "none", "full"),
}
"""The kinds of peephole, and what else specialises a kernel, with peepholes by channel: "hoisted", a second addend and
no slot for h; "strided", an output gradient that is not dense; "recompute", gates from their pre-activations;
"clipped", a bound of c and other activations; "marks", samples that are held and reset to a state that learns."""

MODES = ("inference", "training")

_STEPS = 4
"""Steps whose gradients the parameter reduction adds at once: a chunk of a sequence."""

_MOVED = {
    "gates_forward": (4 + 4 + 2, 2),
    "gates_backward": (4 + 2 + 4, 3),
    "parameter_grads": (4 * _STEPS, 2 * _STEPS),
}
"""Numbers of the layer's dtype and of float32 that a launch must read and write for each element of c. Forward:
pre-activations, gates, h twice; c_prev, c. Backward: gates, dH in two parts, dA; c_prev, dC in and out. The reduction:
dA; c_prev, c. Bias and peepholes, which every tile shares, are left out."""


@dataclass(frozen=True)
class Launch:
    """One step of a layer with as many input channels as C, in training. `variant` is one of the kernel's VARIANTS."""

    kernel: str
    dtype: str
    channels: int
    variant: str = "channel"
    batch: int = 8
    height: int = 16
    width: int = 16

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def key(self) -> ConfigKey:
        """What its configuration depends on."""
        return ConfigKey(self.kernel, self.itemsize, self.channels)

    @property
    def elements(self) -> int:
        """B·H·W·C of a step."""
        return self.batch * self.height * self.width * self.channels

    @property
    def nbytes(self) -> int:
        """What it must read and write, as the variant "channel"."""
        own, floats = _MOVED[self.kernel]
        return self.elements * (own * self.itemsize + floats * torch.float32.itemsize)

    @property
    def narrowest_access(self) -> int:
        """The bytes that every global access may have at least: a power of two of channels, up to 16 bytes.

        The few sums that a program of the parameter reduction owns are read and written once, in float32, and a
        gradient with strides of its own is read element by element: they may be as narrow as an element.
        """
        if self.variant == "strided":
            return self.itemsize
        if self.variant == "marks":
            return 1  # one for each sample
        most = 4 if self.kernel == "parameter_grads" else 16
        return min(most, self.itemsize * (self.channels & -self.channels))


@dataclass(frozen=True)
class Layer:
    """One ConvLSTM layer over a sequence: a case with one layer. `mode` is one of MODES."""

    dtype: str
    case: Case
    mode: str

    @property
    def key(self) -> ScheduleKey:
        """What its schedule depends on."""
        ((in_channels, channels),) = self.case.layers
        return ScheduleKey(DTYPES[self.dtype].itemsize, in_channels, channels, (self.case.kernel,) * 2)


def bind(launch: Launch, device: str) -> Callable[[], None]:
    """A function that launches the kernel through the cell, on tensors of its own: random on a GPU, empty on meta.

    `parameter_grads` picks its configuration here, the others at every call. Calls add up in place, so their results
    are good for timing alone.
    """
    dtype, channels = DTYPES[launch.dtype], launch.channels
    layout = Layout(_STEPS, launch.batch, (launch.height, launch.width), channels, channels, multiple=8)

    def normal(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device).normal_()

    sizes = {"none": None, "full": (launch.height, launch.width)}.get(launch.variant, (1, 1))
    peephole = None if sizes is None else normal(3, *sizes, channels)
    bias = normal(4 * channels)
    memory, gates = "recompute" if launch.variant == "recompute" else "save", {}
    if launch.variant == "clipped":
        gates = {"activation": "leaky_relu", "output_activation": "tanh", "cell_clip": 3.0}
    spec = Spec(backend="triton", memory=memory, **gates)
    cell = TritonCell(layout, spec, bias, bias, peephole)
    rows = partial(normal, *layout.step_shape(channels))
    marked = launch.variant == "marks"
    some_marks = torch.zeros(launch.batch, dtype=torch.uint8, device=device)

    if launch.kernel == "gates_forward":
        hoisted = launch.variant == "hoisted"
        marks = ForwardMarks(some_marks, rows(), rows(), rows(dtype=torch.float32), rows()) if marked else None
        preact, cells = normal(*layout.step_shape(4 * channels)), rows(dtype=torch.float32)
        step = ForwardStep(
            preact=preact,
            addend=torch.empty_like(preact).normal_() if hoisted else None,
            c_prev=cells,
            gates=torch.empty_like(preact),  # not in place: a second launch would activate gates
            c=torch.empty_like(cells),
            h=rows(),
            h_next=None if hoisted else normal(*layout.step_shape(layout.width))[..., layout.hidden_slot],
            marks=marks,
        )
        return lambda: cell.forward(step)
    if launch.kernel == "gates_backward":
        gates, cells = normal(*layout.step_shape(4 * channels)).sigmoid_(), rows(dtype=torch.float32)
        batch, *image, _ = layout.step_shape(channels)
        strided = normal(batch, *reversed(image), channels).transpose(1, 2)
        step = BackwardStep(
            gates=gates,
            c_prev=cells,
            c=torch.empty_like(cells),
            grad_output=strided if launch.variant == "strided" else rows(),
            grad_h=normal(*layout.step_shape(layout.width))[..., layout.hidden_slot],
            grad_c=torch.empty_like(cells).normal_(),
            grad_preact=torch.empty_like(gates),
            marks=BackwardMarks(some_marks, *(rows(dtype=torch.float32) for _ in range(4))) if marked else None,
        )
        return lambda: cell.backward(step)
    grad_preact = normal(_STEPS, *layout.step_shape(4 * channels))
    cells = normal(_STEPS + 1, *layout.step_shape(channels), dtype=torch.float32)
    sums = cell.parameter_grads(cells, bias=True, peephole=peephole is not None)
    return lambda: sums.add(grad_preact, cells[:-1], cells[1:])


def bind_layer(layer: Layer, schedule: str, device: str) -> Callable[[], object]:
    """A run of the layer with random parameters over a random sequence: its inference, or its training step."""
    case, dtype, training = layer.case, DTYPES[layer.dtype], layer.mode == "training"
    _, in_channels, channels, kernel = layer.key
    parameters = random_layer(torch.Generator(device).manual_seed(0), dtype, in_channels, channels, kernel)
    input, cotangent = (
        torch.randn(case.steps, case.batch, of, case.height, case.width, dtype=dtype, device=device)
        for of in (in_channels, channels)
    )
    leaves = [tensor.requires_grad_(training) for tensor in (input, *parameters) if tensor is not None]
    input, *parameters = leaves
    call = partial(conv_lstm, input, None, *parameters, backend="triton", schedule=schedule)
    if not training:
        return torch.no_grad()(call)
    return lambda: torch.autograd.grad(call()[0], leaves, cotangent)
