"""Moving MNIST (Srivastava et al. 2015, arXiv 1502.04681): digits that move in a box and bounce off its walls."""

import math

import torch
from torch import Tensor

from ..core import checks

_FASTEST = 1e9
"""Pixels per frame. At a higher speed, rounding of the path in float64 would reach pixels in long sequences."""


def moving_mnist(
    digits: Tensor,
    count: int,
    *,
    frames: int = 20,
    size: int = 64,
    digits_per_sequence: int = 2,
    speed: float = 3.6,
    generator: torch.Generator,
) -> Tensor:
    """Generate sequences of moving digits.

    Args:
        digits: (N, h, w), images in [0, 1], from which digits are drawn.
        count: number of sequences, B.
        frames: frames per sequence, T.
        size: height and width of a frame in pixels, larger than h and w.
        digits_per_sequence: digits in each sequence. Where they overlap, a pixel is their maximum.
        speed: pixels per frame, the same for all digits; the direction is random. In the original data set it is a
            tenth of size - h: 3.6 for digits of 28 pixels in frames of 64. At most 1e9.
        generator: random number generator on the CPU. The same state gives the same sequences.

    Returns:
        (T, B, 1, size, size), in [0, 1], with the dtype of `digits`.

    Raises:
        TypeError, ValueError: for an invalid argument, which the message names.
    """
    checks.check_tensor("digits", digits)
    size = checks.check_integer("size", size, minimum=2)
    if digits.dim() != 3 or not digits.numel() or max(digits.shape[1:]) >= size:
        raise ValueError(
            f"digits: expected shape (N, h, w), none of them 0, with h, w < size = {size}, got {tuple(digits.shape)}"
        )
    count = checks.check_integer("count", count, minimum=0)
    frames = checks.check_integer("frames", frames, minimum=1)
    digits_per_sequence = checks.check_integer("digits_per_sequence", digits_per_sequence, minimum=1)
    speed = checks.check_number("speed", speed, largest=_FASTEST)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {checks.show(generator)}")
    height, width = digits.shape[1:]
    room = torch.tensor([size - height, size - width], dtype=torch.float64)
    t = torch.arange(frames, dtype=torch.float64)[:, None, None]
    step, sequence = torch.arange(frames)[:, None, None, None], torch.arange(count)[None, :, None, None]

    movie = digits.new_zeros(frames, count, size, size)
    for _ in range(digits_per_sequence):
        chosen = torch.randint(len(digits), (count,), generator=generator)
        start = torch.rand(count, 2, dtype=torch.float64, generator=generator) * room
        angle = torch.rand(count, dtype=torch.float64, generator=generator) * 2 * math.pi
        velocity = speed * torch.stack([angle.sin(), angle.cos()], 1)
        # Reflection at the walls folds a straight path back into the box.
        corner = room - ((start + velocity * t).remainder(2 * room) - room).abs()
        corner = corner.round().long()  # (T, B, 2)
        rows = corner[..., 0, None, None] + torch.arange(height)[:, None]
        columns = corner[..., 1, None, None] + torch.arange(width)
        layer = torch.zeros_like(movie)
        layer[step, sequence, rows, columns] = digits[chosen].expand(frames, -1, -1, -1)
        movie = torch.maximum(movie, layer)
    return movie.unsqueeze(2)
