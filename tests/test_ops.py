"""The registered operators: schemas, fakes, strides, autograd, compilation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.layouts import flip_storage
from tests.problems import ARGUMENTS, PATHS, SHAPES, Problem, Shape
from tritonlstm import _ops

SOME_SHAPES = ["base", "no bias, no peephole", "full peephole", "one step", "no image", "state alone", "vectors"]


def arguments(problem: Problem, triton: bool) -> tuple:
    tensors = (getattr(problem, name) for name in ARGUMENTS)
    return (*tensors, problem.shape.steps, problem.shape.activation, triton)


def backward_arguments(problem: Problem, triton: bool, needs: list[bool]) -> tuple:
    *_, inputs, cells, gates = torch.ops.tritonlstm.training(*arguments(problem, triton))
    cotangents = problem.cotangents.values()
    parameters = (problem.weight, problem.bias, problem.peephole)
    return (*cotangents, inputs, cells, gates, *parameters, problem.shape.activation, triton, needs)


def needed(problem: Problem) -> list[bool]:
    return [getattr(problem, name) is not None for name in ARGUMENTS]


@pytest.mark.parametrize("triton", [False, True], ids=["aten", "triton"])
@pytest.mark.parametrize("shape", SOME_SHAPES)
class TestOpcheck:
    def test_inference(self, shape: str, triton: bool):
        problem = Problem.random(SHAPES[shape], torch.float32)
        torch.library.opcheck(torch.ops.tritonlstm.inference.default, arguments(problem, triton))

    def test_training(self, shape: str, triton: bool):
        problem = Problem.random(SHAPES[shape], torch.float32)
        leaves = {name: tensor.requires_grad_() for name, tensor in problem.tensors().items()}
        torch.library.opcheck(torch.ops.tritonlstm.training.default, arguments(replace(problem, **leaves), triton))

    def test_backward(self, shape: str, triton: bool):
        problem = Problem.random(SHAPES[shape], torch.float32)
        args = backward_arguments(problem, triton, needed(problem))
        torch.library.opcheck(torch.ops.tritonlstm.backward.default, args)


LEARNING = {"all": ARGUMENTS, "none": (), **{name: (name,) for name in ARGUMENTS}}


@pytest.mark.parametrize("operator", ["inference", "training", "backward"])
@pytest.mark.parametrize("strides", ["dense", "strided"])
@pytest.mark.parametrize("learning", LEARNING.values(), ids=LEARNING.keys())
@pytest.mark.parametrize("peephole", ["none", "channel", "full"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_opcheck_of_every_combination(bias: bool, peephole: str, learning: tuple, strides: str, operator: str):
    shape = Shape(2, 2, 2, 2, spatial=(3, 2), kernel=(3, 1), bias=bias, peephole=peephole)
    problem = Problem.random(shape, torch.float32)
    if learning and not set(learning) & problem.tensors().keys():
        pytest.skip("what is to learn is not there")
    if strides == "strided":
        tensors = {
            name: flip_storage(tensor.repeat_interleave(2, 0))[::2] for name, tensor in problem.tensors().items()
        }
        problem = replace(problem, **tensors)
    if operator == "backward":
        needs = [name in learning and getattr(problem, name) is not None for name in ARGUMENTS]
        args = backward_arguments(problem, False, needs)
    else:
        for name, tensor in problem.tensors().items():
            tensor.requires_grad_(name in learning)
        args = arguments(problem, False)
    torch.library.opcheck(getattr(torch.ops.tritonlstm, operator).default, args)


@pytest.mark.parametrize("triton", [False, True], ids=["aten", "triton"])
@pytest.mark.parametrize("shape", SOME_SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fakes_allocate_as_the_operators_do(shape: str, triton: bool, dtype: torch.dtype):
    problem = Problem.random(SHAPES[shape], dtype)
    # A weight that is not contiguous: its gradient has its strides.
    weight = problem.weight.transpose(0, 1).contiguous().transpose(0, 1)
    problem = replace(problem, weight=weight)
    calls = [
        (torch.ops.tritonlstm.inference, arguments(problem, triton)),
        (torch.ops.tritonlstm.training, arguments(problem, triton)),
        (torch.ops.tritonlstm.backward, backward_arguments(problem, triton, needed(problem))),
    ]
    mode = torch._subclasses.FakeTensorMode()
    for operator, args in calls:
        real = operator(*args)
        with mode:
            fake = operator(*(mode.from_tensor(arg) if isinstance(arg, Tensor) else arg for arg in args))
        assert len(real) == len(fake)
        for one, other in zip(real, fake, strict=True):
            assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
            assert one.storage_offset() == 0


@pytest.mark.parametrize("triton", [False, True], ids=["aten", "triton"])
def test_no_result_shares_memory_with_another_tensor(triton: bool):
    problem = Problem.random(Shape(steps=1), torch.float32)
    for operator, args in (
        (torch.ops.tritonlstm.training, arguments(problem, triton)),
        (torch.ops.tritonlstm.inference, arguments(problem, triton)),
        (torch.ops.tritonlstm.backward, backward_arguments(problem, triton, needed(problem))),
    ):
        given = [arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)]
        results = [result.untyped_storage().data_ptr() for result in operator(*args)]
        assert len(set(results)) == len(results)
        assert not set(results) & set(given)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_second_derivative_is_refused_and_never_silently_zero(path: str, name: str):
    problem = Problem.random(Shape(), torch.float32)
    leaf = getattr(problem, name).requires_grad_()
    output, _, _ = PATHS[path](problem)
    (grad,) = torch.autograd.grad(output.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match='backend="torch"'):
        (grad.square().sum() + leaf.sum()).backward()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_forward_mode_is_refused_and_never_silently_zero(path: str, name: str):
    problem = Problem.random(Shape(), torch.float32)

    def run(tensor: Tensor) -> Tensor:
        return PATHS[path](replace(problem, **{name: tensor}))[0]

    tensor = getattr(problem, name)
    with pytest.raises(RuntimeError, match='backend="torch"'):
        torch.func.jvp(run, (tensor,), (tensor,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match='backend="torch"'):
        run(torch.autograd.forward_ad.make_dual(tensor, tensor))


def test_inference_saves_nothing():
    problem = Problem.random(Shape(), torch.float32)
    with torch.profiler.profile() as profile:
        _ops.sequence(*arguments(problem, False))
        with torch.no_grad():
            _ops.sequence(*arguments(replace(problem, weight=problem.weight.requires_grad_()), False))
    names = {event.name for event in profile.events()}
    assert "tritonlstm::inference" in names
    assert "tritonlstm::training" not in names
