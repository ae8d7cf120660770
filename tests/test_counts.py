"""How much the algorithm does: kernels per step, weight gradients per chunk, bytes kept. Counted, on every path."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.problems import ARGUMENTS, Problem, Shape
from tritonlstm import _gates_aten, _launch, _sequence
from tritonlstm._layout import Layout
from tritonlstm._sequence import Needs, Saved

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
NO_WORK |= {"new_empty", "detach", "unsqueeze", "as_strided", "split", "lift_fresh", "empty_like", "unbind", "squeeze"}


class Count(TorchDispatchMode):
    """Counts the operations that do work: every ATen call but views and allocations, and every Triton launch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        self.calls = Counter()
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
                    self.calls[name] += self._counts
                    with torch.utils._python_dispatch._disable_current_modes():  # the interpreter's own copies
                        kernel[grid](**arguments)

                return launch

        return Counting()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in NO_WORK:
            self.calls[name] += 1
        return function(*args, **(kwargs or {}))


def forward(problem: Problem, save: bool, pointwise=_launch):
    shape = problem.shape
    layout = Layout.of(problem.weight, shape.steps, shape.batch, shape.spatial, triton=pointwise is _launch)
    arguments = (getattr(problem, name) for name in ARGUMENTS)
    *_, saved = _sequence.forward(*arguments, layout, activation="tanh", pointwise=pointwise, save=save)
    return layout, saved


def backward(problem: Problem, layout: Layout, saved: Saved, needs: Needs, pointwise=_launch) -> None:
    _sequence.backward(
        *problem.cotangents.values(),
        saved,
        problem.weight,
        problem.bias,
        problem.peephole,
        layout,
        activation="tanh",
        pointwise=pointwise,
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


@pytest.mark.parametrize("save", [False, True], ids=["inference", "training"])
def test_two_kernels_a_step_forward(monkeypatch: pytest.MonkeyPatch, save: bool):
    def run(problem: Problem, count: Count) -> None:
        with count:
            forward(problem, save)

    step, _ = per_step(monkeypatch, run)
    assert step == {"convolution": 1, "gates_forward_kernel": 1}


ALL = Needs(*[True] * 6)
SUBSETS = {
    "all": (ALL, {"gates_backward_kernel": 1, "convolution": 1, "copy_": 1}),
    "all but the input": (ALL._replace(input=False), {"gates_backward_kernel": 1, "convolution": 1}),
    "weight": (Needs(*[False] * 3, True, False, False), {"gates_backward_kernel": 1, "convolution": 1}),
    "input": (Needs(True, *[False] * 5), {"gates_backward_kernel": 1, "convolution": 1, "copy_": 1}),
}


@pytest.mark.parametrize(("needs", "expected"), SUBSETS.values(), ids=SUBSETS.keys())
def test_at_most_three_kernels_a_step_backward(monkeypatch: pytest.MonkeyPatch, needs: Needs, expected: dict):
    def run(problem: Problem, count: Count) -> None:
        layout, saved = forward(problem, save=True)
        with count:
            backward(problem, layout, saved, needs)

    step, _ = per_step(monkeypatch, run)
    assert step == expected
    assert sum(step.values()) <= 3


def test_one_weight_gradient_and_one_reduction_for_each_chunk(monkeypatch: pytest.MonkeyPatch):
    for steps in (1, 2, 10, 40):
        problem = Problem.random(Shape(steps=steps), torch.float32)
        layout, saved = forward(problem, save=True)
        chunks = len(_sequence._chunks(saved, together=True))
        with monkeypatch.context() as patch:
            count = Count(patch)
            with count:
                backward(problem, layout, saved, ALL)
        assert count.calls["convolution_backward"] == count.calls["parameter_grads_kernel"] == chunks <= 6


def test_chunks_cover_the_sequence_once_and_keep_their_bound():
    for steps in (1, 2, 3, 7, 10, 20, 64):
        saved = Saved(torch.empty(steps, 6), torch.empty(steps + 1, 4), torch.empty(steps, 16))
        chunks = _sequence._chunks(saved, together=True)
        assert sorted(t for first, last in chunks for t in range(first, last)) == list(range(steps))
        bound = sum(tensor.nbytes for tensor in saved) / _sequence.CHUNK_FRACTION
        for first, last in chunks:
            assert last - first == 1 or saved.gates[first:last].nbytes <= bound
        assert _sequence._chunks(saved, together=False) == [(t, t + 1) for t in reversed(range(steps))]


def test_no_weight_gradient_and_no_reduction_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(), torch.float32)
    layout, saved = forward(problem, save=True)
    count = Count(monkeypatch)
    with count:
        backward(problem, layout, saved, Needs(True, *[False] * 5))
    assert count.calls["convolution_backward"] == count.calls["parameter_grads_kernel"] == 0


def test_the_last_transposed_convolution_is_left_out_where_only_parameters_learn(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(steps=4), torch.float32)
    layout, saved = forward(problem, save=True)
    count = Count(monkeypatch)
    with count:
        backward(problem, layout, saved, Needs(False, False, False, True, True, True))
    assert count.calls["convolution"] == 3


@pytest.mark.parametrize("pointwise", [_gates_aten, _launch], ids=["aten", "triton"])
def test_neither_concatenates_nor_stacks(monkeypatch: pytest.MonkeyPatch, pointwise):
    problem = Problem.random(Shape(), torch.float32)
    count = Count(monkeypatch)
    with count:
        layout, saved = forward(problem, save=True, pointwise=pointwise)
        backward(problem, layout, saved, ALL, pointwise=pointwise)
    assert not {"cat", "stack", "roll"} & count.calls.keys()


def test_an_expanded_input_is_copied_once_not_once_a_step(monkeypatch: pytest.MonkeyPatch):
    def run(problem: Problem, count: Count) -> None:
        image = problem.input[:1].expand(problem.input.shape)
        with count:
            forward(replace(problem, input=image), save=True)

    step, _ = per_step(monkeypatch, run)
    assert step == {"convolution": 1, "gates_forward_kernel": 1}


def test_what_training_keeps_is_what_the_design_says():
    problem = Problem.random(Shape(steps=6, in_channels=16, channels=8), torch.float32)
    layout, saved = forward(problem, save=True)
    floats = sum(tensor.numel() for tensor in saved)
    pixels = layout.rows * layout.steps
    assert floats == pixels * (16 + 8 + 4 * 8 + 8) + layout.rows * 8  # inputs, gates, c; and c before the first step
