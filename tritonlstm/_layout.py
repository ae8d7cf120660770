"""Where a layer's tensors lie in memory, and the copies that bring them there.

Everything inside the operator is channels last: a (B, C, H, W) image is stored as rows of channels, one row for each
pixel of each image, so that the flattened tensor is (M, C) with M = B·H·W.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GPU_MULTIPLE = 8
"""Channels to which a row is padded for the GPU: 16 bytes of a half type, what tensor cores and 16-byte accesses want.
Not measured there yet. On a CPU padding only costs a convolution: 33 → 40 channels made it 17% slower forward in
float32 and 8% in bfloat16 (Zen 5, oneDNN), so there it is not done."""

CPU_PRODUCT_BYTES = 64
"""A CPU's matrix product, which a 1×1 convolution is too, rounds as its operands are aligned. With rows of whole cache
lines a step of the concat schedule computes the same bits wherever in the sequence it stands."""


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Layout:
    """The sizes of one layer's sequence.

    `spatial` is () for a layer of vectors (the FC-LSTM) and (H, W) for one of images. Rows of channels are padded with
    zeros to a multiple of `multiple`.
    """

    steps: int
    batch: int
    spatial: tuple[int, ...]
    in_channels: int
    channels: int
    multiple: int

    @classmethod
    def of(
        cls,
        weight: Tensor,
        input_weight: Tensor | None,
        steps: int,
        batch: int,
        spatial: tuple[int, ...],
        *,
        triton: bool,
    ) -> "Layout":
        """The layout of a call, whose gates run in Triton or not.

        weight (4C, Cin + C, *kernel), or (4C, C, *kernel) beside input_weight (4C, Cin, *input_kernel).
        """
        channels, columns = weight.shape[0] // 4, weight.shape[1]
        if math.prod(weight.shape[2:]) == 1 and not weight.is_cuda:
            multiple = CPU_PRODUCT_BYTES // weight.element_size()
        else:
            multiple = GPU_MULTIPLE if triton or weight.is_cuda else 1
        return cls(
            steps=steps,
            batch=batch,
            spatial=tuple(spatial),
            in_channels=columns - channels if input_weight is None else input_weight.shape[1],
            channels=channels,
            multiple=multiple,
        )

    @property
    def pixels(self) -> int:
        """Pixels of one image: H·W."""
        return math.prod(self.spatial)

    @property
    def rows(self) -> int:
        """Rows of one step: M = B·H·W."""
        return self.batch * self.pixels

    @property
    def width(self) -> int:
        """Channels of a row that holds hidden, input and padding."""
        return _round_up(self.channels + self.in_channels, self.multiple)

    @property
    def input_width(self) -> int:
        """Channels of a row that holds input and padding."""
        return _round_up(self.in_channels, self.multiple)

    @property
    def hidden_slot(self) -> slice:
        return slice(0, self.channels)

    @property
    def input_slot(self) -> slice:
        return slice(self.channels, self.channels + self.in_channels)

    def step_shape(self, channels: int) -> tuple[int, ...]:
        """Shape of one step's rows: (B, *spatial, channels)."""
        return (self.batch, *self.spatial, channels)

    def sequence_shape(self, channels: int, steps: int | None = None) -> tuple[int, ...]:
        """Shape of a sequence's rows: (T, B, *spatial, channels)."""
        return (self.steps if steps is None else steps, *self.step_shape(channels))


def to_rows(image: Tensor, channel_dim: int = 1) -> Tensor:
    """(B, C, *spatial) as (B, *spatial, C), without a copy."""
    return image.movedim(channel_dim, -1)


def from_rows(rows: Tensor, channel_dim: int = 1) -> Tensor:
    """(B, *spatial, C) as (B, C, *spatial), without a copy."""
    return rows.movedim(-1, channel_dim)


def new_images(like: Tensor, rows: tuple[int, ...], channel_dim: int = 1, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised (B, C, *spatial), stored as rows (B, *spatial, C) of this shape.

    No view of anything, so that what a layer returns may be written to like any tensor.
    """
    strides = [1]
    for size in reversed(rows[1:]):
        strides.insert(0, strides[0] * size)
    shape = list(rows)
    shape.insert(channel_dim, shape.pop())
    strides.insert(channel_dim, strides.pop())
    return like.new_empty_strided(shape, strides, dtype=dtype or like.dtype)


def pack_columns(width: int, *parts: Tensor) -> Tensor:
    """Weights (4C, K, *kernel) side by side in their columns, as one dense (4C, *kernel, width) with zeros behind."""
    rows = [to_rows(part) for part in parts]
    packed = rows[0].new_empty((*rows[0].shape[:-1], width))
    first = 0
    for part in rows:
        packed[..., first : first + part.shape[-1]] = part
        first += part.shape[-1]
    packed[..., first:] = 0
    return packed


def like_weight(weight: Tensor, *parts: Tensor) -> Tensor:
    """Gradients in columns (4C, *kernel, K), side by side as a gradient of `weight`, with its dtype and its strides."""
    result = torch.empty_like(weight)
    columns = to_rows(result)
    first = 0
    for part in parts:
        columns[..., first : first + part.shape[-1]] = part
        first += part.shape[-1]
    return result


def pack_peephole(peephole: Tensor) -> Tensor:
    """peephole (3, C, *spatial or ones) as dense (3, pixels or 1, C)."""
    return to_rows(peephole).reshape(3, -1, peephole.shape[1]).contiguous()


def unpack_peephole_grad(grad: Tensor, peephole: Tensor) -> Tensor:
    """The gradient of the packed peephole as one of `peephole`, with its dtype and its strides."""
    result = torch.empty_like(peephole)
    rows = to_rows(result)
    rows.copy_(grad.view(rows.shape))
    return result
