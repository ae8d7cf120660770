"""The one table of tolerances.

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


def budget(reference: Tensor, oracle: Tensor, dtype: torch.dtype) -> float:
    """The largest error that a result may have, from that of PyTorch's in `dtype`, `reference`."""
    if oracle.numel() == 0:
        return 0.0
    return (FACTOR * (reference.double() - oracle).abs().max() + FLOOR[dtype] * oracle.abs().max()).item()


def assert_within(name: str, got: Tensor, oracle: Tensor, budget: float) -> float:
    """`got` is as near to the float64 `oracle` as its budget allows. Returns the part of it that it takes."""
    assert got.shape == oracle.shape, f"{name}: shape {tuple(got.shape)}, oracle {tuple(oracle.shape)}"
    if got.numel() == 0:
        return 0.0
    assert got.isfinite().all(), f"{name}: not finite"
    error = (got.double() - oracle).abs().max().item()
    assert error <= budget, f"{name}: error {error:.3e}, budget {budget:.3e}"
    return error / budget if budget > 0 else 0.0
