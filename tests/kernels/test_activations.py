"""The kernels' activations, run one by one over the whole range of float32."""

import pytest
import torch
import triton
import triton.language as tl
from tritonlstm.kernels import activations

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK = 1024


@triton.jit
def _apply_kernel(x_ptr, y_ptr, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    if FUNCTION == "sigmoid":
        y = activations.sigmoid(x)
    else:
        y = activations.activate(x, FUNCTION)
    tl.store(y_ptr + offsets, y)


def apply(function: str, x: torch.Tensor) -> torch.Tensor:
    y = torch.full_like(x, -7.0)
    _apply_kernel[(x.numel() // BLOCK,)](x, y, FUNCTION=function, BLOCK=BLOCK)
    return y


def whole_range() -> torch.Tensor:
    positive = torch.cat([torch.logspace(-30, 4, 7 * BLOCK), torch.linspace(0, 20, BLOCK)])
    return torch.cat([positive, -positive]).to(DEVICE)


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "relu"])
def test_is_accurate_over_the_whole_range(function: str):
    x = whole_range()
    expected = getattr(torch, function)(x.double())
    relative = (apply(function, x) - expected) / expected.abs().clamp(min=1e-30)
    assert relative.abs().max() < 2.0**-20


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "relu"])
def test_infinity_saturates_and_nan_passes(function: str):
    x = torch.full((BLOCK,), float("nan"), device=DEVICE)
    x[1:] = float("inf")
    x[512:] = -float("inf")
    y = apply(function, x)
    torch.testing.assert_close(y, getattr(torch, function)(x), rtol=0, atol=0, equal_nan=True)
