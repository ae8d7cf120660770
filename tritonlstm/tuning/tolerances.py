"""The one table of tolerances: for the tests, for the check of a tuning candidate and for the benchmarks.

PyTorch's own error is the budget: a result may be at most twice as far from the float64 oracle as plain PyTorch
(`tritonlstm.reference` with every tensor in that dtype), plus a floor of a few roundings of the largest value. Errors
are the largest absolute difference.
"""

import torch
from torch import Tensor

FACTOR = 2.0

FLOOR = {
    torch.float64: 2.0**-44,
    torch.float32: 2.0**-20,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
"""Relative to the largest value of the oracle: one rounding of a half type, 16 of float32, 512 of float64, whose oracle
is itself computed in float64."""


def largest_error(result: Tensor, oracle: Tensor) -> float:
    """The largest absolute difference, 0 for empty tensors. They may be on different devices."""
    if oracle.numel() == 0:
        return 0.0
    return (result.double() - oracle.to(result.device)).abs().max().item()


def budget(plain: Tensor, oracle: Tensor, dtype: torch.dtype) -> float:
    """The largest error that a result in `dtype` may have, given plain PyTorch's result in the same dtype."""
    if oracle.numel() == 0:
        return 0.0
    return FACTOR * largest_error(plain, oracle) + FLOOR[dtype] * oracle.abs().max().item()
