"""The compiled activations over all of float32, with every error that the hardware's instructions may make.

The bounds follow from the algebra in kernels/activations.py. With u = 2⁻²⁴, the unit roundoff, ex2 errs by 4u and rcp
by 2u; the exponent of eˣ is rounded, and log₂ e by u/4: |x|·5u/4 more.
"""

import math

import pytest
import torch

from tests.support.activations import apply_kernel
from tests.support.ptx.launch import Device, Kernel
from tritonlstm.reference import ACTIVATIONS

BLOCK, U = 1024, 2.0**-24
SMALLEST = 2.0**-126
"""The smallest normal number: what is smaller may be zero."""


def compiled(function: str, x: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
    padded = torch.nn.functional.pad(x, (0, -len(x) % BLOCK))
    y = torch.full_like(padded, -7.0)
    Kernel(apply_kernel, Device(shift))[(len(padded) // BLOCK,)](padded, y, FUNCTION=function, BLOCK=BLOCK, num_warps=4)
    return y[: len(x)]


def whole_range() -> torch.Tensor:
    """Numbers of every exponent, more of them where the activations bend, and the ends of the range."""
    numbers = torch.randint(0, 0x7F800000, (4 * BLOCK,), dtype=torch.int32).view(torch.float32)
    bends = torch.cat([torch.linspace(0, 1, 2 * BLOCK), torch.linspace(1, 110, 2 * BLOCK)])
    edges = torch.tensor([0.0, 2.0**-149, 2.0**-127, SMALLEST, 0.25, 87.0, 88.0, 89.0, 3.4e38])
    positive = torch.cat([numbers, bends, edges, torch.nextafter(edges, torch.tensor(torch.inf))])
    return torch.cat([positive, -positive])


def bound(function: str, x: torch.Tensor) -> torch.Tensor:
    """The relative error that the algebra allows, in float64."""
    size = x.abs()
    if function == "sigmoid":
        e = torch.exp(-x)
        share = torch.where(e.isinf(), 1.0, e / (1 + e))  # of the error of e in that of 1 + e
        return share * (4 + 1.25 * size.clamp(max=200)) * U + (1 + 2) * U
    e = torch.exp(-2 * size)
    of_e = (4 + 2.5 * size.clamp(max=200)) * U
    far = (e / (1 - e) + e / (1 + e)) * of_e + (1 + 1 + 2 + 1) * U
    return torch.where(size < 0.25, 8 * U, far)


@pytest.mark.parametrize("shift", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
def test_errors_stay_within_what_the_algebra_allows(function: str, shift: float):
    x = whole_range()
    got, exact = compiled(function, x, shift).double(), ACTIVATIONS[function].apply(x.double())
    allowed = bound(function, x.double()) * exact.abs() * (1 + 1e-3) + SMALLEST
    error = (got - exact).abs()
    worst = (error / allowed).argmax()
    assert (error <= allowed).all(), (x[worst], got[worst], exact[worst])
    # The bound is no looser than the hardware's errors make it.
    assert shift == 0 or (error / allowed).max() > 0.5


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_infinity_saturates_nan_passes_and_signs_of_zero_stay(function: str):
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])
    expected = ACTIVATIONS[function].apply(x)
    torch.testing.assert_close(compiled(function, x), expected, rtol=0, atol=0, equal_nan=True)
    if function == "tanh":
        assert torch.equal(compiled(function, x[3:]).signbit(), torch.tensor([False, True]))
