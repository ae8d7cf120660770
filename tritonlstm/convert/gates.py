"""The order of the gates in a tensor whose first dimension has one block of rows for each gate."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.checks import show

ORDER = "ifgo"
"""Of this package: input gate, forget gate, candidate, output gate."""

PEEPHOLE_ORDER = "ifo"


def check_order(name: str, order: object, letters: str = ORDER) -> None:
    if not isinstance(order, str) or sorted(order) != sorted(letters):
        candidate = "; g is the candidate, which others call c or j" if "g" in letters else ""
        raise ValueError(
            f"{name}: expected an order of the letters {letters}, as {letters!r}, got {show(order)}{candidate}"
        )


def split(tensor: Tensor, order: str) -> dict[str, Tensor]:
    """The rows of each gate of a tensor (G·C, …) whose G gates come in this order."""
    return dict(zip(order, tensor.chunk(len(order))))


def merge(gates: Mapping[str, Tensor], order: str) -> Tensor:
    """The inverse of `split`."""
    if len(order) == 1:
        return gates[order]
    return torch.cat([gates[gate] for gate in order])
