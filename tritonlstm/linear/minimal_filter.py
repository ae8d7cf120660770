"""Filters with fewer multiplications than taps times results.

A filter of k taps gives m results from N = m + k - 1 numbers, bilinearly and with P products (Winograd 1980),

    y = output · ((weight · w) ∘ (input · x))         w (k), x (N), y (m)

and, transposed, the gradient of its taps: weightᵀ · ((outputᵀ · dy) ∘ (input · x)).

The products are values of polynomials at 0, ∞ and the roots of unity, of which a conjugate pair takes three products
(complex points: Meng and Brothers 2019, arXiv:1901.01965). Errors are about half of those of a sum over all taps; at
more real points, the usual choice, they would be ten times as large.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

AT_ONE = 2
"""Which product is of the values at 1, as `minimal_filter` orders them: what is added to it is added to each result."""


class Filter(NamedTuple):
    weight: Tensor  # (P, k)
    input: Tensor  # (P, N)
    output: Tensor  # (m, P)


@functools.cache
def minimal_filter(taps: int, results: int, dtype: torch.dtype) -> Filter:
    """A filter of k = `taps`, an odd number, with m = `results`, an even one: P = 3·(k + m - 3)/2 + 1.

    A filter is the transpose of v ↦ w·v, a product of polynomials, with N coefficients that are interpolated from its
    values at N points.
    """
    coefficients = results + taps - 1
    pairs = (coefficients - 4) // 2
    real_points = torch.eye(4, dtype=torch.float64)
    split = torch.block_diag(real_points, *[torch.tensor([[1.0, 0], [0, 1], [1, 1]], dtype=torch.float64)] * pairs)
    merge = torch.block_diag(real_points, *[torch.tensor([[1.0, -1, 0], [-1, -1, 1]], dtype=torch.float64)] * pairs)

    def values(length: int) -> Tensor:
        """Of a polynomial with so many coefficients at 0, ∞, 1, -1 and, real and imaginary, one of each pair."""
        powers = torch.arange(length, dtype=torch.float64)
        at_zero, at_infinity = (powers == 0).double(), (powers == length - 1).double()
        angles = [2 * math.pi * pair / (coefficients - 2) * powers for pair in range(1, pairs + 1)]
        of_pairs = [part for angle in angles for part in (angle.cos(), angle.sin())]
        return torch.stack([at_zero, at_infinity, torch.ones_like(powers), (-1) ** powers, *of_pairs])

    interpolation = torch.linalg.inv(values(coefficients)) @ merge
    matrices = split @ values(taps), interpolation.t(), (split @ values(results)).t()
    return Filter(*(matrix.to(dtype).contiguous() for matrix in matrices))
