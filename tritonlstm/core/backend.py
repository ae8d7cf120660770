"""Which implementation a call runs on, from the `backend` that was asked for (see `Spec`) and from what is there."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

TRITON_IS_INSTALLED = importlib.util.find_spec("triton") is not None
TRITON_INTERPRETS = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
"""Triton reads this variable when a kernel is defined, so it must be set before this package is imported."""


_in_onnx_as_operator: ContextVar[bool] = ContextVar("_in_onnx_as_operator", default=False)


@contextmanager
def as_operator_in_onnx() -> Iterator[None]:
    """Within it, an export to ONNX sees the operators; without, plain operations, which every ONNX runtime knows."""
    token = _in_onnx_as_operator.set(True)
    try:
        yield
    finally:
        _in_onnx_as_operator.reset(token)


def resolve(backend: str, weight: Tensor) -> str:
    """ "triton", "inductor", "aten" or "torch" for a call. Raises ValueError for one that cannot run here."""
    if backend == "torch" or (torch.onnx.is_in_onnx_export() and not _in_onnx_as_operator.get()):
        return "torch"
    if backend == "auto":
        has_triton = weight.is_cuda and weight.dtype in TRITON_DTYPES and TRITON_IS_INSTALLED
        if has_triton:
            return "triton"
        # An exported program must run where there is no compiler.
        is_compiled = torch.compiler.is_compiling() and not is_exporting()
        return "inductor" if is_compiled and weight.device.type == "cpu" else "aten"
    reason = _obstacle(backend, weight)
    if reason is not None:
        raise ValueError(f'backend: "{backend}" {reason}; "auto" works here')
    return backend


def is_exporting() -> bool:
    """Whether torch.export traces. torch.compiler.is_exporting() is True in all that torch 2.11 compiles."""
    return torch.compiler._is_exporting_flag


def _obstacle(backend: str, weight: Tensor) -> str | None:
    """Why a backend cannot run with this weight."""
    if backend == "inductor" and weight.device.type not in ("cpu", "meta"):
        return f"compiles for a CPU, got a weight on {weight.device}"
    if backend != "triton":
        return None
    if not TRITON_IS_INSTALLED:
        return "needs the package triton, which is not installed"
    if weight.dtype not in TRITON_DTYPES:
        return f"computes in {', '.join(map(str, TRITON_DTYPES))}, got {weight.dtype}"
    if weight.device.type in ("cuda", "meta"):
        return None
    if weight.device.type == "cpu" and TRITON_INTERPRETS:
        return None
    return f"needs a GPU, or TRITON_INTERPRET=1 in the environment, got a weight on {weight.device}"
