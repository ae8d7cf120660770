"""One layer's passes without autograd around them, and what they do: counted."""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.problems import Problem, Shape, arguments, spec_of
from tritonlstm.cells import triton as triton_cell
from tritonlstm.core.arguments import Arguments, Results, Saved
from tritonlstm.core.layout import Layout
from tritonlstm.engines import Engine, engine

STEPS = (8, 24)
"""The lengths of sequence that `per_step` compares."""

NO_WORK = {
    "_unsafe_view",
    "alias",
    "as_strided",
    "detach",
    "empty",
    "empty_like",
    "expand",
    "lift_fresh",
    "movedim",
    "new_empty",
    "new_empty_strided",
    "permute",
    "select",
    "slice",
    "split",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
}
"""The ATen calls that `Count` leaves out: views and allocations."""


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
            monkeypatch.setattr(triton_cell, name, self._counting(name, getattr(triton_cell, name)))

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


class AllocationLog(TorchDispatchMode):
    """The bytes of all tensors that were made, freed or not."""

    def __init__(self):
        super().__init__()
        self._storages = {}

    @property
    def nbytes(self) -> int:
        """The sum so far."""
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


def layout_of(problem: Problem, **options: str) -> Layout:
    """The sizes of a problem, by default with its gates in Triton."""
    spec = spec_of(problem, **{"backend": "triton"} | options)
    return Layout.of(arguments(problem), problem.shape.steps, spec)


def _engine(problem: Problem, **options: str) -> Engine:
    spec = spec_of(problem, **{"backend": "triton"} | options)
    return engine(arguments(problem), layout_of(problem, **options), spec)


def forward(problem: Problem, save: bool, **options: str) -> Saved | None:
    """A forward pass, by default with its gates in Triton."""
    _, saved = _engine(problem, **options).forward(save=save)
    return saved


def backward(problem: Problem, saved: Saved, needs: Arguments, **options: str) -> Arguments:
    """A backward pass, by default with its gates in Triton."""
    return _engine(problem, **options).backward(Results(**problem.cotangents), saved, needs)


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
