"""A layer's tensors, in the one order that operators, autograd and engines share."""

from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """The inputs of a layer. The same tuple holds their gradients, and flags for which gradients are needed.

    Absent tensors are None. weight is (4C, Cin + C, *kernel), or (4C, C, *kernel) beside an input_weight. An input for
    which neither has columns is what the caller computed of it: its part of the pre-activations, (T, B, 4C, *spatial).
    """

    input: Tensor | None  # (T, B, Cin, *spatial)
    h0: Tensor | None  # (B, C, *spatial)
    c0: Tensor | None  # (B, C, *spatial)
    weight: Tensor
    input_weight: Tensor | None  # (4C, Cin, *input_kernel)
    bias: Tensor | None  # (4C)
    peephole: Tensor | None  # (3, C, *spatial or ones)    w_ci, w_cf, w_co
    # Of sequences where samples are reset, held or end before others; see `core.marks`.
    marks: Tensor | None = None  # (T, B)
    reset_h: Tensor | None = None  # (B, C, *spatial)    what a reset sets h to; None where nothing is reset
    reset_c: Tensor | None = None  # (B, C, *spatial)

    @property
    def channels(self) -> int:
        """C."""
        return self.weight.shape[0] // 4

    @property
    def in_channels(self) -> int:
        """Cin."""
        return self.weight.shape[1] - self.channels if self.input_weight is None else self.input_weight.shape[1]

    @property
    def is_precomputed(self) -> bool:
        """Whether `input` is its part of the pre-activations."""
        return self.input is not None and self.in_channels == 0


UNMARKED = 7
"""How many of the `Arguments` there are where no sample is marked; the first."""


class Results(NamedTuple):
    """What a layer returns; the same tuple holds the gradients that come back."""

    output: Tensor  # (T, B, C, *spatial); (1, …) or (T, …) where a call returns the last step alone
    h_n: Tensor  # (B, C, *spatial)
    c_n: Tensor  # (B, C, *spatial); (T, …), c at every step, where a call returns that


class Saved(NamedTuple):
    """What the forward pass made and the backward pass reads.

    `gates` is opaque to all but the cell that made it, and empty where the backward pass recomputes the gates.
    """

    output: Tensor  # (T, B, C, *spatial)    h as the step after reads it: with marks not what the layer returns
    cells: Tensor  # (T + 1, B, *spatial, C)    C_{-1} … C_{T-1}; reversed, C_0 … C_T with C_T the one that came in
    gates: Tensor
