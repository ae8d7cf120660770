"""How much the algorithm does: kernels per step, weight gradients per chunk, bytes kept. Counted, on every path."""

import math
from dataclasses import replace

import pytest
import torch

from tests.counting import AllocationLog, Count, Mode, backward, forward, layout_of, per_step
from tests.problems import Problem, Shape
from tritonlstm import _gates_aten, _launch, _sequence
from tritonlstm._layout import from_rows
from tritonlstm._schedules import Needs

CONCAT, HOISTED = Mode(), Mode(hoisted=True)
FORWARD = {
    "concat, training": (CONCAT, True, {"convolution": 1, "gates_forward_kernel": 1}),
    # X is copied for eight steps at a time.
    "concat, inference": (CONCAT, False, {"convolution": 1, "gates_forward_kernel": 1, "copy_": 1 / 8}),
    "recompute": (Mode(recompute=True), True, {"convolution": 1, "gates_forward_kernel": 1}),
    # The input's convolutions and copies belong to the sequence: a fixed number of them.
    "hoisted, training": (HOISTED, True, {"convolution": 1, "gates_forward_kernel": 1}),
    "hoisted, inference": (HOISTED, False, {"convolution": 1, "gates_forward_kernel": 1}),
}


@pytest.mark.parametrize(("mode", "save", "expected"), FORWARD.values(), ids=FORWARD.keys())
def test_two_kernels_a_step_forward(monkeypatch: pytest.MonkeyPatch, mode: Mode, save: bool, expected: dict):
    def run(problem: Problem, count: Count) -> None:
        with count:
            forward(problem, save, mode=mode)

    step, _ = per_step(monkeypatch, run)
    assert step == expected


NONE = Needs(*[False] * 7)
ALL = Needs(*[True] * 7)._replace(input_weight=False)
GATES = {"gates_backward_kernel": 1, "convolution": 1}
SUBSETS = {
    "all": (CONCAT, ALL, {**GATES, "copy_": 1}),
    "all but the input": (CONCAT, ALL._replace(input=False), GATES),
    "weight": (CONCAT, NONE._replace(weight=True), GATES),
    "input": (CONCAT, NONE._replace(input=True), {**GATES, "copy_": 1}),
    "hoisted, weight": (HOISTED, NONE._replace(weight=True), GATES),
    "hoisted, all but the input": (HOISTED, ALL._replace(input=False), GATES),
}


@pytest.mark.parametrize(("mode", "needs", "expected"), SUBSETS.values(), ids=SUBSETS.keys())
def test_at_most_three_kernels_a_step_backward(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, needs: Needs, expected: dict
):
    def run(problem: Problem, count: Count) -> None:
        saved = forward(problem, save=True, mode=mode)
        with count:
            backward(problem, saved, needs, mode=mode)

    step, _ = per_step(monkeypatch, run)
    # What is done once a chunk is no whole number of times a step.
    assert {name: count for name, count in step.items() if count >= 0.8} == expected
    assert sum(step.values()) <= 3.5


def test_one_weight_gradient_and_one_reduction_for_each_chunk(monkeypatch: pytest.MonkeyPatch):
    for steps in (1, 2, 10, 40):
        problem = Problem.random(Shape(steps=steps), torch.float32)
        saved = forward(problem, save=True)
        chunks = len(_sequence._chunks(saved, layout_of(problem, _launch), together=True))
        with monkeypatch.context() as patch:
            count = Count(patch)
            with count:
                backward(problem, saved, ALL)
        assert count.calls["convolution_backward"] == count.calls["parameter_grads_kernel"] == chunks <= 6


@pytest.mark.parametrize("mode", [CONCAT, Mode(recompute=True), HOISTED, Mode(True, True)], ids=str)
def test_chunks_cover_the_sequence_once_and_keep_their_bound(mode: Mode):
    for steps in (1, 2, 3, 7, 10, 20, 64):
        problem = Problem.random(Shape(steps=steps, in_channels=2, channels=1, spatial=(2, 2)), torch.float32)
        saved, layout = forward(problem, save=True, mode=mode), layout_of(problem, _launch)
        chunks = _sequence._chunks(saved, layout, together=True)
        assert sorted(t for first, last in chunks for t in range(first, last)) == list(range(steps))
        bound = sum(tensor.nbytes for tensor in saved if tensor is not None) / _sequence.CHUNK_FRACTION
        step_bytes = math.prod(layout.step_shape(4)) * 4
        for first, last in chunks:
            assert last - first == 1 or (last - first) * step_bytes <= bound
        single = [(t, t + 1) for t in reversed(range(steps))]
        assert _sequence._chunks(saved, layout, together=False) == single


def test_no_weight_gradient_and_no_reduction_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(), torch.float32)
    saved = forward(problem, save=True)
    count = Count(monkeypatch)
    with count:
        backward(problem, saved, NONE._replace(input=True))
    assert count.calls["convolution_backward"] == count.calls["parameter_grads_kernel"] == 0


def test_the_last_transposed_convolution_is_left_out_where_only_parameters_learn(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(steps=4), torch.float32)
    saved = forward(problem, save=True)
    count = Count(monkeypatch)
    with count:
        backward(problem, saved, NONE._replace(weight=True, bias=True, peephole=True))
    assert count.calls["convolution"] == 3


@pytest.mark.parametrize("pointwise", [_gates_aten, _launch], ids=["aten", "triton"])
def test_neither_concatenates_nor_stacks(monkeypatch: pytest.MonkeyPatch, pointwise):
    problem = Problem.random(Shape(), torch.float32)
    count = Count(monkeypatch)
    with count:
        saved = forward(problem, save=True, pointwise=pointwise)
        backward(problem, saved, ALL, pointwise=pointwise)
    assert not {"cat", "stack", "roll"} & count.calls.keys()


def test_an_expanded_input_is_copied_once_not_once_a_step(monkeypatch: pytest.MonkeyPatch):
    def run(problem: Problem, count: Count) -> None:
        image = problem.input[:1].expand(problem.input.shape)
        with count:
            forward(replace(problem, input=image), save=True)

    step, _ = per_step(monkeypatch, run)
    assert step == {"convolution": 1, "gates_forward_kernel": 1}


KEPT = {
    # inputs, gates, c and, with the last two, the input and the output themselves; and c before the first step
    "concat, save": (CONCAT, (16 + 8) + 4 * 8 + 8),
    "concat, recompute": (Mode(recompute=True), (16 + 8) + 8),
    "hoisted, save": (HOISTED, 4 * 8 + 8),
    "hoisted, recompute": (Mode(hoisted=True, recompute=True), 8),
}


@pytest.mark.parametrize(("mode", "channels"), KEPT.values(), ids=KEPT.keys())
def test_what_training_keeps_is_what_the_design_says(mode: Mode, channels: int):
    problem = Problem.random(Shape(steps=6, in_channels=16, channels=8), torch.float32)
    saved, layout = forward(problem, save=True, mode=mode), layout_of(problem, _launch)
    made_here = sum(tensor.numel() for tensor in (saved.inputs, saved.cells, saved.gates))
    assert made_here == layout.rows * (layout.steps * channels + 8)


def test_hoisted_rows_that_lie_dense_are_not_copied(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(steps=16, in_channels=8, channels=8), torch.float32)
    dense = from_rows(problem.input.movedim(2, -1).contiguous(), 2)
    counts = []
    for input in (dense, problem.input):
        with monkeypatch.context() as patch:
            count = Count(patch)
            with count:
                forward(replace(problem, input=input), save=True, mode=HOISTED)
            counts.append(count.calls)
    assert counts[1]["clone"] - counts[0]["clone"] == 8, "one copy for each part of the sequence"


def test_a_hoisted_image_that_is_the_same_at_every_step_is_convolved_once(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(steps=16), torch.float32)
    image = problem.input[:1].expand(problem.input.shape)
    count = Count(monkeypatch)
    with count:
        forward(replace(problem, input=image), save=False, mode=HOISTED)
    assert count.calls["convolution"] == 16 + 1


def test_without_a_state_the_first_hoisted_step_has_no_convolution_of_its_own(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(steps=16, state=False), torch.float32)
    count = Count(monkeypatch)
    with count:
        forward(problem, save=False, mode=HOISTED)
    assert count.calls["convolution"] == 15 + 8


def test_inference_keeps_a_ring_of_inputs_and_no_state_is_made_of_zeros():
    problem = Problem.random(Shape(steps=64, state=False, in_channels=8, channels=8), torch.float32)
    with AllocationLog() as log:
        forward(problem, save=False)
    layout = layout_of(problem, _launch)
    rows = layout.rows * torch.float32.itemsize
    steps = problem.shape.steps
    weight = problem.weight.nbytes
    # output; eight slots of inputs; pre-activations, c and h_n of one step; the packed weight and peephole
    expected = rows * (steps * 8 + 8 * 16 + 4 * 8 + 8 + 8) + weight + problem.peephole.nbytes
    expected += steps * rows * 4 * 8  # what PyTorch's convolution returns on a CPU, where it cannot write into `out`
    assert expected <= log.nbytes <= expected + 1024  # the interpreter copies a parameter or two
