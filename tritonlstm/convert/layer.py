"""The tensors of one layer in the form that all formats are translated from and to."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import checks


class LayerTensors(NamedTuple):
    """The weights of one layer, gates in the order i, f, g, o, with the input's part apart from the hidden state's."""

    input: Tensor | None  # (4C, Cin, *input_kernel); None without an input
    hidden: Tensor  # (4C, C, *kernel); (4C, P) with a projection
    bias: Tensor | None  # (4C)
    peephole: Tensor | None  # (3, C, *spatial or ones)    w_ci, w_cf, w_co
    projection: Tensor | None = None  # (P, C)
    norm: Mapping[str, Tensor] | None = None  # by name, each (4C) or without dimensions

    @property
    def channels(self) -> int:
        """C."""
        return self.hidden.shape[0] // 4

    @property
    def out_channels(self) -> int:
        """The channels of h: P with a projection, else C."""
        return self.hidden.shape[1]

    @property
    def in_channels(self) -> int:
        """Cin."""
        return 0 if self.input is None else self.input.shape[1]

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.hidden.shape[2:])

    @property
    def input_kernel(self) -> tuple[int, ...]:
        return self.kernel if self.input is None else tuple(self.input.shape[2:])

    def is_joint(self) -> bool:
        """Whether one kernel can read input and hidden state."""
        return self.input_kernel == self.kernel


def check_layer(name: str, layer: LayerTensors) -> None:
    """Raise a ValueError where the tensors do not fit together; `name` is the layer's in messages."""
    hidden, input, bias, peephole, projection = layer.hidden, layer.input, layer.bias, layer.peephole, layer.projection
    rows, dims = 4 * layer.channels, hidden.dim() - 2
    if projection is not None and dims:
        raise ValueError(f"{name}: expected no projection beside weights of {hidden.dim()} dimensions, got one")
    if projection is not None and not 0 < projection.shape[0] < projection.shape[1]:
        raise ValueError(
            f"{name}: expected a projection of shape (P, C) with P less than C, got {tuple(projection.shape)}"
        )
    channels, columns = (layer.channels,) * 2 if projection is None else (projection.shape[1], projection.shape[0])
    if rows == 0 or tuple(hidden.shape[:2]) != (4 * channels, columns):
        wanted = "(4·C, C, …)" if projection is None else f"(4·C, P) = ({4 * channels}, {columns})"
        raise ValueError(f"{name}: expected weights of the hidden state of shape {wanted}, got {tuple(hidden.shape)}")
    if input is not None and (input.dim() != hidden.dim() or input.shape[0] != rows):
        raise ValueError(
            f"{name}: expected weights of the input of shape (4·C, Cin, …) = ({rows}, Cin, …) in {hidden.dim()}"
            f" dimensions, got {tuple(input.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (rows,):
        raise ValueError(f"{name}: expected a bias of shape (4·C) = ({rows},), got {tuple(bias.shape)}")
    if peephole is not None and (peephole.dim() != 2 + dims or tuple(peephole.shape[:2]) != (3, layer.channels)):
        raise ValueError(
            f"{name}: expected peepholes of shape (3, C, …) = (3, {layer.channels}, …) in {2 + dims} dimensions,"
            f" got {tuple(peephole.shape)}"
        )
    for tensor in (hidden, input, bias, peephole, projection):
        if tensor is not None and tensor.dtype not in checks.DTYPES:
            raise TypeError(f"{name}: expected {', '.join(map(str, checks.DTYPES))}, got {tensor.dtype}")


def add_to_forget_gate(layer: LayerTensors, value: float) -> LayerTensors:
    """The layer with `value` added to the bias of f."""
    if value == 0:
        return layer
    channels = layer.channels
    bias = layer.hidden.new_zeros(4 * channels) if layer.bias is None else layer.bias
    i, f, g, o = bias.chunk(4)
    return layer._replace(bias=torch.cat([i, f + value, g, o]))


def without_even_sizes(weight: Tensor) -> Tensor:
    """Embed a kernel of even sizes in the next odd ones.

    With "same" padding, frameworks pad an even size k by k/2 - 1 pixels before and k/2 behind. An odd size pads
    equally, so the zeros come first.
    """
    pads = [amount for size in reversed(weight.shape[2:]) for amount in ((size + 1) % 2, 0)]
    return torch.nn.functional.pad(weight, pads) if any(pads) else weight
