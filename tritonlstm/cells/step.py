"""The tensors of one time step, as a cell gets them. All are NHWC rows (B, *spatial, channels) and dense but for slots
of wider rows, `h_next` and `grad_h`, and for `grad_output`, which may have any strides."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class ForwardMarks:
    """Of a step where samples may be reset or held (see `core.marks`). Its `h` is what the step after reads."""

    marks: Tensor  # (B), with RESET_NEXT
    h_prev: Tensor  # C, dense; may be the step's h
    reset_h: Tensor | None  # C, dense; None where nothing is reset
    reset_c: Tensor | None  # C, dense
    output: Tensor  # C, written: what the layer returns


@dataclass(slots=True)
class BackwardMarks:
    """As `ForwardMarks`. `grad_output` is of what the layer returned."""

    marks: Tensor  # (B), with RESET_NEXT
    reset_c: Tensor | None  # C, dense
    grad_held: Tensor  # C, in: of dH_t, what bypassed the step after, held; out: of dH_{t-1}, what bypasses this one
    grad_reset_h: Tensor | None  # C, sums that the step adds to; None where they are not wanted
    grad_reset_c: Tensor | None  # C


@dataclass(slots=True)
class ForwardStep:
    """Reads preact, addend and c_prev; writes the others."""

    preact: Tensor  # 4C, may be overwritten
    addend: Tensor | None  # 4C, a second part of the pre-activations
    c_prev: Tensor  # C
    gates: Tensor | None  # one step of what `Cell.new_gates` made; None where nothing is to be saved
    c: Tensor  # C, may be c_prev
    h: Tensor  # C
    h_next: Tensor | None  # C, h once more: a slot of the next convolution's rows; h_n at the last step
    marks: ForwardMarks | None = None


@dataclass(slots=True)
class BackwardStep:
    """Reads all but grad_preact; writes that, and grad_c."""

    gates: Tensor  # as saved; where the gates are recomputed, the pre-activations (4C) without what the cell adds
    c_prev: Tensor  # C
    c: Tensor  # C
    grad_output: Tensor | None  # C, from the loss; None for zero
    grad_h: Tensor  # C, from the step after
    grad_c: Tensor  # C, in: dC_t from the step after; out: dC_{t-1}
    grad_preact: Tensor  # 4C, may be the pre-activations
    marks: BackwardMarks | None = None
