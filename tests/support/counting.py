"""One layer's passes without autograd around them, and what they do: counted."""

from collections import Counter
from collections.abc import Callable

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


def stand_in_for_kernels(monkeypatch: pytest.MonkeyPatch, told: Callable[[str, dict[str, object]], None]) -> None:
    """Have `told` take the name and the arguments of each Triton launch, in place of the kernel.

    To interpret the kernels takes nine tenths of the time, and what is counted does not depend on numbers. What they
    should write stays uninitialised memory.
    """

    class Kernel:
        def __init__(self, name: str):
            self._name = name

        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda **arguments: told(self._name, arguments)

    for name in ("gates_forward_kernel", "gates_backward_kernel", "parameter_grads_kernel"):
        monkeypatch.setattr(triton_cell, name, Kernel(name))


class Count(TorchDispatchMode):
    """Counts the operations that do work: every ATen call but views and allocations, and every Triton launch.

    `launches` has the name and the arguments of each of the latter. The kernels do not run: `stand_in_for_kernels`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        self.calls = Counter()
        self.launches: list[tuple[str, dict[str, object]]] = []
        self._counts = False
        stand_in_for_kernels(monkeypatch, self._launch)

    def __enter__(self) -> "Count":
        self._counts = True
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        self._counts = False
        super().__exit__(*exception)

    def _launch(self, name: str, arguments: dict[str, object]) -> None:
        if self._counts:
            self.calls[name] += 1
            self.launches.append((name, arguments))

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


def per_step(monkeypatch: pytest.MonkeyPatch, run, masks: tuple[str, ...] = ()) -> tuple[Counter, Counter]:
    """What one more step costs, and what is done once, from two lengths of sequence."""
    counts = []
    for steps in STEPS:
        with monkeypatch.context() as patch:
            count = Count(patch)
            run(Problem.random(Shape(steps=steps, masks=masks), torch.float32), count)
            counts.append(count.calls)
    short, long = counts
    step = Counter({name: (long[name] - short[name]) / (STEPS[1] - STEPS[0]) for name in long | short})
    once = Counter({name: short[name] - STEPS[0] * step[name] for name in short})
    return +step, +once
