"""Convolutions with fewer multiplications, by minimal filtering, in matrix products.

The filters of `minimal_filter` are applied along H and W alike, to tiles of m × m pixels (Lavin and Gray 2016,
arXiv:1509.09308): weight, input and the gradient of the output are transformed, and each of the P × P products, summed
over the channels, is a matrix product over all tiles.

Errors are about half of those of a sum over all taps. Yet an error is relative to what is largest in a tile and around
it, and a NaN or an infinity there spreads over the tile.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _devices
from .._layout import Layout
from .minimal_filter import AT_ONE, minimal_filter


class Least(NamedTuple):
    """How much work there must be: inputs / K + outputs / O ≤ 1, and so many pixels a step, B·H·W.

    What is multiplied grows with K·O, what is transformed with K and with O. `inputs` is the least K were there any
    number of O, and `outputs` the least O: few of one need the more of the other.
    """

    inputs: int
    outputs: int
    pixels: int

    def is_met(self, inputs: int, outputs: int, pixels: int) -> bool:
        return self.inputs * outputs + self.outputs * inputs <= inputs * outputs and pixels >= self.pixels


MAP = {3: Least(64, 64, 2048), 5: Least(12, 24, 1024), 7: Least(8, 16, 1024)}
WEIGHT_GRAD = {3: Least(24, 24, 1024), 5: Least(10, 10, 1024), 7: Least(8, 8, 1024)}
"""By the smaller size of a kernel, from where on this is at least about as fast as oneDNN. On two threads of an EPYC
of AVX2, in float32, it is 0.9 to 1.1 times as fast at most bounds, and with many channels 1.4 (3×3) to 2 times in a map
and 2 to 3 times in a weight gradient; one thread gains 1.1 to 1.3 times more. Maps of 3×3 kernels gain little, and what
they prepare takes as long as one step gains at 2048 pixels. Wider vectors were not measured. None of it depends on the
number of steps, so that a sequence has the same bits as its parts."""

MAX_THREADS_3X3 = 2
"""More threads were not measured: there kernels of three rows or columns, which gain least, are left to oneDNN."""

LARGE_TILE, SMALL_TILE, LARGE_TILE_TAPS = 8, 4, 5
"""Large tiles need fewer multiplications and more products of a weight: they are taken where these fit into the
workspace, or into both MAX_WORKSPACE and the bytes of a step's result. With kernels of fewer rows or columns small ones
were as fast."""

MAX_WORKSPACE = 12 * 2**20
"""5×5 weights of up to 12288 elements a tap have large tiles. With more, products leave the cache, and small tiles
were as fast (two threads of an EPYC of AVX2)."""

BLOCK_BYTES, BLOCK_TILES = 2**22, 32
"""Tiles are worked on in blocks that stay in the cache: so much memory, but no more than the workspace, is for their
products; yet there are so many tiles at least. There, blocks of half of it or of fewer tiles were up to 1.4 times as
slow, of twice as much at most 1.15 times as fast."""


def is_faster(layout: Layout, weight: Tensor, least: dict[int, Least]) -> bool:
    """Whether a map of this weight (O, *kernel, K), or its gradient, is computed here rather than by PyTorch.

    Of `weight` only shape, dtype and device matter.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or _devices.CPU_CAPABILITY != "AVX2":
        return False
    out_channels, *kernel, in_channels = weight.shape
    if layout.planar or (min(kernel) == 3 and torch.get_num_threads() > MAX_THREADS_3X3):
        return False
    return pays(least, kernel, in_channels, out_channels, layout.rows)


def pays(least: dict[int, Least], kernel: Sequence[int], inputs: int, outputs: int, pixels: int) -> bool:
    """Whether there is enough work, with so many channels and pixels a step."""
    is_filter = len(kernel) == 2 and set(kernel) <= least.keys()
    return is_filter and least[min(kernel)].is_met(inputs, outputs, pixels)


def _tile(layout: Layout, weight: Tensor, workspace: int) -> int:
    """The height and width of a tile for this weight (O, *kernel, K)."""
    out_channels, *kernel, _ = weight.shape
    result = layout.rows * out_channels * weight.element_size()
    limit = max(workspace, min(MAX_WORKSPACE, result))
    is_large = min(kernel) >= LARGE_TILE_TAPS and _products_bytes(weight, LARGE_TILE) <= limit
    return LARGE_TILE if is_large else SMALL_TILE


def _products_bytes(weight: Tensor, tile: int) -> int:
    """Bytes of all products of a weight (O, *kernel, K)."""
    out_channels, *kernel, in_channels = weight.shape
    products = math.prod(3 * (taps + tile - 3) // 2 + 1 for taps in kernel)
    return products * out_channels * in_channels * weight.element_size()


def prepared_bytes(layout: Layout, weight: Tensor, workspace: int) -> int:
    """Bytes of what a `Map` prepares and holds: the products of its weight."""
    return _products_bytes(weight, _tile(layout, weight, workspace))


class _Block(NamedTuple):
    """Some rows of tiles, in some images."""

    images: slice
    tile_rows: slice


class _Tiling:
    """Tiles of `tile` × `tile` pixels, with a filter along each of H and W: P·P products."""

    def __init__(self, layout: Layout, weight: Tensor, workspace: int):
        _, *kernel, _ = weight.shape
        self.tile, self._dtype = _tile(layout, weight, workspace), weight.dtype
        self._block_bytes = min(BLOCK_BYTES, workspace)
        self._along_height, self._along_width = (minimal_filter(taps, self.tile, weight.dtype) for taps in kernel)
        self._products = len(self._along_width.weight), len(self._along_height.weight)  # as `_apply` leaves them
        self.bias_product = AT_ONE * self._products[1] + AT_ONE
        self._halo = kernel[0] // 2, kernel[1] // 2

    @property
    def products(self) -> int:
        return math.prod(self._products)

    def grid(self, rows: Tensor) -> tuple[int, int]:
        """Tiles along H and along W that cover images (N, H, W, K)."""
        return math.ceil(rows.shape[1] / self.tile), math.ceil(rows.shape[2] / self.tile)

    def blocks(self, rows: Tensor, channels: int) -> Iterator[_Block]:
        """All tiles of images (N, H, W, K), in blocks of whole images or else of parts of one image.

        `channels`: how many of them a tile's products have.
        """
        tile_rows, columns = self.grid(rows)
        tiles = max(BLOCK_TILES, self._block_bytes // (self.products * channels * self._dtype.itemsize))
        if tiles >= tile_rows * columns:
            for images in _ranges(len(rows), tiles // (tile_rows * columns)):
                yield _Block(images, slice(0, tile_rows))
            return
        for image in range(len(rows)):
            for some in _ranges(tile_rows, max(1, tiles // columns)):
                yield _Block(slice(image, image + 1), some)

    def transform_weight(self, weight: Tensor) -> Tensor:
        """weight (O, kh, kw, K) → (P·P, K, O)."""
        along_height, along_width = self._along_height.weight, self._along_width.weight
        products = _apply(along_height, along_width, weight.permute(1, 2, 3, 0).contiguous())
        return products.view(self.products, weight.shape[3], weight.shape[0])

    def transform_input(self, rows: Tensor, block: _Block) -> Tensor:
        """rows (N, H, W, K) → (P·P, tiles, K)."""
        along_height, along_width = self._along_height.input, self._along_width.input
        products = _apply(along_height, along_width, self._tiles(rows, block, self._halo))
        return products.view(self.products, -1, rows.shape[-1])

    def transform_products(self, products: Tensor) -> Tensor:
        """Products (P·P, tiles, O) → (tile, tile, tiles·O)."""
        products = products.view(*self._products, -1)
        return _apply(self._along_width.output, self._along_height.output, products)

    def transform_grad(self, grad: Tensor, block: _Block) -> Tensor:
        """The gradient of an output (N, H, W, O) → (P·P, tiles, O)."""
        along_height, along_width = self._along_height.output.t(), self._along_width.output.t()
        products = _apply(along_height, along_width, self._tiles(grad, block, (0, 0)))
        return products.view(self.products, -1, grad.shape[-1])

    def weight_grad(self, products: Tensor) -> Tensor:
        """The gradient of a weight's products (P·P, O, K) → that of the weight (kh, kw, O·K)."""
        along_height, along_width = self._along_height.weight.t(), self._along_width.weight.t()
        return _apply(along_width, along_height, products.view(*self._products, -1))

    def _tiles(self, rows: Tensor, block: _Block, halo: tuple[int, int]) -> Tensor:
        """A block's tiles with what lies around them, zeros beyond the edges.

        (tile + 2·halo, tile + 2·halo, images, tile rows, tile columns, K).
        """
        (above, beside), tile, columns = halo, self.tile, self.grid(rows)[1]
        first, last = block.tile_rows.start * tile - above, block.tile_rows.stop * tile + above
        part = rows[block.images, max(first, 0) : last]
        missing_above = max(-first, 0)
        missing_below = last - first - missing_above - part.shape[1]
        missing_right = columns * tile + beside - rows.shape[2]
        padded = torch.constant_pad_nd(part, [0, 0, beside, missing_right, missing_above, missing_below])
        count = len(padded), block.tile_rows.stop - block.tile_rows.start, columns
        of_image, of_row, of_pixel, _ = padded.stride()
        strides = of_row, of_pixel, of_image, tile * of_row, tile * of_pixel, 1
        shape = tile + 2 * above, tile + 2 * beside, *count, rows.shape[-1]
        return padded.as_strided(shape, strides).contiguous()


def _apply(first: Tensor, second: Tensor, numbers: Tensor) -> Tensor:
    """Matrices (a, x) and (b, y), times the first two dimensions of numbers (x, y, *rest) → (b, a, rest).

    Batched, so that threads share it. The result's dimensions change places, so that a thread goes on with what it has
    in its cache: from the gathered tiles to the first product, and from the second to what comes after.
    """
    numbers = numbers.flatten(2)
    rows = torch.bmm(second.expand(numbers.shape[0], -1, -1), numbers)
    del numbers  # the caller's may be freed
    return torch.bmm(first.expand(rows.shape[1], -1, -1), rows.transpose(0, 1))


def _ranges(length: int, at_most: int) -> Iterator[slice]:
    """0 … length - 1 in as few ranges of `at_most` as there can be, all about as long."""
    step = math.ceil(length / math.ceil(length / at_most)) if length else 1
    for first in range(0, length, step):
        yield slice(first, min(first + step, length))


class Map:
    """rows ↦ W * rows + bias; weight (O, kh, kw, K), bias (O)."""

    def __init__(self, layout: Layout, weight: Tensor, bias: Tensor | None = None, *, workspace: int):
        self._tiling = _Tiling(layout, weight, workspace)
        self._weight, self._bias = self._tiling.transform_weight(weight), bias

    def __call__(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """rows (N, H, W, K) → (N, H, W, O), contiguous, never in `out`."""
        images, height, width, _ = rows.shape
        tile, (tile_rows, columns), out_channels = self._tiling.tile, self._tiling.grid(rows), self._weight.shape[2]
        result = rows.new_empty(images, tile_rows * tile, columns * tile, out_channels)
        tiles = result.view(images, tile_rows, tile, columns, tile, out_channels)
        for block in self._tiling.blocks(rows, sum(self._weight.shape[1:])):
            self._compute(rows, block, into=tiles[block].permute(2, 4, 0, 1, 3, 5))
        return result[:, :height, :width].contiguous()

    def _compute(self, rows: Tensor, block: _Block, into: Tensor) -> None:
        """A block's results (tile, tile, images, tile rows, tile columns, O)."""
        products = torch.bmm(self._tiling.transform_input(rows, block), self._weight)
        if self._bias is not None:
            products[self._tiling.bias_product] += self._bias
        into.copy_(self._tiling.transform_products(products).view(into.shape))


class WeightGrad:
    """The gradient of a map's weight, of `shape` (O, kh, kw, K), summed over what is added."""

    gains_by_steps = False

    def __init__(self, layout: Layout, weight: Tensor, *, workspace: int):
        self.shape = weight.shape
        self._tiling = _Tiling(layout, weight, workspace)
        self._sum = None  # of the gradients of products (P·P, O, K)

    def add(self, rows: Tensor, grad: Tensor) -> None:
        """The map's argument, rows (N, H, W, K), and the gradient of its result (N, H, W, O)."""
        out_channels, *_, in_channels = self.shape
        if self._sum is None:
            self._sum = rows.new_zeros(self._tiling.products, out_channels, in_channels)
        for block in self._tiling.blocks(rows, in_channels + out_channels):
            of_grad, of_input = self._tiling.transform_grad(grad, block), self._tiling.transform_input(rows, block)
            self._sum.baddbmm_(of_grad.transpose(1, 2), of_input)
            del of_grad, of_input  # before the next are made

    def result(self) -> Tensor | None:
        """The sum, with any strides; None if nothing was added."""
        if self._sum is None:
            return None
        out_channels, height, width, in_channels = self.shape
        taps = self._tiling.weight_grad(self._sum)
        return taps.view(height, width, out_channels, in_channels).permute(2, 0, 1, 3)
