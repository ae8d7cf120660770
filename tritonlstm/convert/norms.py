"""Normalisations between the convolution and the gates, as other code has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core import checks
from . import gates as gate_orders

_BATCH_NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
"""By number of spatial dimensions."""


@dataclass(frozen=True)
class Norm:
    """A normalisation of the 4·C pre-activations.

    Args:
        key: the module's, "conv.1".
    """

    key: str
    required: ClassVar[tuple[str, ...]] = ("weight", "bias")
    optional: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        if not isinstance(self.key, str):
            raise TypeError(f"key: expected the module's key, got {checks.show(self.key)}")

    def make(self, channels: int, dims: int) -> nn.Module:
        """The module for so many channels, those of all gates, in so many spatial dimensions."""
        raise NotImplementedError

    def can_reorder(self, rows: int) -> bool:
        """Whether gates in another order are normalised to the same, in another order."""
        return True

    def reorder(self, tensors: Mapping[str, Tensor], order: str, own: str) -> dict[str, Tensor]:
        """The tensors by name with the gates in the order `own`, from `order`."""
        if order == own or not tensors:
            return dict(tensors)
        rows = next(iter(tensors.values())).shape[0]
        if not self.can_reorder(rows):
            raise ValueError(
                f"{self.key}: a normalisation whose groups have channels of several gates, which come in another order"
            )
        return {
            name: gate_orders.merge(gate_orders.split(tensor, order), own) if tensor.dim() else tensor
            for name, tensor in tensors.items()
        }


@dataclass(frozen=True)
class GroupNorm(Norm):
    """nn.GroupNorm with weight and bias.

    Args:
        key: the module's.
        size: 4·C // size is the number of groups, as in nn.GroupNorm(4 * C // 32, 4 * C).
    """

    size: int = 32

    def __post_init__(self):
        super().__post_init__()
        checks.check_integer("size", self.size, minimum=1)

    def make(self, channels: int, dims: int) -> nn.Module:
        return nn.GroupNorm(self._groups(channels), channels)

    def can_reorder(self, rows: int) -> bool:
        return rows // 4 % (rows // self._groups(rows)) == 0

    def _groups(self, rows: int) -> int:
        groups = rows // self.size
        if groups == 0 or rows % groups:
            raise ValueError(
                f"{self.key}: expected 4·C channels in 4·C // {self.size} equal groups, got {rows} channels"
            )
        return groups


@dataclass(frozen=True)
class BatchNorm(Norm):
    """nn.BatchNorm with weight and bias and its running statistics."""

    required: ClassVar[tuple[str, ...]] = ("weight", "bias", "running_mean", "running_var")
    optional: ClassVar[tuple[str, ...]] = ("num_batches_tracked",)

    def make(self, channels: int, dims: int) -> nn.Module:
        return _BATCH_NORMS[dims](channels)


def read_norm(norm: Norm, key: str, tensors: Mapping[str, Tensor], rows: int) -> dict[str, Tensor] | None:
    """The tensors of a normalisation by name, in the source's order of gates; None where there is none."""
    names = [name for name in (*norm.required, *norm.optional) if f"{key}.{name}" in tensors]
    if not names:
        return None
    for name in norm.required:
        if name not in names:
            raise ValueError(f"{key}.{name}: expected a tensor, got none")
        tensor = tensors[f"{key}.{name}"]
        checks.check_tensor(f"{key}.{name}", tensor)
        checks.check_float_dtype(f"{key}.{name}", tensor.dtype)
        checks.check_shape(f"{key}.{name}", tensor, (rows,), ("4·C",))
    found = {name: tensors[f"{key}.{name}"] for name in names}
    for name in norm.optional:  # a count, which PyTorch wrote from 0.4.1 on
        found.setdefault(name, torch.zeros((), dtype=torch.int64, device=found[norm.required[0]].device))
    return found
