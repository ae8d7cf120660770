"""The arguments of the backward operator; those of the other operators are `problems.operator_arguments`."""

from collections.abc import Collection

import torch

from tests.support.problems import ARGUMENTS, Problem, operator_arguments

OPERATORS = ("inference", "training", "backward")


def backward_arguments(problem: Problem, learning: Collection[str], **options: str) -> tuple:
    """The arguments of the backward operator, as autograd gives them, for the gradients of those in `learning`."""
    *arguments, steps, spec = operator_arguments(problem, **options)
    output, _, _, *saved = torch.ops.tritonlstm.training(*arguments, steps, spec)
    needs = [name in learning for name in ARGUMENTS]
    grads = problem.cotangents
    if problem.shape.spec.returns == "last":
        grads = {**grads, "output": grads["output"][None]}
    return (*grads.values(), *arguments, output, *saved, steps, spec, needs)
