"""Trees of dictionaries with tensors or arrays, as checkpoints and JAX have them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..core import checks

_DEPTH = 32


def flatten(tree: Mapping, depth: int = 0) -> dict[str, object]:
    """The leaves by key, the keys of nested dictionaries joined by "."."""
    if depth == _DEPTH:
        raise ValueError(f"state_dict: expected dictionaries nested at most {_DEPTH} deep, got more")
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        is_tree = isinstance(value, Mapping)
        found = (
            {f"{key}.{below}": leaf for below, leaf in flatten(value, depth + 1).items()}
            if is_tree
            else {str(key): value}
        )
        twice = found.keys() & leaves.keys()
        if twice:
            raise ValueError(f"{min(twice)}: expected one value of this key, got another in a dictionary beside it")
        leaves |= found
    return leaves


def nest(leaves: Mapping[str, object]) -> dict[str, object]:
    """The inverse of `flatten`."""
    tree: dict = {}
    for key, value in leaves.items():
        *path, last = key.split(".")
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node[last] = value
    return tree


def to_tensor(key: str, value: object) -> Tensor:
    """A tensor as it is; an array of NumPy, JAX or another framework as a tensor that shares nothing with it."""
    if isinstance(value, Tensor):
        return value
    if not hasattr(value, "__array__") or not hasattr(value, "shape"):
        raise TypeError(f"{key}: expected a tensor or an array, got {checks.describe(value)}")
    import numpy

    array = numpy.array(value)
    if array.dtype.name == "bfloat16":  # which NumPy has from JAX, and PyTorch does not take from it
        return torch.from_numpy(array.view(numpy.uint16)).view(torch.bfloat16)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise TypeError(f"{key}: expected an array of floating-point numbers, got {array.dtype}") from error
