"""What the passes over a sequence are given, keep, and are asked for."""

from typing import NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """In the public layout.

    weight (4C, Cin + C, *kernel), or (4C, C, *kernel) beside input_weight (4C, Cin, *input_kernel).
    """

    weight: Tensor
    input_weight: Tensor | None


class Saved(NamedTuple):
    """What the backward pass keeps.

    The first three are the operator's own arguments and result, in the public layout; only the hoisted schedule reads
    them. The others are in rows; what the schedule or the memory mode does without has no steps.
    """

    input: Tensor | None  # (T, B, Cin, *spatial)
    h0: Tensor | None  # (B, C, *spatial)
    output: Tensor | None  # (T, B, C, *spatial)
    inputs: Tensor  # (T, B, *spatial, width)   [ H_{t-1} | X_t | 0 ]
    cells: Tensor  # (T + 1, B, *spatial, C)    C_{-1} … C_{T-1}
    gates: Tensor  # (T, B, *spatial, 4C)       i, f, g, o, activated


class Needs(NamedTuple):
    """Which gradients are wanted, in the order of the operator's tensor arguments."""

    input: bool
    h0: bool
    c0: bool
    weight: bool
    input_weight: bool
    bias: bool
    peephole: bool
