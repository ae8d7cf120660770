"""Which implementation a call runs on.

"auto"    the Triton kernels where they can run, else the same algorithm in ATen calls
"triton"  the Triton kernels, or an error that says why not
"torch"   the equations as plain PyTorch operations (`reference`), for what the operators cannot do
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ._dtypes import compute_dtype

BACKENDS = ("auto", "triton", "torch")
TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_TRITON_IS_INSTALLED = importlib.util.find_spec("triton") is not None
_TRITON_INTERPRETS = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
"""Triton reads this variable when a kernel is defined, so it must be set before this package is imported."""


_in_onnx_as_operator: ContextVar[bool] = ContextVar("_in_onnx_as_operator", default=False)


@contextmanager
def as_operator_in_onnx() -> Iterator[None]:
    """Within it, an export to ONNX sees the operators, which else no ONNX runtime would know."""
    token = _in_onnx_as_operator.set(True)
    try:
        yield
    finally:
        _in_onnx_as_operator.reset(token)


def uses_reference(backend: str) -> bool:
    """Whether a call runs as plain PyTorch operations."""
    return backend == "torch" or (torch.onnx.is_in_onnx_export() and not _in_onnx_as_operator.get())


def uses_triton(backend: str, weight: Tensor) -> bool:
    """Whether an operator's gates run in Triton; raises where they must and cannot."""
    if backend == "auto":
        return weight.is_cuda and weight.dtype in TRITON_DTYPES and _TRITON_IS_INSTALLED
    reason = _obstacle(weight)
    if reason is not None:
        raise ValueError(f'backend: "triton" {reason}; "auto" works here')
    return True


def _obstacle(weight: Tensor) -> str | None:
    if not _TRITON_IS_INSTALLED:
        return "needs the package triton, which is not installed"
    if compute_dtype(weight) not in TRITON_DTYPES:
        return f"computes in {', '.join(map(str, TRITON_DTYPES))}, got {compute_dtype(weight)}"
    if weight.device.type in ("cuda", "meta"):
        return None
    if weight.device.type == "cpu" and _TRITON_INTERPRETS:
        return None
    return f"needs a GPU, or TRITON_INTERPRET=1 in the environment, got a weight on {weight.device}"
