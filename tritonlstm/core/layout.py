"""The sizes of a layer's sequence, and fresh tensors of these sizes.

Inside the operators an image (B, C, H, W) is NHWC rows: (B, H, W, C), one row of channels for each pixel. It is stored
so, too: the public tensors are channels last. Flattened, the rows of a step are a matrix (M, C) with M = B·H·W.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import Arguments, Results
from .dtypes import cell_dtype
from .spec import Spec

GPU_MULTIPLE = 8
"""On a GPU the input's channels are padded with zeros to a multiple of this, 16 bytes of a half type: the hidden state
behind them starts aligned, and one input channel still runs on tensor cores. Not measured yet."""


@dataclass(frozen=True)
class Layout:
    """The sizes of one layer's sequence.

    `spatial` is () for a layer of vectors, (L) for one of signals, (H, W) of images, (D, H, W) of volumes.
    Rows of channels are padded with zeros to a multiple of `multiple`.
    """

    steps: int
    batch: int
    spatial: tuple[int, ...]
    in_channels: int
    channels: int
    multiple: int

    @classmethod
    def of(cls, arguments: Arguments, steps: int, spec: Spec) -> "Layout":
        """The layout of a call with a resolved backend."""
        input, h0, weight = arguments.input, arguments.h0, arguments.weight
        batch, spatial = (input.shape[1], input.shape[3:]) if h0 is None else (h0.shape[0], h0.shape[2:])
        return cls(
            steps=steps,
            batch=batch,
            spatial=tuple(spatial),
            in_channels=0 if input is None else input.shape[2],
            channels=arguments.channels,
            multiple=GPU_MULTIPLE if spec.backend == "triton" or weight.is_cuda else 1,
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
    def input_width(self) -> int:
        """Channels of a row that holds an input and its padding."""
        return _round_up(self.in_channels, self.multiple)

    @property
    def width(self) -> int:
        """Channels of a row [X | 0 | H | 0] that holds input, hidden state and the padding of each."""
        return _round_up(self.input_width + self.channels, self.multiple)

    @property
    def input_slot(self) -> slice:
        """The input's channels in a row."""
        return slice(0, self.in_channels)

    @property
    def hidden_slot(self) -> slice:
        """The hidden state's channels in a row."""
        return slice(self.input_width, self.input_width + self.channels)

    def step_shape(self, channels: int) -> tuple[int, ...]:
        """The shape of one step's rows: (B, *spatial, channels)."""
        return (self.batch, *self.spatial, channels)

    def new_step(self, like: Tensor, channels: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uninitialised rows of one step (B, *spatial, channels)."""
        return like.new_empty(self.step_shape(channels), dtype=dtype)

    def new_sequence(self, like: Tensor, channels: int, steps: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uninitialised rows of a sequence (steps, B, *spatial, channels)."""
        return like.new_empty((steps, *self.step_shape(channels)), dtype=dtype)

    def new_images(
        self, like: Tensor, channels: int, steps: int | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Uninitialised (T, B, channels, *spatial), or (B, channels, *spatial) without steps, stored channels last.

        No view of other memory, so that what a layer returns may be written to like any tensor.
        """
        outer = (self.batch,) if steps is None else (steps, self.batch)
        stride, strides = channels, []
        for size in reversed((*outer, *self.spatial)):
            strides.insert(0, stride)
            stride = stride * (max(size, 1) if isinstance(size, int) else torch.sym_max(size, 1))
        strides.insert(len(outer), 1)
        return like.new_empty_strided((*outer, channels, *self.spatial), strides, dtype=dtype)

    def new_results(self, like: Tensor, spec: Spec, *, save: bool) -> Results:
        """Uninitialised results; c_n has the cell state's dtype.

        Where the last step alone is returned, there is no output of the others, unless the backward pass reads it.
        """
        returns_last, returns_cells = spec.returns == "last", spec.returns == "cells"
        return Results(
            self.new_images(like, self.channels, 1 if returns_last and not save else self.steps),
            self.new_images(like, self.channels),
            self.new_images(like, self.channels, self.steps if returns_cells else None, cell_dtype(like.dtype)),
        )


def to_rows(images: Tensor, channel_dim: int = 1) -> Tensor:
    """(B, C, *spatial) as (B, *spatial, C), without a copy."""
    return images if images.dim() == channel_dim + 1 else images.movedim(channel_dim, -1)


def from_rows(rows: Tensor, channel_dim: int = 1) -> Tensor:
    """(B, *spatial, C) as (B, C, *spatial), without a copy."""
    return rows.movedim(-1, channel_dim)


def unpack_peephole(grad: Tensor, peephole: Tensor) -> Tensor:
    """The gradient of a peephole's rows (3, …, C) as one of `peephole`, with its dtype and its strides."""
    result = torch.empty_like(peephole)
    rows = to_rows(result)
    rows.copy_(grad.view(rows.shape))
    return result


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
