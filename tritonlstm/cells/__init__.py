"""The pointwise part of a step, gates and cell state: one cell that launches Triton kernels, one of ATen calls, and one
that Inductor compiles for a CPU."""

import functools
from typing import Protocol

from torch import Tensor

from ..core.backend import check_interpreter
from ..core.layout import Layout
from ..core.spec import Spec
from .step import BackwardMarks, BackwardStep, ForwardMarks, ForwardStep


class ParameterGrads(Protocol):
    """Sums of dA and dA∘C over a sequence that arrives in chunks of time."""

    def add(self, grad_preact: Tensor, c_prev: Tensor, c: Tensor) -> None:
        """A chunk: grad_preact (steps, B, *spatial, 4C), c_prev and c (steps, B, *spatial, C), all dense."""

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of bias (4C) and peephole (3, …, C), those that are wanted."""


class Cell(Protocol):
    """The gates of one layer, with its parameters. `bias` is what the convolution has to add.

    `like` has the dtype of the pre-activations; bias is (4C), peephole (3, *spatial or ones, C) as `rows` returns it.
    """

    bias: Tensor | None

    def __init__(self, layout: Layout, spec: Spec, like: Tensor, bias: Tensor | None, peephole: Tensor | None): ...

    @staticmethod
    def rows(images: Tensor) -> Tensor:
        """Images (…, C, *spatial) as rows (…, *spatial, C) that this cell reads: without a copy where it can."""

    @staticmethod
    def new_gates(like: Tensor, steps: int) -> Tensor:
        """Uninitialised gates to save, in the cell's own form, of so many steps, beside dense rows (B, *spatial, C)."""

    def preact_buffers(self, gates: Tensor) -> list[Tensor | None]:
        """For each step, the tensor its convolution should write to, given the gates; None if it may allocate one."""

    def forward(self, step: ForwardStep) -> None: ...

    def backward(self, step: BackwardStep) -> None: ...

    def parameter_grads(self, like: Tensor, *, bias: bool, peephole: bool) -> ParameterGrads:
        """An accumulator of the gradients that are wanted; `like` has the dtype and the device of the sums."""


def cell_type(spec: Spec) -> type[Cell]:
    """The cell for a resolved backend."""
    if spec.backend == "triton":
        return _triton_cell()
    if spec.backend == "inductor":
        from .compiled import CompiledCell  # imports the compiler's tracer

        return CompiledCell
    from .aten import AtenCell

    return AtenCell


@functools.cache
def _triton_cell() -> type[Cell]:
    check_interpreter()  # before the kernels are defined
    from .triton import TritonCell  # imports Triton, which not every platform has

    return TritonCell


__all__ = ["BackwardMarks", "BackwardStep", "Cell", "ForwardMarks", "ForwardStep", "ParameterGrads", "cell_type"]
