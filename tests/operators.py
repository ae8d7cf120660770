"""The arguments of the registered operators for a problem; those that run forward take `problems.operands`."""

from collections.abc import Collection

import torch

from tests.problems import ARGUMENTS, Problem, operands

OPERATORS = ("inference", "training", "backward")


def backward_operands(
    problem: Problem,
    learning: Collection[str],
    triton: bool,
    hoisted: bool = False,
    recompute: bool = False,
    planar: bool = False,
) -> tuple:
    """The arguments of the backward operator, as autograd gives them, for the gradients of those in `learning`."""
    forward = operands(problem, triton, hoisted, recompute, planar)
    input, h0, _, *parameters = forward[: len(ARGUMENTS)]
    _, *options = forward[len(ARGUMENTS) :]
    output, _, _, *saved = torch.ops.tritonlstm.training(*forward)
    return (
        *problem.cotangents.values(),
        input,
        h0,
        output,
        *saved,
        *parameters,
        *options,
        [name in learning for name in ARGUMENTS],
    )
