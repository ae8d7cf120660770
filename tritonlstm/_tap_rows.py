"""A convolution's weight gradient as matrix products, one for each row of its kernel's taps.

Where oneDNN's vectors have 256 bits, its own weight gradient over channels-last rows is far from the processor's peak
in large images: 30 to 60 of 90 GFLOP/s on one thread of an EPYC, which these products nearly reach.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _devices

MIN_PIXELS, MIN_WEIGHTS, MAX_THREADS = 2048, 4096, 2
"""In images of so many pixels at least, with weights of so many elements a tap, the products are faster (3×3 and 5×5,
float32): on one thread 1.2 to 2.9 times as fast as oneDNN, on two 1.05 to 2.6 times. More threads were not measured."""

STRIP_PIXELS = 2048
"""Pixels of an image whose neighbours are laid out at once: few enough to stay in the cache."""


def is_faster(rows: Tensor, weight: Tensor) -> bool:
    """Whether `weight_grad` here is faster than PyTorch's; rows (N, *spatial, K), weight (O, *kernel, K)."""
    if rows.device.type != "cpu" or rows.dtype != torch.float32 or _devices.CPU_CAPABILITY != "AVX2":
        return False
    if torch.get_num_threads() > MAX_THREADS or math.prod(weight.shape[1:-1]) == 1:
        return False
    _, *spatial, in_channels = rows.shape
    is_image = len(spatial) == 2 and rows.is_contiguous()
    return is_image and math.prod(spatial) >= MIN_PIXELS and in_channels * weight.shape[0] >= MIN_WEIGHTS


def weight_grad(rows: Tensor, grad: Tensor, kernel: Sequence[int]) -> Tensor:
    """rows (N, H, W, K) and grad (N, H, W, O), both contiguous → (O, kh, kw, K), with any strides.

    A strip of an image is copied kw times, shifted along W, so that a pixel's row holds those of its kw neighbours.
    There the rows for one of kh taps are a matrix (pixels, kw·K), and that tap's gradient is its product with dA. What
    lies beyond an edge is a zero like any other number: times a NaN in dA it is NaN.
    """
    images, height, width, in_channels = rows.shape
    kernel_height, kernel_width = kernel
    strip = min(height, math.ceil(STRIP_PIXELS / width))
    neighbours = rows.new_zeros(strip + kernel_height - 1, width, kernel_width, in_channels)
    result = rows.new_zeros(kernel_height, grad.shape[-1], kernel_width * in_channels)
    for image in range(images):
        for first in range(0, height, strip):
            last = min(first + strip, height)
            _lay_out(rows[image], first - kernel_height // 2, last + kernel_height // 2, neighbours)
            of_strip = grad[image, first:last].flatten(0, 1).t()
            for tap in range(kernel_height):
                result[tap].addmm_(of_strip, neighbours[tap : tap + last - first].view(-1, result.shape[-1]))
    return result.unflatten(-1, (kernel_width, in_channels)).transpose(0, 1)


def _lay_out(image: Tensor, first: int, last: int, neighbours: Tensor) -> None:
    """Rows first … last - 1 of image (H, W, K), zeros where there are none, into the first of neighbours (., W, kw, K).

    Neighbours beyond an edge along W are left as they are.
    """
    height, width, _ = image.shape
    begin, end = max(first, 0), min(last, height)
    neighbours[: begin - first] = 0
    neighbours[end - first : last - first] = 0
    for tap in range(neighbours.shape[2]):
        shift = tap - neighbours.shape[2] // 2
        left = max(shift, 0)
        right = max(left, width + min(shift, 0))
        neighbours[begin - first : end - first, left - shift : right - shift, tap] = image[begin:end, left:right]
