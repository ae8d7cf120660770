"""The model of FLOPs, bytes and launches against what the operator does."""

from collections import Counter
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench import work
from bench.work import MODES, Layer
from tests.support import counting
from tests.support.problems import Problem, Shape
from tritonlstm.core.arguments import Arguments
from tritonlstm.engines import chunks
from tritonlstm.linear import convolution

MODES_BY_NAME = {str(mode): mode for mode in MODES}
SHAPES = {
    "multiples of eight": Shape(16, 2, 16, 8, spatial=(4, 5), kernel=(3, 3), state=False),
    "nothing a multiple": Shape(11, 3, 3, 5, spatial=(4, 3), kernel=(3, 3), state=False),
    "one step": Shape(1, 2, 3, 5, spatial=(4, 3), kernel=(3, 3), state=False),
}
each_mode = pytest.mark.parametrize("mode", MODES_BY_NAME.values(), ids=MODES_BY_NAME.keys())
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
each_input = pytest.mark.parametrize("input_learns", [False, True], ids=["input does not learn", "input learns"])


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tiny sequences too, and each chunk's weight gradient in one call, as on a GPU. No kernel runs."""
    counting.stand_in_for_kernels(monkeypatch, lambda name, arguments: None)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 0)
    monkeypatch.setattr(convolution, "CPU_STEPS", 10**6)


def layer_of(shape: Shape, input_learns: bool) -> Layer:
    return Layer(
        shape.steps, shape.batch, *shape.spatial, shape.in_channels, shape.channels, shape.kernel[0], 4, input_learns
    )


def options_of(mode: work.Mode) -> dict[str, str]:
    schedule, memory = "hoisted" if mode.hoisted else "concat", "recompute" if mode.recompute else "save"
    return {"schedule": schedule, "memory": memory}


def run(problem: Problem, mode: work.Mode, input_learns: bool, observed: AbstractContextManager) -> None:
    """A layer's passes as the model has them: from a zero state, the loss of the output alone."""
    with observed:
        saved = counting.forward(problem, save=mode.training, **options_of(mode))
        if mode.training:
            learning = ("weight", "bias", "peephole", *(["input"] if input_learns else []))
            needs = Arguments(*(name in learning for name in Arguments._fields))
            problem.cotangents |= {"h_n": None, "c_n": None}
            counting.backward(problem, saved, needs, **options_of(mode))


def rows_first(problem: Problem) -> Problem:
    """The input as the layer below gives it: channels last."""
    problem.input = problem.input.movedim(2, -1).contiguous().movedim(-1, 2)
    return problem


def nbytes(name: str, arguments: dict[str, object]) -> int:
    """Bytes of the tensors that a launch reads and writes, by its arguments: one that is both counts twice."""
    both = {"gates_forward_kernel": (), "gates_backward_kernel": ("grad_c_ptr",), "parameter_grads_kernel": ()}[name]
    tensors = {key: each for key, each in arguments.items() if isinstance(each, Tensor) and key != "sums_ptr"}
    return sum(each.nbytes * (2 if key in both else 1) for key, each in tensors.items())


@each_input
@each_shape
@each_mode
def test_launches_and_their_bytes(monkeypatch: pytest.MonkeyPatch, mode, shape: Shape, input_learns: bool):
    problem = rows_first(Problem.random(shape, torch.float32))
    count = counting.Count(monkeypatch)
    run(problem, mode, input_learns, count)
    launches, traffic = Counter(), Counter()
    for each in work.works(layer_of(shape, input_learns), mode):
        launches[each.name] += each.launches
        traffic[each.name] += each.nbytes
    assert launches["convolution"] == count.calls["convolution"]
    assert launches["data_grad"] + launches["weight_grad"] == count.calls["convolution_backward"]
    for name in ("gates_forward", "gates_backward", "parameter_grads"):
        assert launches[name] == count.calls[f"{name}_kernel"], name
        moved = sum(nbytes(each, arguments) for each, arguments in count.launches if each == f"{name}_kernel")
        assert traffic[name] == pytest.approx(moved, rel=1e-9), name


@each_input
@pytest.mark.parametrize("in_channels", [3, 16])
@each_mode
def test_copies_and_fills(monkeypatch: pytest.MonkeyPatch, mode, in_channels: int, input_learns: bool):
    """Between two lengths: what is copied or filled once, such as a weight, is not in the model."""
    counted, modelled = [], []
    for steps in (5, 17):
        shape = Shape(steps, 1, in_channels, 8, spatial=(2, 2), kernel=(3, 3), state=False)
        layer, problem = layer_of(shape, input_learns), rows_first(Problem.random(shape, torch.float32))
        with monkeypatch.context() as patch:
            count = counting.Count(patch)
            run(problem, mode, input_learns, count)
        counted.append({"copy": count.calls["copy_"], "fill": count.calls["fill_"]})
        launches = Counter()
        for each in work.works(layer, mode):
            launches[each.name] += each.launches
        modelled.append(launches)
    for name in ("copy", "fill"):
        assert counted[1][name] - counted[0][name] == modelled[1][name] - modelled[0][name], name


@each_input
@each_shape
@each_mode
def test_flops(mode, shape: Shape, input_learns: bool):
    problem = rows_first(Problem.random(shape, torch.float32))
    counter = FlopCounterMode(display=False)
    run(problem, mode, input_learns, counter)
    modelled = sum(each.flops for each in work.works(layer_of(shape, input_learns), mode))
    assert modelled == pytest.approx(counter.get_total_flops(), rel=1e-12)


@each_shape
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.training], ids=str)
def test_bytes_kept(mode, shape: Shape):
    problem = Problem.random(shape, torch.float32)
    saved = counting.forward(problem, save=True, **options_of(mode))
    assert layer_of(shape, True).saved_bytes(mode) == saved.cells.nbytes + saved.gates.nbytes
