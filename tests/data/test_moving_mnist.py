"""Moving MNIST: whole digits, straight flight, bounces, and the same movie for the same seed."""

import pytest
import torch
from torch import Tensor

from tritonlstm.data import moving_mnist


def make(count: int = 5, *, seed: int = 0, digits: Tensor | None = None, **options: object) -> Tensor:
    digits = torch.rand(7, 10, 8) * 0.9 + 0.1 if digits is None else digits
    return moving_mnist(digits, count, size=32, generator=torch.Generator().manual_seed(seed), **options)


def corners(movie: Tensor) -> Tensor:
    """(T, B, 2): the top left corner of the one digit in each frame."""
    lit = movie.squeeze(2) > 0
    return torch.stack([lit.any(3).int().argmax(2), lit.any(2).int().argmax(2)], 2)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_shape_and_range(count: int):
    movie = make(count, frames=6)
    assert movie.shape == (6, count, 1, 32, 32)
    assert ((movie >= 0) & (movie <= 1)).all()


def test_the_seed_decides():
    digits = torch.rand(7, 10, 8)
    assert torch.equal(make(digits=digits), make(digits=digits))
    assert not torch.equal(make(digits=digits), make(digits=digits, seed=1))


def test_a_digit_stays_whole():
    digits = torch.full((1, 10, 8), 0.5)
    movie = make(20, digits=digits, frames=40, digits_per_sequence=1)
    torch.testing.assert_close(movie.sum((2, 3, 4)), torch.full((40, 20), 40.0))


def test_it_flies_at_its_speed_and_turns_at_the_walls():
    movie = make(50, digits=torch.ones(1, 10, 8), frames=60, digits_per_sequence=1, speed=2.0)
    where = corners(movie).double()
    steps = where.diff(dim=0)
    # A step is at most the speed, and a pixel of rounding; a long flight within the box turns often.
    assert steps.abs().max() <= 3
    straight = (where[4] - where[0]).norm(dim=-1)
    assert straight.max() == pytest.approx(8, abs=1.5)
    assert (where >= 0).all()
    assert (where <= torch.tensor([22, 24])).all()
    assert ((steps > 0).any(0) & (steps < 0).any(0)).any(1).all()


def test_the_brighter_pixel_is_seen_where_digits_overlap():
    digits = torch.stack([torch.full((30, 30), 0.25), torch.full((30, 30), 0.75)])
    movie = make(40, digits=digits, digits_per_sequence=2)
    assert set(movie.unique().tolist()) == {0.0, 0.25, 0.75}
