"""The arguments of the registered operators for a problem; those that run forward take `problems.operands`."""

from collections.abc import Collection

import torch

from tests.support.problems import ARGUMENTS, Problem, operands

OPERATORS = ("inference", "training", "backward")


def backward_operands(problem: Problem, learning: Collection[str], **options: str) -> tuple:
    """The arguments of the backward operator, as autograd gives them, for the gradients of those in `learning`."""
    *arguments, steps, spec = operands(problem, **options)
    output, _, _, *saved = torch.ops.tritonlstm.training(*arguments, steps, spec)
    needs = [name in learning for name in ARGUMENTS]
    return (*problem.cotangents.values(), *arguments, output, *saved, steps, spec, needs)
