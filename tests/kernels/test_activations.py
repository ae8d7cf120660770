"""The kernels' activations, run one by one over the whole range of float32."""

import pytest
import torch

from tests.support.activations import apply_kernel, slope_kernel
from tritonlstm.reference import ACTIVATIONS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK = 1024


def apply(function: str, x: torch.Tensor) -> torch.Tensor:
    y = torch.full_like(x, -7.0)
    apply_kernel[(x.numel() // BLOCK,)](x, y, FUNCTION=function, BLOCK=BLOCK)
    return y


def whole_range() -> torch.Tensor:
    positive = torch.cat([torch.logspace(-30, 4, 7 * BLOCK), torch.linspace(0, 20, BLOCK)])
    return torch.cat([positive, -positive]).to(DEVICE)


each_function = pytest.mark.parametrize("function", ACTIVATIONS)


@each_function
def test_is_accurate_over_the_whole_range(function: str):
    x = whole_range()
    expected = ACTIVATIONS[function].apply(x.double())
    # A hard sigmoid is a sum, which cancels where it reaches zero. Below the smallest normal number others may be zero.
    atol = 2.0**-23 if "hard" in function else 2.0**-126
    torch.testing.assert_close(apply(function, x).double(), expected, rtol=2.0**-20, atol=atol)


@each_function
def test_a_slope_is_a_function_of_the_value(function: str):
    value, grad = torch.linspace(-1.5, 1.5, BLOCK, device=DEVICE), torch.randn(BLOCK, device=DEVICE)
    value[0], value[1] = 0, 1  # where a hard sigmoid is clipped
    got = torch.full_like(grad, -7.0)
    slope_kernel[(1,)](grad, value, got, FUNCTION=function, BLOCK=BLOCK)
    expected = grad.double() * ACTIVATIONS[function].slope(value.double())
    torch.testing.assert_close(got.double(), expected, rtol=2.0**-20, atol=2.0**-22)


@each_function
def test_infinity_saturates_and_nan_passes(function: str):
    x = torch.full((BLOCK,), float("nan"), device=DEVICE)
    x[1:] = float("inf")
    x[512:] = -float("inf")
    y = apply(function, x)
    torch.testing.assert_close(y, ACTIVATIONS[function].apply(x), rtol=0, atol=0, equal_nan=True)
