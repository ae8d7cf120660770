"""Checks of tensors' shapes, dtypes and devices, and what follows from these, once for each combination of them."""

import operator
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

_metadata = operator.attrgetter("shape", "dtype", "device", "layout")
_passed: dict[tuple, object] = {}
_MOST_PASSED = 1024
_UNKNOWN = object()


def once(check: Callable[..., Result], tensors: Sequence[Tensor | None], *rest: object) -> Result:
    """check(tensors, *rest), or its result from before if it passed with such tensors and the same rest.

    For eager mode. The result may depend on nothing but the tensors' shapes, dtypes, devices and layouts, and the rest:
    on no other state of this package or of PyTorch. In a loop over small steps a check takes longer than the step.
    """
    if torch.compiler.is_compiling() or torch._C._is_any_autocast_enabled() or torch._C._get_tracing_state():
        return check(tensors, *rest)
    try:
        key = (check, *rest, *[None if tensor is None else _metadata(tensor) for tensor in tensors])
        known = _passed.get(key, _UNKNOWN)
    except (AttributeError, TypeError, RuntimeError):  # no tensor; a symbolic size, which has no hash; a nested tensor
        return check(tensors, *rest)
    if known is not _UNKNOWN:
        return known
    result = check(tensors, *rest)
    if len(_passed) >= _MOST_PASSED:
        _passed.clear()
    _passed[key] = result
    return result
