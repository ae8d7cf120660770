"""The registered operators under torch.library.opcheck, always by its four checks.

They are the schema, the registration of autograd, the fakes, and compilation with dynamic sizes against eager code. The
last one takes nineteen twentieths of the time.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor

from tests.support.layouts import flip_storage
from tests.support.operators import OPERATORS, backward_operands
from tests.support.problems import MODES, PATHS, SHAPES, SOME_SHAPES, Problem, Shape, operands

SMALL = Shape(2, 2, 2, 2, spatial=(3,), kernel=(3,))  # a second dimension of space took a fifth more time
INPUT_KERNEL = SMALL.but(input_kernel=(1,))
OTHER_MODES = {
    **{mode: (mode, SMALL) for mode in MODES if mode != "concat, save"},
    **{f"{mode}, input kernel": (mode, INPUT_KERNEL) for mode in MODES if mode.startswith("hoisted")},
}
each_operator = pytest.mark.parametrize("operator", OPERATORS)


@pytest.fixture(autouse=True)
def _no_cache_of_fakes():
    """No check may answer from another one's fakes; and where sizes are symbols, the cache took half as long again."""
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        yield


def _strided(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else flip_storage(tensor.repeat_interleave(2, 0))[::2]


def _with_strides(problem: Problem) -> Problem:
    tensors = {name: _strided(tensor) for name, tensor in problem.tensors().items()}
    cotangents = {name: _strided(tensor) for name, tensor in problem.cotangents.items()}
    return replace(problem, **tensors, cotangents=cotangents)


def check(operator: str, problem: Problem, learning: Collection[str], **options: str) -> None:
    """Run the four checks where the arguments in `learning` require a gradient, or `backward` is to compute it."""
    if operator == "backward":
        args = backward_operands(problem, learning, **options)
    else:
        tensors = {name: tensor.detach().requires_grad_(name in learning) for name, tensor in problem.tensors().items()}
        args = operands(replace(problem, **tensors), **options)
    try:
        torch.library.opcheck(getattr(torch.ops.tritonlstm, operator).default, args)
    except Exception as error:
        raise AssertionError(f"{operator}, with gradients of: {', '.join(learning) or 'nothing'}") from error


def subsets(names: Collection[str]) -> Iterator[tuple[str, ...]]:
    for count in range(len(names) + 1):
        yield from combinations(names, count)


@pytest.mark.parametrize("learns", [False, True])
def test_the_copy_of_an_output(learns: bool):
    output = torch.randn(2, 3, 5, 4, 2).movedim(-1, 2).requires_grad_(learns)
    torch.library.opcheck(torch.ops.tritonlstm.copy.default, (output,))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", SOME_SHAPES)
@each_operator
def test_each_shape(operator: str, shape: str, path: str):
    problem = Problem.random(SHAPES[shape], torch.float32)
    check(operator, problem, () if operator == "inference" else tuple(problem.tensors()), **PATHS[path])


@each_operator
@pytest.mark.parametrize("strides", ["dense", "strided"])
@pytest.mark.parametrize("peephole", ["none", "channel", "full"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_each_combination(bias: bool, peephole: str, strides: str, operator: str):
    """Every subset of the arguments that are there learns: 1440 combinations over all options and operators."""
    problem = Problem.random(SMALL.but(bias=bias, peephole=peephole), torch.float32)
    if strides == "strided":
        problem = _with_strides(problem)
    for learning in subsets(problem.tensors()):
        check(operator, problem, learning)


@each_operator
@pytest.mark.parametrize(("mode", "shape"), OTHER_MODES.values(), ids=OTHER_MODES)
def test_each_other_mode(mode: str, shape: Shape, operator: str):
    """All arguments learn, or none, or one alone."""
    problem = Problem.random(shape, torch.float32)
    names = tuple(problem.tensors())
    for learning in ((), names, *((name,) for name in names)):
        check(operator, problem, learning, **MODES[mode])
