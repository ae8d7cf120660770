"""Which dtype a call computes in, and which its cell state has."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from . import devices

_NOTHING = nullcontext()


def cell_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of c where h has `dtype`: float32 for the half types, else the same."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of the convolution: autocast's where it is on (it never touches float64), else the weight's."""
    return torch.get_autocast_dtype(weight.device.type) if _is_autocast(weight) else weight.dtype


def convolution_dtype(weight: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which to convolve in `dtype`: the same, or float32 where there is no right convolution in that.

    That is where cuDNN or oneDNN has none, and on a CPU for volumes: oneDNN's weight gradient in bfloat16 has memory
    that was never written where a kernel is deeper than the volume (PyTorch 2.13).
    """
    if devices.is_nvidia(weight.device):
        is_missing = dtype == torch.bfloat16 and not devices.cudnn_has_bfloat16(weight.device)
        return torch.float32 if is_missing else dtype
    if weight.device.type != "cpu":
        return dtype
    is_half_volume = weight.dim() == 5 and dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if is_half_volume or dtype in devices.CPU_LACKS else dtype


def activation_dtypes(like: Tensor) -> tuple[torch.dtype, ...]:
    """The dtypes of inputs and hidden states beside `like`: its own or, under autocast, what that casts from and to."""
    if not _is_autocast(like):
        return (like.dtype,)
    return tuple(dict.fromkeys((like.dtype, torch.float32, torch.get_autocast_dtype(like.device.type))))


def _is_autocast(tensor: Tensor) -> bool:
    device = tensor.device.type
    return tensor.dtype != torch.float64 and _has_autocast(device) and torch.is_autocast_enabled(device)


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Within it, operations on the tensor's device keep their dtypes."""
    device = tensor.device.type
    is_on = _has_autocast(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else _NOTHING


def _has_autocast(device: str) -> bool:
    return device != "meta"  # asking about it raises
