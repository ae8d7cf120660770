"""One layer's passes without autograd around them, and what they do: counted."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.problems import Problem, Shape
from tritonlstm import _launch, _sequence
from tritonlstm._layout import Layout
from tritonlstm._schedules import Needs, Saved, Weights, schedule

STEPS = (8, 24)
NO_WORK = {
    "select",
    "slice",
    "view",
    "permute",
    "movedim",
    "expand",
    "_unsafe_view",
    "alias",
    "t",
    "transpose",
    "empty",
}
NO_WORK |= {
    "new_empty",
    "new_empty_strided",
    "detach",
    "unsqueeze",
    "as_strided",
    "split",
    "lift_fresh",
    "empty_like",
    "unbind",
    "squeeze",
}


class Count(TorchDispatchMode):
    """Counts the operations that do work: every ATen call but views and allocations, and every Triton launch.

    `launches` has the name and the arguments of each of the latter.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        self.calls = Counter()
        self.launches: list[tuple[str, dict[str, object]]] = []
        self._counts = False
        for name in ("gates_forward_kernel", "gates_backward_kernel", "parameter_grads_kernel"):
            monkeypatch.setattr(_launch, name, self._counting(name, getattr(_launch, name)))

    def __enter__(self) -> "Count":
        self._counts = True
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        self._counts = False
        super().__exit__(*exception)

    def _counting(self, name: str, kernel):
        class Counting:
            def __getitem__(_, grid):
                def launch(**arguments):
                    if self._counts:
                        self.calls[name] += 1
                        self.launches.append((name, arguments))
                    with torch.utils._python_dispatch._disable_current_modes():  # the interpreter's own copies
                        kernel[grid](**arguments)

                return launch

        return Counting()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in NO_WORK:
            self.calls[name] += 1
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Mode:
    hoisted: bool = False
    recompute: bool = False


class AllocationLog(TorchDispatchMode):
    """The bytes of all tensors that were made, freed or not."""

    def __init__(self):
        super().__init__()
        self._storages = {}

    @property
    def nbytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return result


def layout_of(problem: Problem, pointwise) -> Layout:
    shape = problem.shape
    sizes = (shape.steps, shape.batch, shape.spatial)
    return Layout.of(problem.weight, problem.input_weight, *sizes, triton=pointwise is _launch)


def forward(problem: Problem, save: bool, pointwise=_launch, mode: Mode = Mode()) -> Saved | None:
    _, saved = _sequence.forward(
        problem.input,
        problem.h0,
        problem.c0,
        Weights(problem.weight, problem.input_weight),
        problem.bias,
        problem.peephole,
        layout_of(problem, pointwise),
        activation="tanh",
        pointwise=pointwise,
        schedule=schedule(mode.hoisted),
        save=save,
        recompute=mode.recompute,
    )
    return saved


def backward(problem: Problem, saved: Saved, needs: Needs, pointwise=_launch, mode: Mode = Mode()) -> None:
    _sequence.backward(
        *problem.cotangents.values(),
        saved,
        Weights(problem.weight, problem.input_weight),
        problem.bias,
        problem.peephole,
        layout_of(problem, pointwise),
        activation="tanh",
        pointwise=pointwise,
        schedule=schedule(mode.hoisted),
        recompute=mode.recompute,
        needs=needs,
    )


def per_step(monkeypatch: pytest.MonkeyPatch, run) -> tuple[Counter, Counter]:
    """What one more step costs, and what is done once, from two lengths of sequence."""
    counts = []
    for steps in STEPS:
        with monkeypatch.context() as patch:
            count = Count(patch)
            run(Problem.random(Shape(steps=steps), torch.float32), count)
            counts.append(count.calls)
    short, long = counts
    step = Counter({name: (long[name] - short[name]) / (STEPS[1] - STEPS[0]) for name in long | short})
    once = Counter({name: short[name] - STEPS[0] * step[name] for name in short})
    return +step, +once
