"""Where a layer's tensors lie in memory, and the copies that bring them there.

Inside the operator a (B, C, H, W) image is rows of channels, (B, H, W, C), one row for each pixel of each image. So it
is stored too, channels last, and flattened it is (M, C) with M = B·H·W; but where a CPU's convolutions are faster over
planes, a row's channels lie H·W elements apart.
"""

import math
from collections.abc import Sequence
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
    zeros to a multiple of `multiple`. `planar`: memory holds planes (B, C, *spatial), though the shape is that of rows.
    """

    steps: int
    batch: int
    spatial: tuple[int, ...]
    in_channels: int
    channels: int
    multiple: int
    planar: bool = False

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
        planar: bool = False,
    ) -> "Layout":
        """The layout of a call. Its gates run in Triton or in ATen calls; `planar` is for the latter.

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
            planar=planar,
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

    def new_step(self, like: Tensor, channels: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uninitialised rows of one step (B, *spatial, channels); no view of anything."""
        return self._new(like, (self.batch,), channels, -1, dtype)

    def new_sequence(
        self, like: Tensor, channels: int, steps: int | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Uninitialised rows of a sequence (T, B, *spatial, channels); no view of anything."""
        return self._new(like, (self.steps if steps is None else steps, self.batch), channels, -1, dtype)

    def new_gates(self, like: Tensor, steps: int) -> Tensor:
        """Uninitialised gates (steps, 4, B, *spatial, C), each dense by itself; no view of anything."""
        return self._new(like, (steps, 4, self.batch), self.channels, -1, None)

    def new_images(
        self, like: Tensor, channels: int, steps: int | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Uninitialised (T, B, channels, *spatial), or (B, channels, *spatial) without steps, in the public layout.

        No view of anything, so that what a layer returns may be written to like any tensor.
        """
        outer = (self.batch,) if steps is None else (steps, self.batch)
        return self._new(like, outer, channels, len(outer), dtype)

    def _new(
        self, like: Tensor, outer: tuple[int, ...], channels: int, channel_dim: int, dtype: torch.dtype | None
    ) -> Tensor:
        """Memory as this layout has it, seen with the channels at `channel_dim`."""
        stored = (*outer, channels, *self.spatial) if self.planar else (*outer, *self.spatial, channels)
        source = len(outer) if self.planar else len(stored) - 1
        destination = channel_dim % len(stored)
        if source == destination:
            return like.new_empty(stored, dtype=dtype or like.dtype)
        strides = [1]
        for size in reversed(stored[1:]):
            # sym_max asks no compiler for the size, but takes 2 µs.
            strides.insert(0, strides[0] * (max(size, 1) if isinstance(size, int) else torch.sym_max(size, 1)))
        seen = list(range(len(stored)))
        seen.insert(destination, seen.pop(source))
        shape, strides = [stored[dim] for dim in seen], [strides[dim] for dim in seen]
        return like.new_empty_strided(shape, strides, dtype=dtype or like.dtype)

    def new_weight(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """An uninitialised dense weight (O, *kernel, K)."""
        outputs, *kernel, inputs = shape
        return to_rows(like.new_empty(outputs, inputs, *kernel)) if self.planar else like.new_empty(shape)

    def dense(self, rows: Tensor) -> Tensor:
        """Rows (..., *spatial, channels), copied unless they lie in memory as this layout's do, without gaps."""
        if not self.planar:
            return rows.contiguous()
        plane = -1 - len(self.spatial)
        return rows.movedim(-1, plane).contiguous().movedim(plane, -1)

    def pack_columns(self, width: int, *parts: Tensor) -> Tensor:
        """Weights (4C, K, *kernel) side by side in their columns, as one dense (4C, *kernel, width) with zeros behind.

        One part of that width may be returned as it is.
        """
        if len(parts) == 1 and parts[0].shape[1] == width:
            return self.dense(to_rows(parts[0]))
        gates, _, *kernel = parts[0].shape
        packed = self.new_weight(parts[0], (gates, *kernel, width))
        first = 0
        for part in parts:
            packed.narrow(-1, first, part.shape[1]).copy_(to_rows(part))
            first += part.shape[1]
        packed[..., first:] = 0
        return packed

    def pack_frames(self, rows: Tensor) -> Tensor:
        """Input (N, B, *spatial, Cin) as dense (N·B, *spatial, input_width): where it lies, if it is that."""
        if self.input_width == self.in_channels:
            return self.dense(rows).flatten(0, 1)
        packed = self.new_sequence(rows, self.input_width, len(rows))
        packed[..., : self.in_channels] = rows
        packed[..., self.in_channels :] = 0
        return packed.flatten(0, 1)


def to_rows(image: Tensor, channel_dim: int = 1) -> Tensor:
    """(B, C, *spatial) as (B, *spatial, C), without a copy."""
    return image.movedim(channel_dim, -1)


def from_rows(rows: Tensor, channel_dim: int = 1) -> Tensor:
    """(B, *spatial, C) as (B, C, *spatial), without a copy."""
    return rows.movedim(-1, channel_dim)


def like_weight(weight: Tensor, *parts: Tensor) -> Tensor:
    """Gradients in columns (4C, *kernel, K), side by side as a gradient of `weight`, with its dtype and its strides."""
    result = torch.empty_like(weight)
    columns = to_rows(result)
    first = 0
    for part in parts:
        columns[..., first : first + part.shape[-1]] = part
        first += part.shape[-1]
    return result


def unpack_peephole_grad(grad: Tensor, peephole: Tensor) -> Tensor:
    """The gradient of the packed peephole as one of `peephole`, with its dtype and its strides."""
    result = torch.empty_like(peephole)
    rows = to_rows(result)
    rows.copy_(grad.view(rows.shape))
    return result
