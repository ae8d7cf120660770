"""How much the algorithm does: kernels per step, weight gradients per chunk, bytes kept. Counted, on every path."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch

from bench.timer import peak_memory
from tests.support.counting import AllocationLog, Count, backward, forward, layout_of, per_step, stand_in_for_kernels
from tests.support.layouts import dense, expand_time
from tests.support.problems import MASKS, MODES, Problem, Shape
from tritonlstm import ConvLSTM2d, Spec
from tritonlstm.core.arguments import Arguments
from tritonlstm.core.layout import from_rows
from tritonlstm.engines import chunks, concat
from tritonlstm.linear import convolution

CONCAT, HOISTED = MODES["concat, save"], MODES["hoisted, save"]
RECOMPUTE = MODES["concat, recompute"]
# The input is convolved, and padded, four times in the short sequence and eight times in the long one.
HOISTED_STEP = {"convolution": 1 + 1 / 4, "gates_forward_kernel": 1, "copy_": 1 / 4, "fill_": 1 / 4}
CONCAT_STEP = {"convolution": 1, "gates_forward_kernel": 1, "copy_": 1 / 8}  # X is copied for eight steps at a time
FORWARD = {
    "concat, training": (CONCAT, True, CONCAT_STEP),
    "concat, inference": (CONCAT, False, CONCAT_STEP),
    "recompute": (RECOMPUTE, True, CONCAT_STEP),
    "hoisted, training": (HOISTED, True, HOISTED_STEP),
    "hoisted, inference": (HOISTED, False, HOISTED_STEP),
    "reversed, training": ({"reverse": True}, True, CONCAT_STEP),
    "reversed, hoisted, inference": ({**HOISTED, "reverse": True}, False, HOISTED_STEP),
    "last step, inference": ({"returns": "last"}, False, CONCAT_STEP),
    "last step, hoisted, inference": ({**HOISTED, "returns": "last"}, False, HOISTED_STEP),
    "every c, inference": ({"returns": "cells"}, False, CONCAT_STEP),
    "every c, training": ({"returns": "cells"}, True, CONCAT_STEP),
}


@pytest.fixture(autouse=True)
def a_weight_gradient_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, and no kernel runs."""
    monkeypatch.setattr(convolution, "CPU_STEPS", 10**6)
    stand_in_for_kernels(monkeypatch, lambda name, arguments: None)


@pytest.mark.parametrize(("mode", "save", "expected"), FORWARD.values(), ids=FORWARD.keys())
def test_two_kernels_a_step_forward(monkeypatch: pytest.MonkeyPatch, mode: dict, save: bool, expected: dict):
    def run(problem: Problem, count: Count) -> None:
        with count:
            forward(problem, save, **mode)

    for masks in ((), ("lengths",), MASKS):  # which cost no kernel
        step, _ = per_step(monkeypatch, run, masks)
        assert step == expected, masks


NONE = Arguments(*[False] * 7)
ALL = Arguments(*[True] * 7)._replace(input_weight=False)
GATES = {"gates_backward_kernel": 1, "convolution_backward": 1}
SUBSETS = {
    "all": (CONCAT, ALL, {**GATES, "copy_": 1}),
    "all but the input": (CONCAT, ALL._replace(input=False), GATES),
    "weight": (CONCAT, NONE._replace(weight=True), GATES),
    "input": (CONCAT, NONE._replace(input=True), {**GATES, "copy_": 1}),
    "hoisted, weight": (HOISTED, NONE._replace(weight=True), GATES),
    "hoisted, all but the input": (HOISTED, ALL._replace(input=False), GATES),
    "hoisted, all": (HOISTED, ALL, GATES),
    "reversed, all": ({"reverse": True}, ALL, {**GATES, "copy_": 1}),
    "reversed, hoisted, all": ({**HOISTED, "reverse": True}, ALL, GATES),
}


@pytest.mark.parametrize(("mode", "needs", "expected"), SUBSETS.values(), ids=SUBSETS.keys())
def test_at_most_three_kernels_a_step_backward(
    monkeypatch: pytest.MonkeyPatch, mode: dict, needs: Arguments, expected: dict
):
    def run(needs: Arguments, problem: Problem, count: Count) -> None:
        saved = forward(problem, save=True, **mode)
        with count:
            backward(problem, saved, needs, **mode)

    for masks in ((), ("lengths",), MASKS):
        learns = {"reset_h": True, "reset_c": True} if "reset" in masks and needs.h0 else {}
        _check_backward(*per_step(monkeypatch, partial(run, needs._replace(**learns)), masks), expected)


def _check_backward(step: Counter, _: Counter, expected: dict) -> None:
    # Work per chunk is a fraction of a call per step; test_work.py counts that in every mode.
    assert {name: count for name, count in step.items() if count >= 0.8} == expected
    assert sum(step.values()) <= 3.5


def test_one_weight_gradient_and_one_reduction_for_each_chunk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 0)
    for steps in (1, 2, 10, 40):
        problem = Problem.random(Shape(steps=steps), torch.float32)
        saved, layout = forward(problem, save=True), layout_of(problem)
        expected = len(chunks.chunks(saved, layout, 4 * layout.channels + layout.width))
        with monkeypatch.context() as patch:
            count = Count(patch)
            with count:
                backward(problem, saved, ALL)
        assert count.calls["parameter_grads_kernel"] == expected <= 10
        assert count.calls["convolution_backward"] == steps + expected


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("expanded", [False, True], ids=["frames", "one image"])
def test_chunks_cover_the_sequence_once_and_keep_their_bound(
    monkeypatch: pytest.MonkeyPatch, mode: dict, expanded: bool
):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 0)
    for steps, in_channels in ((1, 2), (2, 2), (3, 9), (7, 2), (10, 2), (20, 2), (64, 2), (64, 300)):
        problem = Problem.random(Shape(steps=steps, in_channels=in_channels, channels=1, spatial=(2, 2)), torch.float32)
        if expanded:
            problem.input = problem.input[:1].expand(problem.input.shape)
        # The sizes are those of Triton's gates, which take thirty times as long to interpret.
        options = {**mode, "backend": "aten"}
        saved, layout = forward(problem, save=True, **options), layout_of(problem, **options)
        width = 4 + (layout.input_width if "schedule" in mode else layout.width)  # dA and, packed, X or [X | H]
        held = saved.cells.nbytes + saved.gates.nbytes + layout.rows * steps * 4
        ranges = chunks.chunks(saved, layout, width)
        assert sorted(t for first, last in ranges for t in range(first, last)) == list(range(steps))
        for first, last in ranges:
            kept = (last - first) * layout.rows * width * 4
            assert last - first == 1 or kept <= held / chunks.CHUNK_FRACTION


def test_a_small_sequence_is_one_chunk():
    step = 1000
    assert chunks.chunk_length(40, 8 * step, step) == 40
    several = chunks.CHUNK_BYTES // 3
    assert chunks.chunk_length(40, held=0, step=several) == 3
    assert chunks.chunk_length(40, held=0, step=chunks.CHUNK_BYTES + 1) == 1
    assert chunks.chunk_length(40, held=160 * several, step=several) == 20


@pytest.mark.parametrize("layout", [dense, expand_time], ids=["frames", "one image"])
def test_recomputed_gates_take_a_fraction_of_the_memory_of_kept_ones(layout):
    """Whatever the input is like: here it is much wider than the layer."""
    peaks = {}
    for memory in ("save", "recompute"):
        layer = ConvLSTM2d(128, 16, 3, memory=memory)
        input = layout(torch.randn(40, 1, 128, 16, 16))
        run = partial(lambda layer, input: layer(input)[0].sum().backward(), layer, input)
        peaks[memory] = peak_memory(run, input.device)
    kept_gates = 40 * 16 * 16 * 4 * 16 * 4  # bytes
    assert peaks["recompute"] < peaks["save"] - 0.7 * kept_gates


def test_no_weight_gradient_and_no_reduction_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(), torch.float32)
    saved = forward(problem, save=True)
    count = Count(monkeypatch)
    with count:
        backward(problem, saved, NONE._replace(input=True))
    assert count.calls["convolution_backward"] == problem.shape.steps
    assert count.calls["parameter_grads_kernel"] == 0


def test_the_first_steps_data_gradient_is_left_out_where_only_parameters_learn(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(steps=4), torch.float32)
    saved = forward(problem, save=True)
    count = Count(monkeypatch)
    with count:
        backward(problem, saved, NONE._replace(bias=True, peephole=True))
    assert count.calls["convolution_backward"] == 3


@pytest.mark.parametrize("backend", ["aten", "triton"])
def test_neither_concatenates_nor_stacks(monkeypatch: pytest.MonkeyPatch, backend: str):
    problem = Problem.random(Shape(), torch.float32)
    count = Count(monkeypatch)
    with count:
        saved = forward(problem, save=True, backend=backend)
        backward(problem, saved, ALL, backend=backend)
    assert not {"cat", "stack", "roll"} & count.calls.keys()


@pytest.mark.parametrize("backend", ["aten", "triton"])
def test_a_dense_weight_is_used_where_it_lies(monkeypatch: pytest.MonkeyPatch, backend: str):
    """Channels last and, for Triton, without padding: no copy of it."""
    problem = Problem.random(Shape(in_channels=8, channels=8), torch.float32)
    problem.weight = problem.weight.contiguous(memory_format=torch.channels_last)
    seen, convolve = [], torch.conv2d

    def convolution_of(images, weight, *args):
        seen.append(weight.data_ptr())
        return convolve(images, weight, *args)

    monkeypatch.setattr(torch, "conv2d", convolution_of)
    count = Count(monkeypatch)
    with count:
        forward(problem, save=True, backend=backend)
    assert set(seen) == {problem.weight.data_ptr()}
    assert count.calls["clone"] == 0


def test_an_expanded_input_is_copied_once_not_once_a_step(monkeypatch: pytest.MonkeyPatch):
    def run(problem: Problem, count: Count) -> None:
        image = problem.input[:1].expand(problem.input.shape)
        with count:
            forward(replace(problem, input=image), save=True)

    step, _ = per_step(monkeypatch, run)
    assert step == {"convolution": 1, "gates_forward_kernel": 1}


PACKED = {
    "nothing": (CONCAT, NONE._replace(input=True, h0=True, c0=True, bias=True, peephole=True)),
    "for the weight's gradient": (CONCAT, NONE._replace(weight=True)),
    "for the gates": (RECOMPUTE, NONE._replace(input=True)),
    "for both": (RECOMPUTE, ALL),
}


@pytest.mark.parametrize(("mode", "needs"), PACKED.values(), ids=PACKED.keys())
@pytest.mark.parametrize("state", [True, False], ids=["state", "no state"])
@pytest.mark.parametrize("backend", ["aten", "triton"])
def test_rows_are_packed_where_something_needs_them(
    monkeypatch: pytest.MonkeyPatch, backend: str, state: bool, mode: dict, needs: Arguments
):
    """Every step for the gates and for the weight's gradient."""
    problem = Problem.random(Shape(steps=24, state=state, spatial=(2, 2)), torch.float32)
    needs = needs if state else needs._replace(h0=False, c0=False)
    packed, pack = [], concat.Backward._pack
    monkeypatch.setattr(concat.Backward, "_pack", lambda self, *steps: packed.append(steps) or pack(self, *steps))
    backward(problem, forward(problem, True, backend=backend, **mode), needs, backend=backend, **mode)
    times = ("memory" in mode) + bool(needs.weight)
    assert sorted(t for first, last in packed for t in range(first, last)) == sorted([*range(24)] * times)
    assert not packed or max(last - first for first, last in packed) > 1


KEPT = {
    # gates and c, and c before the first step
    "concat, save": (CONCAT, 4 * 8 + 8),
    "concat, recompute": (RECOMPUTE, 8),
    "hoisted, save": (HOISTED, 4 * 8 + 8),
    "hoisted, recompute": (MODES["hoisted, recompute"], 8),
}


@pytest.mark.parametrize(("mode", "channels"), KEPT.values(), ids=KEPT.keys())
def test_what_training_keeps_is_what_the_design_says(mode: dict, channels: int):
    problem = Problem.random(Shape(steps=6, in_channels=16, channels=8), torch.float32)
    saved, layout = forward(problem, save=True, **mode), layout_of(problem)
    assert saved.cells.numel() + saved.gates.numel() == layout.rows * (layout.steps * channels + 8)


@pytest.mark.parametrize("mode", [mode for mode, _ in KEPT.values()], ids=KEPT.keys())
def test_a_stack_keeps_nothing_else_and_one_tensor_between_two_layers(mode: dict):
    """By autograd's own account: the tensors that it saves, each storage once."""
    layer, input = ConvLSTM2d(16, [8, 8], 3, **mode), torch.randn(6, 2, 16, 5, 4)
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output, _ = layer(input)
    others = [input, *layer.parameters()]
    assert {tensor.untyped_storage().data_ptr() for tensor in others} <= kept.keys()
    assert output.untyped_storage().data_ptr() not in kept, "the returned output is a copy"
    frame = 2 * 5 * 4 * 8 * 4  # bytes of one step's h
    of_a_layer = 6 * frame + 7 * frame + (0 if "memory" in mode else 6 * 4 * frame)  # output, c and gates
    assert sum(storage.nbytes() for storage in kept.values()) == 2 * of_a_layer + sum(each.nbytes for each in others)


def test_hoisted_rows_that_lie_dense_are_not_copied(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(steps=16, in_channels=8, channels=8), torch.float32)
    dense = from_rows(problem.input.movedim(2, -1).contiguous(), 2)
    counts = []
    for input in (dense, problem.input):
        with monkeypatch.context() as patch:
            count = Count(patch)
            with count:
                forward(replace(problem, input=input), save=True, **HOISTED)
            counts.append(count.calls)
    assert counts[1]["clone"] - counts[0]["clone"] == 8, "one copy for each part of the sequence"


def test_precomputed_pre_activations_cost_what_their_gates_do(monkeypatch: pytest.MonkeyPatch):
    """Channels last is read where it lies; in the backward pass dX is copied for a chunk of steps at once."""
    passes = {"forward": [], "backward": []}
    for steps in (8, 24):
        problem = Problem.random(Shape(steps=steps, in_channels=0, preact=True), torch.float32)
        problem.input = from_rows(problem.input.movedim(2, -1).contiguous(), 2)
        for name in passes:
            with monkeypatch.context() as patch:
                count = Count(patch)
                with count if name == "forward" else nullcontext():
                    saved = forward(problem, save=True)
                if name == "backward":
                    with count:
                        backward(problem, saved, ALL)
            passes[name].append(count.calls)
    step = {
        name: +Counter({key: (long[key] - short[key]) / 16 for key in long}) for name, (short, long) in passes.items()
    }
    assert step["forward"] == {"convolution": 1, "gates_forward_kernel": 1}
    assert {name: count for name, count in step["backward"].items() if count >= 0.8} == GATES


@pytest.mark.parametrize("mode", [CONCAT, HOISTED], ids=["concat", "hoisted"])
def test_margins_are_copied_where_they_are_not_zeros(monkeypatch: pytest.MonkeyPatch, mode: dict):
    """One copy with margins for each convolution and each dimension that is not padded with zeros, and no other."""
    counts = {}
    for name, padding in {"zeros": "zeros", "W": ("zeros", "circular"), "all": "circular"}.items():
        for dilation in (1, 2):
            shape = Shape(steps=16, spec=Spec(padding_mode=padding, dilation=dilation), kernel=(3, 3))
            problem = Problem.random(shape, torch.float32)
            with monkeypatch.context() as patch:
                count = Count(patch)
                with count:
                    forward(problem, save=True, **mode)
            counts[name, dilation] = count.calls
    for dilation in (1, 2):
        assert counts["zeros", dilation] == counts["zeros", 1]
        convolutions = counts["zeros", 1]["convolution"]
        for name, dims in (("W", 1), ("all", 2)):
            assert counts[name, dilation] - counts["zeros", 1] == {"cat": dims * convolutions}


def test_a_hoisted_image_that_is_the_same_at_every_step_is_convolved_once(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(steps=16), torch.float32)
    image = problem.input[:1].expand(problem.input.shape)
    count = Count(monkeypatch)
    with count:
        forward(replace(problem, input=image), save=False, **HOISTED)
    assert count.calls["convolution"] == 16 + 1


def test_without_a_state_the_first_hoisted_step_has_no_convolution_of_its_own(monkeypatch: pytest.MonkeyPatch):
    problem = Problem.random(Shape(steps=16, state=False), torch.float32)
    count = Count(monkeypatch)
    with count:
        forward(problem, save=False, **HOISTED)
    assert count.calls["convolution"] == 15 + 8


@pytest.mark.parametrize(("steps", "parts"), [(1, 1), (2, 1), (5, 3), (8, 4), (33, 7), (64, 8)])
def test_the_hoisted_input_is_convolved_in_few_parts(monkeypatch: pytest.MonkeyPatch, steps: int, parts: int):
    count = Count(monkeypatch)
    with count:
        forward(Problem.random(Shape(steps=steps), torch.float32), save=False, **HOISTED)
    assert count.calls["convolution"] == steps + parts


@pytest.mark.parametrize("save", [False, True], ids=["inference", "training"])
def test_a_ring_of_inputs_is_all_there_is_and_no_state_is_made_of_zeros(save: bool):
    problem = Problem.random(Shape(steps=64, state=False, in_channels=8, channels=8), torch.float32)
    with AllocationLog() as log:
        forward(problem, save)
    layout = layout_of(problem)
    rows = layout.rows * torch.float32.itemsize
    steps = problem.shape.steps
    weight = problem.weight.nbytes
    # output; eight slots of inputs; pre-activations, c and h_n of one step; the packed weight
    expected = rows * (steps * 8 + 8 * 16 + 4 * 8 + 8 + 8) + weight
    expected += steps * rows * 4 * 8  # what PyTorch's convolution returns on a CPU, where it cannot write into `out`
    if save:
        expected += rows * ((steps + 1) * 8 + (steps - 1) * 4 * 8)  # c of every step; gates, not pre-activations of one
    assert log.nbytes == expected
