"""A convolution with fewer multiplications, by minimal filtering, where that is faster and no less accurate.

On ordinary numbers its errors are about half of those of a sum over all taps. But they are relative to the largest
number in a tile and around it, and a NaN or an infinity, in a weight too, spreads over the tile. So each call looks at
its arguments, and leaves those with numbers that are not finite or out of range to PyTorch's convolution. So a pixel
never changes by more than a rounding error because of a value outside its receptive field.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import devices
from ..core.layout import Layout
from .convolution import Convolution
from .tiles import Block, Tiling


class Least(NamedTuple):
    """Minimum problem size: inputs / K + outputs / O ≤ 1, and `pixels` = B·H·W per step.

    The savings grow with K·O, the cost of the transforms with K and O.
    """

    inputs: int
    outputs: int
    pixels: int = 1024

    def is_met(self, inputs: int, outputs: int, pixels: int) -> bool:
        return self.inputs * outputs + self.outputs * inputs <= inputs * outputs and pixels >= self.pixels


class Bounds(NamedTuple):
    """From where on minimal filtering is faster, by the smaller size of a kernel."""

    convolution: dict[int, Least]  # and the gradient of its argument, which is one too
    weight_grad: dict[int, Least]


BOUNDS = {
    "AVX2": Bounds(
        {3: Least(64, 64, 2048), 5: Least(12, 24), 7: Least(8, 16)},
        {3: Least(24, 24), 5: Least(10, 10), 7: Least(8, 8)},
    ),
    "AVX2, one thread": Bounds(
        {3: Least(64, 64, 2048), 5: Least(12, 24, 256), 7: Least(8, 16, 256)},
        {3: Least(24, 24), 5: Least(10, 10, 256), 7: Least(8, 8, 256)},
    ),
    "AVX512": Bounds({5: Least(128, 84), 7: Least(64, 64)}, {5: Least(128, 84), 7: Least(64, 84)}),
    "AVX512, one thread": Bounds({5: Least(16, 32), 7: Least(16, 32)}, {5: Least(16, 16), 7: Least(24, 32)}),
}
"""By the widest vectors that PyTorch uses, measured against oneDNN in float32 on grids of 16 to 512 channels, on one
thread and two (bench/NOTES.md)."""

LARGEST = 32.0
"""How large a weighted argument may be: its largest number, times the largest norm of one output's weights. Gates take
arguments of order one: at this bound, a value outside the receptive field changes them by about 1e-6 at most. Ten times
as much fails tests/linear."""

SPREAD, QUANTILE = 32.0, 16
"""Bound on the largest norm of a pixel's gradient, as a multiple of the 1/QUANTILE quantile over the pixels. Ten times
as much fails tests/linear."""


def _bounds() -> Bounds | None:
    capability = devices.CPU_CAPABILITY
    alone = BOUNDS.get(f"{capability}, one thread") if torch.get_num_threads() == 1 else None
    return alone or BOUNDS.get(capability)


def is_faster(layout: Layout, weight: Tensor) -> bool:
    """Whether a part of the work with weight (O, K, *kernel) is faster by minimal filtering."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or _bounds() is None:
        return False
    return _computes_in_float32() and any(_parts(layout, weight))


def _computes_in_float32() -> bool:
    """Whether oneDNN multiplies float32 numbers as such, in matrix products and in convolutions.

    In products of lower precision minimal filtering would not be as accurate as PyTorch's convolutions, which do not
    follow that setting. Where convolutions are allowed a lower precision, PyTorch's have it.
    """
    # torch.get_float32_matmul_precision raises where it contradicts these, which also follow torch.backends' own.
    settings = torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv
    return all(setting.fp32_precision in ("none", "ieee") for setting in settings)


class Parts(NamedTuple):
    """Which parts of the work are faster by minimal filtering."""

    forward: bool
    input_grad: bool
    weight_grad: bool


def _parts(layout: Layout, weight: Tensor) -> Parts:
    outputs, inputs, *kernel = weight.shape
    bounds = _bounds()

    def pays(least: dict[int, Least], inputs: int, outputs: int) -> bool:
        is_filter = len(kernel) == 2 and max(kernel) <= 7 and min(kernel) in least
        return is_filter and least[min(kernel)].is_met(inputs, outputs, layout.rows)

    return Parts(
        pays(bounds.convolution, inputs, outputs),
        pays(bounds.convolution, outputs, inputs),
        pays(bounds.weight_grad, inputs, outputs),
    )


class Winograd:
    """x ↦ W * x + b; weight (O, K, kh, kw), bias (O)."""

    def __init__(self, layout: Layout, weight: Tensor, bias: Tensor | None, plain: Convolution):
        """`plain` computes the same by PyTorch."""
        self._weight, self._bias, self._plain = weight, bias, plain
        self._parts = _parts(layout, weight)
        self._prepared = None, None

    @functools.cached_property
    def _norm(self) -> float:
        """The largest norm of one output's weights."""
        return torch.linalg.vector_norm(self._weight, dim=(1, 2, 3)).max().item()

    def _filter(self, direction: str, first: int = 0) -> "_Filtered":
        """The convolution "forward", or its transpose "backward" from the input channel `first` on.

        One is kept at a time, and none beside a weight gradient: it may take more memory than all else.
        """
        key = direction, first
        if self._prepared[0] != key:
            self.release()
            if direction == "forward":
                self._prepared = key, _Filtered(self._weight, self._bias)
            else:  # the transpose of a "same" convolution with an odd kernel is one with the kernel flipped
                self._prepared = key, _Filtered(self._weight[:, first:].flip(2, 3).transpose(0, 1))
        return self._prepared[1]

    def release(self) -> None:
        """Free what was prepared."""
        self._prepared = None, None

    def is_in_range(self, rows: Tensor) -> bool:
        """Whether an argument (N, H, W, K) may be filtered."""
        least, largest = torch.aminmax(rows)
        return max(-least.item(), largest.item()) * self._norm <= LARGEST  # False for NaN

    def forward(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        if self._parts.forward and self.is_in_range(rows):
            return self._filter("forward")(rows)
        return self._plain.forward(rows, out)

    def input_grad(self, grad: Tensor, first: int = 0) -> Tensor:
        if self._parts.input_grad and is_even(grad) and math.isfinite(self._norm):
            return self._filter("backward", first)(grad)
        return self._plain.input_grad(grad, first)

    def weight_grad(self) -> "WinogradWeightGrad":
        return WinogradWeightGrad(self)


def is_even(grad: Tensor) -> bool:
    """Whether the gradient of a result (N, H, W, O) is about as large at every pixel, so that it may be filtered."""
    norms = torch.linalg.vector_norm(grad, dim=-1).flatten()
    low = norms.kthvalue(max(1, len(norms) // QUANTILE)).values
    return bool(norms.max() <= SPREAD * low)  # False for NaN


class _Filtered:
    """The convolution with weight (O, K, kh, kw) and bias (O), filtered."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        outputs, inputs, *kernel = weight.shape
        self._tiling = Tiling(kernel, (inputs, outputs), weight.dtype)
        self._weight, self._bias = self._tiling.transform_weight(weight), bias

    def __call__(self, rows: Tensor) -> Tensor:
        """rows (N, H, W, K) → (N, H, W, O), contiguous."""
        images, height, width, _ = rows.shape
        tile, (tile_rows, columns), outputs = self._tiling.tile, self._tiling.grid(rows), self._weight.shape[2]
        result = rows.new_empty(images, tile_rows * tile, columns * tile, outputs)
        tiles = result.view(images, tile_rows, tile, columns, tile, outputs)
        for block in self._tiling.blocks(rows, sum(self._weight.shape[1:])):
            self._compute(rows, block, into=tiles[block].permute(2, 4, 0, 1, 3, 5))
        return result[:, :height, :width].contiguous()

    def _compute(self, rows: Tensor, block: Block, into: Tensor) -> None:
        """A block's results (tile, tile, images, tile rows, tile columns, O)."""
        products = torch.bmm(self._tiling.transform_input(rows, block), self._weight)
        if self._bias is not None:
            products[self._tiling.bias_product] += self._bias
        into.copy_(self._tiling.transform_products(products).view(into.shape))


class WinogradWeightGrad:
    """Sums the weight gradients: by minimal filtering where the arguments allow it, otherwise by PyTorch."""

    def __init__(self, of: Winograd):
        self._of, self._plain = of, of._plain.weight_grad()
        self._shape = outputs, inputs, *kernel = of._weight.shape
        self._tiling = Tiling(kernel, (inputs, outputs), of._weight.dtype)
        self._sum = None  # of the gradients of products (P·P, O, K)

    def add(self, rows: Tensor, grad: Tensor) -> None:
        if not (self._of._parts.weight_grad and is_even(grad) and self._of.is_in_range(rows)):
            self._plain.add(rows, grad)
            return
        self._of.release()
        outputs, inputs, *_ = self._shape
        if self._sum is None:
            self._sum = rows.new_zeros(self._tiling.products, outputs, inputs)
        for block in self._tiling.blocks(rows, inputs + outputs):
            of_grad, of_input = self._tiling.transform_grad(grad, block), self._tiling.transform_input(rows, block)
            self._sum.baddbmm_(of_grad.transpose(1, 2), of_input)
            del of_grad, of_input  # before the next block's

    def result(self) -> Tensor:
        plain = self._plain.result()
        if self._sum is None:
            return plain
        outputs, inputs, height, width = self._shape
        taps = self._tiling.weight_grad(self._sum).view(height, width, outputs, inputs)
        return plain + taps.permute(2, 3, 0, 1)
