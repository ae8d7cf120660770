"""Which implementation a call runs on, from the `backend` that was asked for (see `Spec`) and from what is there."""

import functools
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from .compiler import constant_when_compiled

TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

INSTALL_TRITON = (
    "PyTorch's wheels for CUDA and ROCm on Linux bring Triton; beside any other PyTorch, pip install"
    " 'tritonlstm[triton]' adds it"
)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a stub in sys.modules without a spec, as builds of documentation put there
        return False


TRITON_IS_INSTALLED = _is_installed("triton")


@constant_when_compiled
def interprets() -> bool:
    """Whether Triton interprets kernels. It decides from TRITON_INTERPRET when it is imported, here if not before.

    Its own functions in Python, which kernels call, are defined then. A kernel must be defined in the same way.
    """
    import triton.language
    from triton.runtime import JITFunction

    return not isinstance(triton.language.cdiv, JITFunction)


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
        if weight.is_cuda and weight.dtype in TRITON_DTYPES:
            if TRITON_IS_INSTALLED:
                return "triton"
            _warn_without_triton()
            return "aten"
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
        return f"needs the package triton, which is not installed ({INSTALL_TRITON})"
    if weight.dtype not in TRITON_DTYPES:
        return f"computes in {', '.join(map(str, TRITON_DTYPES))}, got {weight.dtype}"
    if weight.device.type in ("cuda", "meta"):
        return None
    if weight.device.type != "cpu":
        return f"needs a GPU, got a weight on {weight.device}"
    if interprets():
        return None
    if _interpreter_is_wanted():
        return "cannot interpret: TRITON_INTERPRET was set after the import of Triton, which reads it then"
    return f"needs a GPU, or TRITON_INTERPRET=1 before Triton is imported, got a weight on {weight.device}"


@constant_when_compiled
def _interpreter_is_wanted() -> bool:
    import triton

    return triton.knobs.runtime.interpret


def check_interpreter() -> None:
    """Raises RuntimeError where kernels that are defined now would be of another kind than Triton's own functions."""
    if _interpreter_is_wanted() != interprets():
        was, now = ("set", "unset") if interprets() else ("unset", "set")
        raise RuntimeError(
            f"TRITON_INTERPRET was {was} when Triton was imported and is {now} at the first call of a kernel: set it"
            " before the import of Triton, and leave it until after the first call"
        )


@constant_when_compiled
def _warn_without_triton() -> None:
    _warn_once()


@functools.cache
def _warn_once() -> None:
    if sys.platform == "linux":  # there is no Triton for other systems
        warnings.warn(
            f"tritonlstm runs in ATen calls, because the package triton is not installed. {INSTALL_TRITON}. To keep"
            ' ATen calls without this warning, pass backend="aten".',
            stacklevel=4,
        )
