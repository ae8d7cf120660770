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

    The first three are the layer's own arguments and result, no copies, in the public layout. The others are in rows;
    where the gates are made again, there are none. Gates computed in ATen calls lie apart, (T, 4, B, *spatial, C).
    """

    input: Tensor | None  # (T, B, Cin, *spatial)
    h0: Tensor | None  # (B, C, *spatial)
    output: Tensor  # (T, B, C, *spatial)
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
