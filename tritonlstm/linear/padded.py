"""A convolution over images that are padded with pixels of their own: circular, reflect, replicate.

A convolution itself pads with zeros alone, so rows are copied with their margins before it, and the gradient of the
margins is added to the pixels that they repeat. All of it is slices and sums of slices: every run has the same bits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .convolution import Convolution

Filled = Sequence[tuple[int, int, str]]
"""(spatial dimension, pixels on each side, mode), as `Geometry.filled`."""


def pad(rows: Tensor, filled: Filled) -> Tensor:
    """rows (N, *spatial, K) with margins."""
    for dim, size, mode in filled:
        first, last = _repeated(rows, dim + 1, size, mode)
        if mode == "reflect":
            first, last = first.flip(dim + 1), last.flip(dim + 1)
        elif mode == "replicate":
            first, last = (each.repeat_interleave(size, dim + 1) for each in (first, last))
        rows = torch.cat([first, rows, last], dim + 1)
    return rows


def fold(grad: Tensor, filled: Filled) -> Tensor:
    """The gradient of `pad`: that of the padded rows → that of rows, dense and fresh."""
    for dim, size, mode in reversed(filled):
        first, inner, last = grad.split([size, grad.shape[dim + 1] - 2 * size, size], dim + 1)
        if mode == "reflect":
            first, last = first.flip(dim + 1), last.flip(dim + 1)
        elif mode == "replicate":
            first, last = (each.sum(dim + 1, keepdim=True) for each in (first, last))
        grad = inner.clone(memory_format=torch.contiguous_format)
        for target, margin in zip(_repeated(grad, dim + 1, size, mode), (first, last)):
            target += margin
    return grad


def _repeated(rows: Tensor, dim: int, size: int, mode: str) -> tuple[Tensor, Tensor]:
    """The pixels that the margins before and behind the image repeat, in the image's order."""
    length = rows.shape[dim]
    if mode == "circular":
        return rows.narrow(dim, length - size, size), rows.narrow(dim, 0, size)
    if mode == "reflect":
        return rows.narrow(dim, 1, size), rows.narrow(dim, length - 1 - size, size)
    return rows.narrow(dim, 0, 1), rows.narrow(dim, length - 1, 1)


class Padded:
    """x ↦ W * x + b, with margins of x's own pixels."""

    def __init__(self, convolution: Convolution, filled: Filled):
        """`convolution` takes the padded rows."""
        self._convolution, self._filled = convolution, filled

    def forward(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        return self._convolution.forward(pad(rows, self._filled), out)

    def input_grad(self, grad: Tensor, first: int = 0) -> Tensor:
        return fold(self._convolution.input_grad(grad, first), self._filled)

    def weight_grad(self) -> "PaddedWeightGrad":
        return PaddedWeightGrad(self._convolution, self._filled)


class PaddedWeightGrad:
    def __init__(self, convolution: Convolution, filled: Filled):
        self._sum, self._filled = convolution.weight_grad(), filled

    def add(self, rows: Tensor, grad: Tensor) -> None:
        self._sum.add(pad(rows, self._filled), grad)

    def result(self) -> Tensor:
        return self._sum.result()
