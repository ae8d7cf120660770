"""The arguments of the backward operator; those of the other operators are `problems.operator_arguments`."""

from collections.abc import Collection

import torch

from tests.support.problems import ARGUMENTS, Problem, operator_arguments

OPERATORS = ("inference", "training", "backward")


def backward_arguments(problem: Problem, learning: Collection[str], **options: str) -> tuple:
    """The arguments of the backward operator, as autograd gives them, for the gradients of those in `learning`."""
    *arguments, steps, spec = operator_arguments(problem, **options)
    output, _, _, cells, gates, *hidden = operator(problem, "training")(*arguments, steps, spec)
    needs = [name in learning for name in ARGUMENTS[: len(arguments)]]
    grads = problem.cotangents
    if problem.shape.spec.returns == "last":
        grads = {**grads, "output": grads["output"][None]}
    return (*grads.values(), *arguments, *(hidden or [output]), cells, gates, steps, spec, needs)


def operator(problem: Problem, name: str) -> torch._ops.OpOverload:
    """The operator of this name for a problem, which with marks has one of its own."""
    prefix = "" if problem.marks is None else "marked_"
    return getattr(torch.ops.tritonlstm, prefix + name).default
