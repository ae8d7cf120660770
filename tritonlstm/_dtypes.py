"""Which dtype a call computes in, and which its cell state has."""

import torch
from torch import Tensor


def cell_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of c where h has `dtype`: float32 for the half types, else the same."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of the convolution: autocast's where it is on (it never touches float64), else the weight's."""
    device = weight.device.type
    if weight.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype
