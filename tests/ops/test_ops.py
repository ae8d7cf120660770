"""The registered operators: what they allocate, and which derivatives they refuse."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.support.counting import stand_in_for_kernels
from tests.support.operators import backward_arguments
from tests.support.operators import operator as operator_of
from tests.support.problems import (
    ALL_PATHS,
    ARGUMENTS,
    MASKS,
    PATHS,
    SHAPES,
    SOME_SHAPES,
    Problem,
    Shape,
    by_operator,
    operator_arguments,
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", SOME_SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fakes_allocate_as_the_operators_do(shape: str, path: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    stand_in_for_kernels(monkeypatch, lambda name, arguments: None)
    problem = Problem.random(SHAPES[shape], dtype)
    # A weight that is not contiguous: its gradient has its strides.
    weight = problem.weight.transpose(0, 1).contiguous().transpose(0, 1)
    problem = replace(problem, weight=weight)
    calls = [
        (operator_of(problem, "inference"), operator_arguments(problem, **PATHS[path])),
        (operator_of(problem, "training"), operator_arguments(problem, **PATHS[path])),
        (operator_of(problem, "backward"), backward_arguments(problem, problem.tensors(), **PATHS[path])),
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


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("masks", [(), MASKS], ids=["", "masks"])
def test_no_result_shares_memory_with_another_tensor(path: str, masks: tuple[str, ...]):
    problem = Problem.random(Shape(steps=1, masks=masks), torch.float32)
    for operator, args in (
        (operator_of(problem, "training"), operator_arguments(problem, **ALL_PATHS[path])),
        (operator_of(problem, "inference"), operator_arguments(problem, **ALL_PATHS[path])),
        (operator_of(problem, "backward"), backward_arguments(problem, problem.tensors(), **ALL_PATHS[path])),
    ):
        given = [arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)]
        results = [result.untyped_storage().data_ptr() for result in operator(*args)]
        assert len(set(results)) == len(results)
        assert not set(results) & set(given)


SHAPE_WITH = dict.fromkeys((name for name in ARGUMENTS if name != "marks"), Shape()) | {
    "input_weight": Shape(input_kernel=(1, 3)),
    "reset_h": Shape(masks=MASKS),
    "reset_c": Shape(masks=MASKS),
}
"""A problem's shape in which each of the arguments is there."""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SHAPE_WITH)
def test_a_second_derivative_is_refused_and_never_silently_zero(path: str, name: str):
    problem = Problem.random(SHAPE_WITH[name], torch.float32)
    leaf = getattr(problem, name).requires_grad_()
    output, _, _ = by_operator(**PATHS[path])(problem)
    (grad,) = torch.autograd.grad(output.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match='backend="torch"'):
        (grad.square().sum() + leaf.sum()).backward()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SHAPE_WITH)
def test_forward_mode_is_refused_and_never_silently_zero(path: str, name: str):
    problem = Problem.random(SHAPE_WITH[name], torch.float32)

    def run(tensor: Tensor) -> Tensor:
        return by_operator(**PATHS[path])(replace(problem, **{name: tensor}))[0]

    tensor = getattr(problem, name)
    with pytest.raises(RuntimeError, match='backend="torch"'):
        torch.func.jvp(run, (tensor,), (tensor,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match='backend="torch"'):
        run(torch.autograd.forward_ad.make_dual(tensor, tensor))


def test_inference_saves_nothing():
    problem = Problem.random(Shape(), torch.float32)
    with torch.profiler.profile() as profile:
        by_operator()(problem)
        with torch.no_grad():
            by_operator()(replace(problem, weight=problem.weight.requires_grad_()))
    names = {event.name for event in profile.events()}
    assert "tritonlstm::inference" in names
    assert "tritonlstm::training" not in names
