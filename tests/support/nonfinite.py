"""Problems with a NaN or an infinity in one number of a parameter, and what is to become of it."""

from dataclasses import replace

import torch
from torch import Tensor

from tests.support.problems import Problem, by_reference
from tritonlstm import reference
from tritonlstm.core.arguments import Results

PLACES = (
    "weight of the input",
    "weight of the hidden state",
    "bias of the input gate",
    "bias of the forget gate",
    "bias of the candidate",
    "peephole w_ci",
    "peephole w_cf",
    "peephole w_co",
)


def spoiled(problem: Problem, place: str, value: float) -> Problem:
    """The problem with another value in one number of a parameter; in a weight, at the centre of a kernel.

    Every pixel sees the centre. At the edges of an image, only some of PyTorch's convolutions multiply the other taps
    by the zeros of the padding.
    """
    channels, hidden = problem.shape.channels, problem.weight.shape[1] - 1
    tensor, index = {
        "weight of the input": ("weight" if problem.input_weight is None else "input_weight", (channels + 1, 0)),
        "weight of the hidden state": ("weight", (channels + 1, hidden)),
        "bias of the input gate": ("bias", (1,)),
        "bias of the forget gate": ("bias", (channels + 1,)),
        "bias of the candidate": ("bias", (2 * channels + 1,)),
        "peephole w_ci": ("peephole", (0, 1)),
        "peephole w_cf": ("peephole", (1, 1)),
        "peephole w_co": ("peephole", (2, 1)),
    }[place]
    changed = getattr(problem, tensor).clone()
    numbers = changed[index].view(-1)
    numbers[len(numbers) // 2] = value
    return replace(problem, **{tensor: changed})


def by_documented_equations(problem: Problem, mode: str) -> Results:
    """PyTorch's, but with "hoisted" a first step without a state has no convolution of the hidden state."""
    shape = problem.shape
    if shape.state or not mode.startswith("hoisted"):
        return by_reference(problem)
    w_x, w_h = problem.input_weight, problem.weight
    if w_x is None:
        w_x, w_h = w_h.split([shape.in_channels, shape.channels], 1)
    h = c = w_h.new_zeros(shape.batch, shape.channels, *shape.spatial)
    output: list[Tensor] = []
    for x in problem.input:
        of_hidden = w_h if output else torch.zeros_like(w_h)
        h, c, _ = reference.step(x, h, c, of_hidden, problem.bias, problem.peephole, input_weight=w_x, spec=shape.spec)
        output.append(h)
    return Results(torch.stack(output), h, c)


def assert_same_everywhere(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """NaN, infinities and numbers are where they are expected, in every result and every gradient."""
    for name in expected:
        wanted = expected[name]
        assert torch.equal(got[name].isnan(), wanted.isnan()), f"{name}: NaN elsewhere"
        torch.testing.assert_close(got[name], wanted, rtol=1e-4, atol=1e-4, equal_nan=True, msg=name)
