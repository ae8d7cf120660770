"""A weight's columns in the order of a convolution's rows, and its gradient's back in the weight's own."""

import torch
from torch import Tensor

from ..core.layout import from_rows


def pack(width: int, *parts: tuple[slice, Tensor]) -> Tensor:
    """Weights (4C, K, *kernel) in their slots of `width` columns, zeros between: (4C, width, *kernel), channels last.

    A single weight of that width is returned as it is.
    """
    _, first = parts[0]
    if len(parts) == 1 and first.shape[1] == width:
        return first
    gates, _, *kernel = first.shape
    packed = from_rows(first.new_zeros(gates, *kernel, width))
    for slot, part in parts:
        packed[:, slot] = part
    return packed


def unpack(weight: Tensor, *parts: Tensor) -> Tensor:
    """Gradients (4C, K, *kernel) side by side as the gradient of `weight`, with its dtype and its strides."""
    result = torch.empty_like(weight)
    for columns, part in zip(result.split([part.shape[1] for part in parts], 1), parts):
        columns.copy_(part)
    return result
