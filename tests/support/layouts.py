"""Tensors with the same shape and other strides, for sequences (T, B, C, *spatial)."""

import torch
from torch import Tensor


def dense(input: Tensor) -> Tensor:
    """As it is."""
    return input


def expand_time(input: Tensor) -> Tensor:
    """The first step at every step: stride 0 in time."""
    return input[:1].expand(input.shape)


def slice_channels(input: Tensor) -> Tensor:
    """Every other channel of a tensor with twice as many."""
    return torch.cat([input, input], 2)[:, :, ::2]


def channels_last(input: Tensor) -> Tensor:
    """Images whose channels lie side by side."""
    return input.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, input.shape[:2])


def batch_first(input: Tensor) -> Tensor:
    """A view of (B, T, C, *spatial)."""
    return input.transpose(0, 1).contiguous().transpose(0, 1)


def expand_space(input: Tensor) -> Tensor:
    """The first pixel at every pixel: stride 0 in height and width."""
    return input[..., :1, :1].expand(input.shape)


def slice_height(input: Tensor) -> Tensor:
    """Every other row of images or volumes with twice as many: no dimension merges with it."""
    return input.repeat_interleave(2, -2)[..., ::2, :]


def flip_storage(input: Tensor) -> Tensor:
    """With the dimensions in reverse order in memory. Of any number of dimensions."""
    return input.permute(*reversed(range(input.dim()))).contiguous().permute(*reversed(range(input.dim())))


OF_VECTORS = [dense, expand_time, slice_channels, batch_first, flip_storage]
OF_IMAGES = [*OF_VECTORS, channels_last, expand_space]
