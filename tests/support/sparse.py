"""Tensors larger than the machine's memory, of which pages are taken only where something is written."""

import math
import mmap

import torch
from torch import Tensor

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python names it from 3.11 on


def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor of zeros for which the system reserves addresses alone."""
    size = math.prod(shape) * dtype.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
