"""The oracle itself: it passes gradcheck, and its backward pass by hand agrees with autograd."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.support.problems import ARGUMENTS, MASKS, SHAPES, Problem, Shape, by_reference
from tritonlstm import Spec, reference

TINY = {
    "images": Shape(steps=2, batch=1, in_channels=1, channels=2, spatial=(2, 3), kernel=(3, 1)),
    "input kernel": Shape(
        steps=2, batch=1, in_channels=1, channels=2, spatial=(2, 3), kernel=(3, 1), input_kernel=(1, 3)
    ),
    "signals": Shape(steps=2, batch=1, in_channels=1, channels=2, spatial=(3,), kernel=(3,)),
    "volumes": Shape(steps=2, batch=1, in_channels=1, channels=1, spatial=(2, 1, 2), kernel=(3, 1, 3)),
    "vectors": Shape(steps=3, batch=2, in_channels=2, channels=2, spatial=(), kernel=()),
    "vectors, leaky relu, identity of c, clipped": Shape(
        steps=3,
        batch=2,
        in_channels=1,
        channels=2,
        spatial=(),
        kernel=(),
        spec=Spec(activation="leaky_relu", output_activation="identity", cell_clip=0.75),
    ),
    "masks": Shape(steps=3, batch=3, in_channels=1, channels=1, spatial=(), kernel=(), masks=MASKS),
}


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck], ids=["first", "second"])
@pytest.mark.parametrize("peephole", ["none", "channel", "full"])
@pytest.mark.parametrize("shape", TINY.values(), ids=TINY.keys())
def test_derivatives(shape: Shape, peephole: str, check):
    problem = Problem.random(shape.but(peephole=peephole), torch.float64)
    names = list(problem.tensors())

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return by_reference(replace(problem, **dict(zip(names, tensors, strict=True))))

    assert check(run, [tensor.requires_grad_() for tensor in problem.tensors().values()])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_backward_by_hand_agrees_with_autograd(shape: Shape):
    problem = Problem.random(shape, torch.float64)
    expected = problem.solve(by_reference)
    given = {name: getattr(problem, name) for name in ARGUMENTS}
    if not shape.state:
        given["h0"] = given["c0"] = torch.zeros_like(problem.cotangents["h_n"])
    grads = reference.sequence_backward(*problem.cotangents.values(), **given, steps=shape.steps, spec=shape.spec)
    for name in problem.tensors():
        torch.testing.assert_close(getattr(grads, name), expected[f"grad of {name}"], rtol=1e-10, atol=1e-10)


def test_the_equations_for_one_element():
    """The paper's equations with numbers in the place of tensors."""
    x, h, c = 0.3, -0.2, 0.7
    weight = torch.tensor([[0.5, -0.4], [0.1, 0.9], [-0.6, 0.2], [0.8, -0.3]], dtype=torch.float64)
    bias, peephole = [0.1, 1.0, -0.2, 0.05], [0.4, -0.5, 0.6]
    a = [float(row[0]) * x + float(row[1]) * h + b for row, b in zip(weight, bias, strict=True)]

    def sigmoid(value: float) -> float:
        return 1 / (1 + torch.tensor(-value, dtype=torch.float64).exp().item())

    def tanh(value: float) -> float:
        return 2 * sigmoid(2 * value) - 1

    i, f, g = sigmoid(a[0] + peephole[0] * c), sigmoid(a[1] + peephole[1] * c), tanh(a[2])
    new_c = f * c + i * g
    o = sigmoid(a[3] + peephole[2] * new_c)

    def tensor(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    got_h, got_c, _ = reference.step(
        tensor(x).view(1, 1),
        tensor(h).view(1, 1),
        tensor(c).view(1, 1),
        weight,
        tensor(*bias),
        tensor(*peephole).view(3, 1),
    )
    assert got_c.item() == pytest.approx(new_c, abs=1e-14)
    assert got_h.item() == pytest.approx(o * tanh(new_c), abs=1e-14)
