"""The launches that the sequence operator makes, one kernel at a time.

On the meta device they show how a kernel is specialised; on a GPU they are what is timed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .. import _launch
from .._layout import Layout

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

VARIANTS = {
    "gates_forward": ("channel", "none", "full", "hoisted"),
    "gates_backward": ("channel", "none", "full", "strided", "recompute"),
    "parameter_grads": ("channel", "none", "full"),
}
"""The kinds of peephole, and what else specialises a kernel, with peepholes by channel: "hoisted", a second addend and
no slot for h; "strided", an output gradient that is not dense; "recompute", gates from their pre-activations."""

_STEPS = 4
"""Steps whose gradients the parameter reduction adds at once: a chunk of a sequence."""


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
    def elements(self) -> int:
        """B·H·W·C of a step."""
        return self.batch * self.height * self.width * self.channels

    @property
    def narrowest_access(self) -> int:
        """The bytes that every global access may have at least: a power of two of channels, up to 16 bytes.

        The few sums that a program of the parameter reduction owns are read and written once, in float32, and a
        gradient with strides of its own is read element by element: they may be as narrow as an element.
        """
        if self.variant == "strided":
            return self.itemsize
        most = 4 if self.kernel == "parameter_grads" else 16
        return min(most, self.itemsize * (self.channels & -self.channels))


def bind(launch: Launch, device: str) -> Callable[[], None]:
    """A function that calls the launcher of the kernel on tensors of its own: random on a GPU, without data on meta.

    `parameter_grads` picks its configuration here, the others at every call. Calls add up in place, so their results
    are good for timing alone.
    """
    dtype, channels = DTYPES[launch.dtype], launch.channels
    layout = Layout(_STEPS, launch.batch, (launch.height, launch.width), channels, channels, multiple=8)

    def normal(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device).normal_()

    pixels = {"none": 0, "full": layout.pixels}.get(launch.variant, 1)
    peephole = normal(3, pixels, channels) if pixels else None
    bias = normal(4 * channels)

    def gates_forward() -> Callable[[], None]:
        hoisted = launch.variant == "hoisted"
        gates, cells = normal(*layout.step_shape(4 * channels)), normal(*layout.step_shape(channels)).float()
        addend = torch.empty_like(gates).normal_() if hoisted else None
        # Not in place, as in a layer: a launch after another would activate what is activated.
        activated = torch.empty_like(gates)
        c, h = torch.empty_like(cells), torch.empty_like(gates[..., :channels]).contiguous()
        slot = normal(*layout.step_shape(layout.width))[..., layout.hidden_slot]
        h_next = None if hoisted else slot

        def run() -> None:
            _launch.gates_forward(
                layout, gates, addend, bias, peephole, cells,
                activation="tanh", gates=activated, c=c, h=h, h_next=h_next,
            )  # fmt: skip

        return run

    def gates_backward() -> Callable[[], None]:
        gates, cells = normal(*layout.step_shape(4 * channels)).sigmoid_(), normal(*layout.step_shape(channels)).float()
        images = normal(*layout.step_shape(channels))
        grad_output = images.transpose(1, 2) if launch.variant == "strided" else images
        grad_h = normal(*layout.step_shape(layout.width))[..., layout.hidden_slot]
        c, grad_c, grad_preact = torch.empty_like(cells), torch.empty_like(cells).normal_(), torch.empty_like(gates)
        activated = launch.variant != "recompute"

        def run() -> None:
            _launch.gates_backward(
                layout, gates, bias, peephole, cells, c, activated=activated,
                activation="tanh", grad_output=grad_output, grad_h=grad_h, grad_c=grad_c, grad_preact=grad_preact,
            )  # fmt: skip

        return run

    def parameter_grads() -> Callable[[], None]:
        grad_preact = normal(*layout.sequence_shape(4 * channels))
        cells = normal(*layout.sequence_shape(channels, _STEPS + 1), dtype=torch.float32)
        sums = _launch.ParameterGrads(
            layout, like=cells, bias=True, peephole_pixels=pixels, itemsize=grad_preact.element_size()
        )
        return lambda: sums.add(grad_preact, cells[:-1], cells[1:])

    binders = {
        "gates_forward": gates_forward,
        "gates_backward": gates_backward,
        "parameter_grads": parameter_grads,
    }
    return binders[launch.kernel]()
