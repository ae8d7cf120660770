"""A map without a kernel: a matrix product."""

import functools

import torch
from torch import Tensor

from .._dtypes import cell_dtype
from .._layout import Layout


class Map:
    """rows ↦ rows · Wᵀ + bias; weight (O, K), bias (O)."""

    def __init__(self, layout: Layout, weight: Tensor, bias: Tensor | None = None, *, workspace: int = 0):
        self._weight = weight
        self._product = torch.mm if bias is None else functools.partial(torch.addmm, bias)

    def __call__(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """rows (N, K) → (N, O); in `out` on a GPU, else in a fresh tensor, which is aligned (CPU_PRODUCT_BYTES)."""
        return self._product(rows, self._weight.t(), out=out if rows.is_cuda else None)


class WeightGrad:
    """The gradient of a map's weight, of `shape` (O, K), summed in float32, or float64 for that."""

    gains_by_steps = True

    def __init__(self, layout: Layout, weight: Tensor, *, workspace: int = 0):
        self.shape = weight.shape
        self._sum = None

    def add(self, rows: Tensor, grad: Tensor) -> None:
        """The map's argument, rows (N, K), and the gradient of its result (N, O)."""
        part = grad.t() @ rows
        self._sum = part.to(cell_dtype(part.dtype)) if self._sum is None else self._sum.add_(part)

    def result(self) -> Tensor | None:
        """The sum; None if nothing was added."""
        return self._sum
