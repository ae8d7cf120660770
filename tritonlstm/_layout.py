"""Where a layer's tensors lie in memory, and the copies that bring them there.

Everything inside the operator is channels last: a (B, C, H, W) image is stored as rows of channels, one row for each
pixel of each image, so that the flattened tensor is (M, C) with M = B·H·W. The convolution reads one such tensor a
step,

    inputs[t] = [ H_{t-1} | X_t | 0 ]        (B, *spatial, width)

in which the gate kernel of the step before has already written the hidden part: nothing is concatenated. The public
weight has the input channels first; its columns are put in this order in the one copy that makes it channels last.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GPU_MULTIPLE = 8
"""Channels to which a row of `inputs` is padded for the GPU: 16 bytes of a half type, what tensor cores and 16-byte
accesses want. Not measured there yet. On a CPU padding only costs a convolution: 33 → 40 channels made it 17% slower
forward in float32 and 8% in bfloat16 (Zen 5, oneDNN), so there it is not done."""

CPU_PRODUCT_BYTES = 64
"""A CPU's matrix product, which a 1×1 convolution is too, rounds as its operands are aligned. With rows of whole cache
lines a step computes the same bits wherever in the sequence it stands."""


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Layout:
    """The sizes of one layer's sequence.

    `spatial` is () for a layer of vectors (the FC-LSTM) and (H, W) for one of images; `width` counts the channels of a
    row of `inputs`: hidden, input and padding.
    """

    steps: int
    batch: int
    spatial: tuple[int, ...]
    in_channels: int
    channels: int
    width: int

    @classmethod
    def of(cls, weight: Tensor, steps: int, batch: int, spatial: tuple[int, ...], *, triton: bool) -> "Layout":
        """The layout of a call with weight (4C, Cin + C, *kernel), whose gates run in Triton or not."""
        channels, used = weight.shape[0] // 4, weight.shape[1]
        if math.prod(weight.shape[2:]) == 1 and not weight.is_cuda:
            multiple = CPU_PRODUCT_BYTES // weight.element_size()
        else:
            multiple = GPU_MULTIPLE if triton or weight.is_cuda else 1
        return cls(
            steps=steps,
            batch=batch,
            spatial=tuple(spatial),
            in_channels=used - channels,
            channels=channels,
            width=_round_up(used, multiple),
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


def pack_inputs(input: Tensor | None, h0: Tensor, layout: Layout, steps: int | None = None) -> Tensor:
    """The convolution's inputs (T, B, *spatial, width): X in its slot, h0 in the first hidden slot, zeros as padding.

    The other hidden slots are left for the gate kernel to fill. X may have any strides, an expanded time axis included.
    With `steps`, the inputs of so many steps from the first.
    """
    inputs = h0.new_empty(layout.sequence_shape(layout.width, steps))
    inputs[0, ..., layout.hidden_slot] = to_rows(h0)
    if input is not None:
        inputs[..., layout.input_slot] = to_rows(input[:steps], channel_dim=2)
    inputs[..., layout.input_slot.stop :] = 0
    return inputs


def pack_weight(weight: Tensor, layout: Layout) -> Tensor:
    """weight (4C, Cin + C, *kernel) as dense (4C, *kernel, width), its columns in the order of a row of `inputs`."""
    columns = to_rows(weight)
    packed = weight.new_empty((*columns.shape[:-1], layout.width))
    packed[..., layout.hidden_slot] = columns[..., layout.in_channels :]
    packed[..., layout.input_slot] = columns[..., : layout.in_channels]
    packed[..., layout.input_slot.stop :] = 0
    return packed


def unpack_weight_grad(grad: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    """The gradient of the packed weight as one of `weight`, with its dtype and its strides."""
    result = torch.empty_like(weight)
    columns = to_rows(result)
    columns[..., : layout.in_channels] = grad[..., layout.input_slot]
    columns[..., layout.in_channels :] = grad[..., layout.hidden_slot]
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
