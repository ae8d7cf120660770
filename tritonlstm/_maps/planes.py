"""Where a layer convolves planes rather than rows."""

import operator
import sys

import torch
from torch import Tensor

from .. import _devices
from . import winograd

WIDTHS, MULTIPLE = (5, 7), 8
"""Kernels so wide and no taller than the widest, over multiples of so many channels, convolve planes 0.96 to 1.49
times as fast as rows, most of them over 1.1, where oneDNN's vectors have 256 bits (one and two threads of an EPYC,
float32, 3×5, 5×5 and 7×7, 16×16 to 128×128 pixels). Narrower ones, 9×9 and other channels are slower there. Not
measured with 512 bits, where rows stay."""


def convolves_faster_in_planes(weight: Tensor) -> bool:
    """Whether PyTorch's convolutions with this weight (4C, K, *kernel) were measured to be faster over planes."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or _devices.CPU_CAPABILITY != "AVX2":
        return False
    gates, columns, *kernel = _sizes(weight)
    is_wide = bool(kernel) and kernel[-1] in WIDTHS and kernel[0] <= max(WIDTHS)
    return is_wide and gates // 4 % MULTIPLE == columns % MULTIPLE == 0


def is_faster_in_planes(weight: Tensor, input_weight: Tensor | None = None, *, pixels: int | None = None) -> bool:
    """Whether a layer of these weights, its gates in ATen calls, was measured to be faster over planes than over rows.

    weight (4C, Cin + C, *kernel), or (4C, C, *kernel) beside input_weight (4C, Cin, *input_kernel). pixels: B·H·W; None
    where a compiler must not ask for it, which counts as many. Minimal filtering, which is faster still, is over rows.
    """
    weights = [weight] if input_weight is None else [weight, input_weight]
    return all(map(convolves_faster_in_planes, weights)) and not any(_filters(each, pixels) for each in weights)


def _filters(weight: Tensor, pixels: int | None) -> bool:
    gates, columns, *kernel = _sizes(weight)
    return winograd.pays(winograd.MAP, kernel, columns, gates, sys.maxsize if pixels is None else pixels)


def _sizes(weight: Tensor) -> list[int]:
    """A weight's sizes, which to a compiler are constants here."""
    return [operator.index(size) for size in weight.shape]
