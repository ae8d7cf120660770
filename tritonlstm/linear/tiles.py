"""Images in tiles, and the transforms of minimal filtering along H and W.

The filters of `minimal_filter` are applied along H and W alike, to tiles of m × m pixels (Lavin and Gray 2016,
arXiv:1509.09308): weight, argument and the gradient of the result are transformed, and each of the P × P products,
summed over the channels, is a matrix product over all tiles. All of it is torch calls on matrices.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .minimal_filter import AT_ONE, minimal_filter

LARGE_TILE, SMALL_TILE, LARGE_TILE_TAPS = 8, 4, 5
"""Pixels along a tile. Large tiles need fewer multiplications, but more memory for a weight's products; with kernels
of fewer rows or columns than LARGE_TILE_TAPS small ones were as fast."""

LARGE_TILE_BYTES = 4 * 2**20
"""Large tiles are used only if the transformed weight is at most this large. Chosen for memory (bench/NOTES.md)."""

BLOCK_BYTES, BLOCK_TILES = 3 * 2**20, 32
"""Tiles are computed in blocks that stay in the cache: bytes of their products, and the least number of tiles. Half of
either took up to 1.4 times as long, where it was measured (AVX2)."""


class Block(NamedTuple):
    """Some rows of tiles, in some images."""

    images: slice
    tile_rows: slice


class Tiling:
    """Tiles of `tile` × `tile` pixels for kernels of `kernel` taps, with a filter along each of H and W."""

    def __init__(self, kernel: Sequence[int], channels: tuple[int, int], dtype: torch.dtype):
        """`channels`: those of argument and result, K and O."""
        self.tile, self._dtype = _tile(kernel, channels, dtype), dtype
        self._along_height, self._along_width = (minimal_filter(taps, self.tile, dtype) for taps in kernel)
        self._products = len(self._along_width.weight), len(self._along_height.weight)  # as `_apply` leaves them
        self.bias_product = AT_ONE * self._products[1] + AT_ONE
        self._halo = kernel[0] // 2, kernel[1] // 2

    @property
    def products(self) -> int:
        """P · P."""
        return math.prod(self._products)

    def grid(self, rows: Tensor) -> tuple[int, int]:
        """Tiles along H and along W that cover images (N, H, W, K)."""
        return math.ceil(rows.shape[1] / self.tile), math.ceil(rows.shape[2] / self.tile)

    def blocks(self, rows: Tensor, channels: int) -> Iterator[Block]:
        """All tiles of images (N, H, W, K), in blocks of whole images or else of parts of one image.

        `channels`: how many of them a tile's products have.
        """
        tile_rows, columns = self.grid(rows)
        tiles = max(BLOCK_TILES, BLOCK_BYTES // (self.products * channels * self._dtype.itemsize))
        if tiles >= tile_rows * columns:
            for images in _ranges(len(rows), tiles // (tile_rows * columns)):
                yield Block(images, slice(0, tile_rows))
            return
        for image in range(len(rows)):
            for some in _ranges(tile_rows, max(1, tiles // columns)):
                yield Block(slice(image, image + 1), some)

    def transform_weight(self, weight: Tensor) -> Tensor:
        """weight (O, K, kh, kw) → (P·P, K, O)."""
        along_height, along_width = self._along_height.weight, self._along_width.weight
        products = _apply(along_height, along_width, weight.permute(2, 3, 1, 0).contiguous())
        return products.view(self.products, weight.shape[1], weight.shape[0])

    def transform_input(self, rows: Tensor, block: Block) -> Tensor:
        """rows (N, H, W, K) → (P·P, tiles, K)."""
        along_height, along_width = self._along_height.input, self._along_width.input
        products = _apply(along_height, along_width, self._tiles(rows, block, self._halo))
        return products.view(self.products, -1, rows.shape[-1])

    def transform_products(self, products: Tensor) -> Tensor:
        """Products (P·P, tiles, O) → (tile, tile, tiles·O)."""
        products = products.view(*self._products, -1)
        return _apply(self._along_width.output, self._along_height.output, products)

    def transform_grad(self, grad: Tensor, block: Block) -> Tensor:
        """The gradient of an output (N, H, W, O) → (P·P, tiles, O)."""
        along_height, along_width = self._along_height.output.t(), self._along_width.output.t()
        products = _apply(along_height, along_width, self._tiles(grad, block, (0, 0)))
        return products.view(self.products, -1, grad.shape[-1])

    def weight_grad(self, products: Tensor) -> Tensor:
        """The gradient of a weight's products (P·P, O, K) → that of the weight (kh, kw, O·K)."""
        along_height, along_width = self._along_height.weight.t(), self._along_width.weight.t()
        return _apply(along_width, along_height, products.view(*self._products, -1))

    def _tiles(self, rows: Tensor, block: Block, halo: tuple[int, int]) -> Tensor:
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


def _tile(kernel: Sequence[int], channels: tuple[int, int], dtype: torch.dtype) -> int:
    products = math.prod(len(minimal_filter(taps, LARGE_TILE, dtype).weight) for taps in kernel)
    nbytes = products * math.prod(channels) * dtype.itemsize
    return LARGE_TILE if min(kernel) >= LARGE_TILE_TAPS and nbytes <= LARGE_TILE_BYTES else SMALL_TILE


def _apply(first: Tensor, second: Tensor, numbers: Tensor) -> Tensor:
    """Matrices (a, x) and (b, y), times the first two dimensions of numbers (x, y, *rest) → (b, a, rest).

    Batched, so that threads share the work. The dimensions are swapped so that each thread continues with the data in
    its cache.
    """
    numbers = numbers.flatten(2)
    rows = torch.bmm(second.expand(numbers.shape[0], -1, -1), numbers)
    del numbers  # may be freed
    return torch.bmm(first.expand(rows.shape[1], -1, -1), rows.transpose(0, 1))


def _ranges(length: int, at_most: int) -> Iterator[slice]:
    """0 … length - 1 in as few ranges of `at_most` as there can be, all about as long."""
    step = math.ceil(length / math.ceil(length / at_most)) if length else 1
    for first in range(0, length, step):
        yield slice(first, min(first + step, length))
