"""The gates and their gradients in Triton: the only file that launches a kernel.

It allocates what a kernel needs, picks its configuration and lays out its grid. The same code runs on CPU tensors when
Triton interprets (TRITON_INTERPRET=1).
"""

import triton
from torch import Tensor

from ._devices import architecture
from ._layout import Layout, to_rows
from .kernels.gates_backward import gates_backward_kernel
from .kernels.gates_forward import gates_forward_kernel
from .kernels.parameter_grads import parameter_grads_kernel
from .tuning import Config, pick_config

BIAS_IN_CONVOLUTION = False
"""The gate kernel adds the bias as it reads; cuDNN's convolution would do so in a pass of its own."""

SLOTS = 8
"""Steps whose convolution inputs the forward pass holds at once: one copy of X for eight steps, not a third kernel at
each. Not measured."""

ACTIVATES_IN_PLACE = True
"""Gates are written over their pre-activations."""

SKIPS_EMPTY_STATE = False
"""The first step's convolution is as wide as the others, which spares cuDNN a second shape. Not measured."""

_REDUCTION_PROGRAMS = 256
"""Programs among which the parameter reduction is dealt out: about two for each multiprocessor of a large GPU. The
number is fixed, so that sums of one configuration are added in the same order on every run and device. Not
measured."""


def pack_peephole(layout: Layout, peephole: Tensor) -> Tensor:
    """peephole (3, C, *spatial or ones) as dense (3, pixels or 1, C)."""
    return to_rows(peephole).reshape(3, -1, layout.channels).contiguous()


def _config(kernel: str, tensor: Tensor) -> Config:
    return pick_config(kernel, architecture(tensor.device), tensor.element_size(), tensor.shape[-1] // 4)


def _peephole_kind(layout: Layout, peephole: Tensor | None) -> str:
    """How the kernels index a packed peephole (3, pixels or 1, C)."""
    if peephole is None:
        return "none"
    if peephole.shape[1] == 1:
        return "channel"
    return "full"


def new_gates(layout: Layout, like: Tensor, steps: int) -> Tensor:
    """Uninitialised gates (T, B, *spatial, 4C) of so many steps."""
    return layout.new_sequence(like, 4 * layout.channels, steps)


def gates_forward(
    layout: Layout,
    preact: Tensor,
    addend: Tensor | None,
    bias: Tensor | None,
    peephole: Tensor | None,
    c_prev: Tensor | None,
    *,
    activation: str,
    gates: Tensor | None,
    c: Tensor,
    h: Tensor,
    h_next: Tensor | None,
) -> None:
    """One step's gates.

    Reads preact (B, *spatial, 4C), addend, a second part of it, bias (4C), peephole (3, pixels or 1, C) and c_prev
    (B, *spatial, C), None for zero. Writes gates (B, *spatial, 4C), which may be `preact` and is None where nothing is
    to be saved, c, which may be `c_prev`, h, and h_next: h once more, a slot of wider rows. All are dense but h_next.
    """
    config = _config("gates_forward", preact)
    # One program for each tile of BLOCK elements of (M, C).
    grid = (triton.cdiv(layout.rows * layout.channels, config.block),)
    gates_forward_kernel[grid](
        preact_ptr=preact,
        addend_ptr=addend,
        bias_ptr=bias,
        peephole_ptr=peephole,
        c_prev_ptr=c_prev,
        gates_ptr=gates,
        c_ptr=c,
        h_ptr=h,
        h_next_ptr=h_next,
        n_rows=layout.rows,
        n_pixels=layout.pixels,
        C=layout.channels,
        stride_h_next_row=0 if h_next is None else h_next.stride(-2),
        HAS_ADDEND=addend is not None,
        HAS_BIAS=bias is not None,
        HAS_C_PREV=c_prev is not None,
        PEEPHOLE=_peephole_kind(layout, peephole),
        ACTIVATION=activation,
        SAVE_GATES=gates is not None,
        HAS_H_NEXT=h_next is not None,
        BLOCK=config.block,
        num_warps=config.num_warps,
    )


def gates_backward(
    layout: Layout,
    gates: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    c_prev: Tensor,
    c: Tensor,
    *,
    activated: bool,
    activation: str,
    grad_output: Tensor | None,
    grad_h: Tensor,
    grad_c: Tensor,
    grad_preact: Tensor,
) -> None:
    """One step's gate gradients.

    Reads gates (B, *spatial, 4C), activated or, to be so here, their pre-activations without bias, bias (4C), peephole
    (3, pixels or 1, C), c_prev (B, *spatial, C), and dH_t in two parts: grad_output (B, *spatial, C) with any strides,
    None for zero, from the loss, and grad_h, a slot of rows, from the step after. c is not read: it is
    made again. grad_c (B, *spatial, C) comes as dC_t and becomes dC_{t-1}. Writes grad_preact (B, *spatial, 4C), which
    may be `gates`.
    """
    config = _config("gates_backward", gates)
    if grad_output is None:
        kind, strides = "none", (0, 0, 0, 0)
    else:
        kind = "dense" if grad_output.is_contiguous() else "strided"
        batch, *spatial, channel = grad_output.stride()
        strides = (batch, *([0] * (2 - len(spatial))), *spatial, channel)
    # One program for each tile of BLOCK elements of (M, C).
    grid = (triton.cdiv(layout.rows * layout.channels, config.block),)
    gates_backward_kernel[grid](
        gates_ptr=gates,
        bias_ptr=None if activated else bias,
        peephole_ptr=peephole,
        c_prev_ptr=c_prev,
        grad_output_ptr=grad_output,
        grad_h_ptr=grad_h,
        grad_c_ptr=grad_c,
        grad_preact_ptr=grad_preact,
        n_rows=layout.rows,
        n_pixels=layout.pixels,
        width=layout.spatial[-1] if layout.spatial else 1,
        stride_grad_output_b=strides[0],
        stride_grad_output_h=strides[1],
        stride_grad_output_w=strides[2],
        stride_grad_output_c=strides[3],
        C=layout.channels,
        stride_grad_h_row=grad_h.stride(-2),
        ACTIVATED=activated,
        HAS_BIAS=bias is not None and not activated,
        PEEPHOLE=_peephole_kind(layout, peephole),
        ACTIVATION=activation,
        GRAD_OUTPUT=kind,
        BLOCK=config.block,
        num_warps=config.num_warps,
    )


class ParameterGrads:
    """Sums of dA and dA∘C over a sequence that arrives in chunks of time.

    `peephole_pixels` is the packed peephole's (1 or H·W), 0 where its gradient is not wanted; `like` has the dtype and
    the device of the sums, dA elements of `itemsize` bytes.
    """

    def __init__(self, layout: Layout, like: Tensor, *, bias: bool, peephole_pixels: int, itemsize: int):
        self._layout = layout
        self._bias = bias
        self._peephole = peephole_pixels > 0
        self._pixels = max(peephole_pixels, 1)
        columns = self._pixels * layout.channels
        self._column_block = min(triton.next_power_of_2(columns), 256)
        self._column_programs = triton.cdiv(columns, self._column_block)
        self._config = pick_config("parameter_grads", architecture(like.device), itemsize, layout.channels)
        self._repeat_block = max(1, self._config.block // self._column_block)
        most_repeats = layout.steps * layout.rows // self._pixels
        splits = min(
            triton.cdiv(_REDUCTION_PROGRAMS, self._column_programs), triton.cdiv(most_repeats, self._repeat_block)
        )
        self._sums = like.new_zeros(splits, 7, self._pixels, layout.channels)

    def add(self, grad_preact: Tensor, c_prev: Tensor, c: Tensor) -> None:
        """Add a chunk: grad_preact (steps, B, *spatial, 4C), c_prev and c (steps, B, *spatial, C), all dense."""
        repeats = len(grad_preact) * self._layout.rows // self._pixels
        splits = len(self._sums)
        # One program for each block of columns and split of the repeats.
        parameter_grads_kernel[self._column_programs, splits](
            grad_preact_ptr=grad_preact,
            c_prev_ptr=c_prev,
            c_ptr=c,
            sums_ptr=self._sums,
            n_repeats=repeats,
            n_pixels=self._pixels,
            repeats_per_split=triton.cdiv(repeats, splits),
            C=self._layout.channels,
            HAS_BIAS=self._bias,
            HAS_PEEPHOLE=self._peephole,
            BLOCK_REPEATS=self._repeat_block,
            BLOCK_COLUMNS=self._column_block,
            num_warps=self._config.num_warps,
        )

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        """The sums so far: of the bias (4C), and of the packed peephole (3, pixels, C)."""
        sums = self._sums.sum(0)
        bias = sums[:4].sum(1).flatten() if self._bias else None
        return bias, sums[4:] if self._peephole else None
