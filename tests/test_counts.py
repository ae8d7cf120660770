"""How much the algorithm does: kernels per step, weight gradients per chunk, bytes kept. Counted, on every path."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.timer import CpuClock
from tests.counting import AllocationLog, Count, Mode, backward, forward, layout_of, per_step
from tests.layouts import dense, expand_time
from tests.problems import Problem, Shape
from tritonlstm import ConvLSTM2d, _gates_aten, _launch, _sequence
from tritonlstm._layout import Layout, from_rows
from tritonlstm._maps import convolution
from tritonlstm._schedules import Needs, Saved, concat

CONCAT, HOISTED = Mode(), Mode(hoisted=True)
# The input is convolved, and padded, four times in the short sequence and eight times in the long one.
HOISTED_STEP = {"convolution": 1 + 1 / 4, "gates_forward_kernel": 1, "copy_": 1 / 4, "fill_": 1 / 4}
CONCAT_STEP = {"convolution": 1, "gates_forward_kernel": 1, "copy_": 1 / 8}  # X is copied for eight steps at a time
FORWARD = {
    "concat, training": (CONCAT, True, CONCAT_STEP),
    "concat, inference": (CONCAT, False, CONCAT_STEP),
    "recompute": (Mode(recompute=True), True, CONCAT_STEP),
    "hoisted, training": (HOISTED, True, HOISTED_STEP),
    "hoisted, inference": (HOISTED, False, HOISTED_STEP),
}


@pytest.fixture(autouse=True)
def a_weight_gradient_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(convolution, "CPU_STEPS", 10**6)


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
    "hoisted, all": (HOISTED, ALL, GATES),
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
    # What is done once a chunk is no whole number of times a step; test_roofline.py counts that in every mode.
    assert {name: count for name, count in step.items() if count >= 0.8} == expected
    assert sum(step.values()) <= 3.5


def chunks_of(
    saved: Saved, layout: Layout, width: int, longest: int, *, first_alone: bool = False
) -> list[tuple[int, int]]:
    return _sequence._chunks(saved, layout, width, longest, allowed=0, first_alone=first_alone)


def test_one_weight_gradient_and_one_reduction_for_each_chunk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_sequence, "CHUNK_BYTES", 0)
    for steps in (1, 2, 10, 40):
        problem = Problem.random(Shape(steps=steps), torch.float32)
        saved = forward(problem, save=True)
        chunks = len(chunks_of(saved, layout_of(problem, _launch), width=4 * 5 + 8, longest=steps))
        with monkeypatch.context() as patch:
            count = Count(patch)
            with count:
                backward(problem, saved, ALL)
        assert count.calls["convolution_backward"] == count.calls["parameter_grads_kernel"] == chunks <= 6


@pytest.mark.parametrize("mode", [CONCAT, Mode(recompute=True), HOISTED, Mode(True, True)], ids=str)
@pytest.mark.parametrize("expanded", [False, True], ids=["frames", "one image"])
def test_chunks_cover_the_sequence_once_and_keep_their_bound(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, expanded: bool
):
    monkeypatch.setattr(_sequence, "CHUNK_BYTES", 0)
    for steps, in_channels in ((1, 2), (2, 2), (3, 9), (7, 2), (10, 2), (20, 2), (64, 2), (64, 300)):
        problem = Problem.random(Shape(steps=steps, in_channels=in_channels, channels=1, spatial=(2, 2)), torch.float32)
        if expanded:
            problem.input = problem.input[:1].expand(problem.input.shape)
        saved, layout = forward(problem, save=True, mode=mode), layout_of(problem, _launch)
        width = 4 + (layout.input_width if mode.hoisted else layout.width)  # dA and, packed, X or [H | X]
        held = saved.cells.nbytes + saved.gates.nbytes + layout.rows * steps * 4
        for first_alone in (False, True):
            chunks = chunks_of(saved, layout, width, longest=steps, first_alone=first_alone)
            assert sorted(t for first, last in chunks for t in range(first, last)) == list(range(steps))
            assert not first_alone or chunks[-1] == (0, 1)
            for first, last in chunks:
                kept = (last - first) * layout.rows * width * 4
                assert last - first == 1 or kept <= held / _sequence.CHUNK_FRACTION
        assert max(last - first for first, last in chunks_of(saved, layout, width, longest=2)) <= 2
        single = [(t, t + 1) for t in reversed(range(steps))]
        assert chunks_of(saved, layout, width, longest=1) == single


def test_a_small_sequence_is_one_chunk():
    step = 1000
    held = 8 * step
    assert _sequence.chunk_length(40, held, step, longest=40) == 40
    assert _sequence.chunk_length(40, held, step, longest=7) == 7
    several = _sequence.CHUNK_BYTES // 3
    assert _sequence.chunk_length(40, held=0, step=several, longest=40) == 3
    assert _sequence.chunk_length(40, held=0, step=_sequence.CHUNK_BYTES + 1, longest=40) == 1
    assert _sequence.chunk_length(40, held=80 * several, step=several, longest=40) == 20


@pytest.mark.parametrize("layout", [dense, expand_time], ids=["frames", "one image"])
def test_made_again_gates_take_a_fraction_of_the_memory_of_kept_ones(layout):
    """Whatever the input is like: here it is much wider than the layer."""
    peaks = {}
    for memory in ("save", "recompute"):
        layer = ConvLSTM2d(128, 16, 3, memory=memory)
        input = layout(torch.randn(40, 1, 128, 16, 16))
        peaks[memory] = CpuClock().peak(lambda layer=layer, input=input: layer(input)[0].sum().backward())
    kept_gates = 40 * 16 * 16 * 4 * 16 * 4  # bytes
    assert peaks["recompute"] < peaks["save"] - 0.7 * kept_gates


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


@pytest.mark.parametrize("mode", [CONCAT, Mode(recompute=True), HOISTED, Mode(True, True)], ids=str)
def test_the_first_step_without_a_state_leaves_out_what_the_hidden_state_would_cost(mode: Mode):
    """On a CPU, forward, where that is done again, in the transposed convolution and in the weight gradient."""
    stateless = Problem.random(Shape(steps=4, state=False), torch.float32)
    zeros = stateless.weight.new_zeros(stateless.cotangents["h_n"].shape)
    flops = []
    for problem in (stateless, replace(stateless, h0=zeros, c0=zeros)):
        with FlopCounterMode(display=False) as counter:
            saved = forward(problem, save=True, pointwise=_gates_aten, mode=mode)
            needs = ALL if problem.h0 is not None else ALL._replace(h0=False, c0=False)
            backward(problem, saved, needs, pointwise=_gates_aten, mode=mode)
        flops.append(counter.get_total_flops())
    of_hidden = 2 * zeros.numel() * stateless.weight[:, -zeros.shape[1] :].numel() // zeros.shape[1]
    assert flops[1] - flops[0] == (4 if mode.recompute else 3) * of_hidden


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


PACKED = {
    "nothing": (CONCAT, NONE._replace(input=True, h0=True, c0=True, bias=True, peephole=True)),
    "for the weight's gradient": (CONCAT, NONE._replace(weight=True)),
    "for the gates": (Mode(recompute=True), NONE._replace(input=True)),
    "for both": (Mode(recompute=True), ALL),
}


@pytest.mark.parametrize(("mode", "needs"), PACKED.values(), ids=PACKED.keys())
@pytest.mark.parametrize("state", [True, False], ids=["state", "no state"])
@pytest.mark.parametrize("pointwise", [_gates_aten, _launch], ids=["aten", "triton"])
def test_rows_are_packed_where_something_needs_them(
    monkeypatch: pytest.MonkeyPatch, pointwise, state: bool, mode: Mode, needs: Needs
):
    """Every step for the gates and for the weight's gradient, but a first one of an input alone."""
    problem = Problem.random(Shape(steps=24, state=state, spatial=(2, 2)), torch.float32)
    needs = needs if state else needs._replace(h0=False, c0=False)
    packed, pack = [], concat.Backward._pack
    monkeypatch.setattr(concat.Backward, "_pack", lambda self, *steps: packed.append(steps) or pack(self, *steps))
    backward(problem, forward(problem, True, pointwise, mode), needs, pointwise, mode)
    first = int(not state and pointwise.SKIPS_EMPTY_STATE)
    for_gates = range(first, 24) if mode.recompute else ()
    for_weight = range(first, 24) if needs.weight else ()
    assert sorted(t for first, last in packed for t in range(first, last)) == sorted((*for_gates, *for_weight))
    assert not packed or max(last - first for first, last in packed) > 1


KEPT = {
    # gates and c, and c before the first step
    "concat, save": (CONCAT, 4 * 8 + 8),
    "concat, recompute": (Mode(recompute=True), 8),
    "hoisted, save": (HOISTED, 4 * 8 + 8),
    "hoisted, recompute": (Mode(hoisted=True, recompute=True), 8),
}


@pytest.mark.parametrize(("mode", "channels"), KEPT.values(), ids=KEPT.keys())
def test_what_training_keeps_is_what_the_design_says(mode: Mode, channels: int):
    problem = Problem.random(Shape(steps=6, in_channels=16, channels=8), torch.float32)
    saved, layout = forward(problem, save=True, mode=mode), layout_of(problem, _launch)
    assert saved.cells.numel() + saved.gates.numel() == layout.rows * (layout.steps * channels + 8)
    assert saved.input is problem.input and saved.h0 is problem.h0


@pytest.mark.parametrize("mode", [mode for mode, _ in KEPT.values()], ids=KEPT.keys())
def test_a_stack_keeps_nothing_else_and_one_tensor_between_two_layers(mode: Mode):
    """By autograd's own account: the tensors that it saves, each storage once."""
    options = {
        "schedule": "hoisted" if mode.hoisted else "concat",
        "memory": "recompute" if mode.recompute else "save",
    }
    layer, input = ConvLSTM2d(16, [8, 8], 3, **options), torch.randn(6, 2, 16, 5, 4)
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output, _ = layer(input)
    others = [input, *layer.parameters()]
    assert {tensor.untyped_storage().data_ptr() for tensor in others} <= kept.keys()
    assert output.untyped_storage().data_ptr() not in kept, "what a caller gets is its own"
    frame = 2 * 5 * 4 * 8 * 4  # bytes of one step's h
    of_a_layer = 6 * frame + 7 * frame + (0 if mode.recompute else 6 * 4 * frame)  # output, c and gates
    assert sum(storage.nbytes() for storage in kept.values()) == 2 * of_a_layer + sum(each.nbytes for each in others)


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


@pytest.mark.parametrize(("steps", "parts"), [(1, 1), (2, 1), (5, 3), (8, 4), (33, 7), (64, 8)])
def test_the_hoisted_input_is_convolved_in_few_parts(monkeypatch: pytest.MonkeyPatch, steps: int, parts: int):
    count = Count(monkeypatch)
    with count:
        forward(Problem.random(Shape(steps=steps), torch.float32), save=False, mode=HOISTED)
    assert count.calls["convolution"] == steps + parts


@pytest.mark.parametrize("save", [False, True], ids=["inference", "training"])
def test_a_ring_of_inputs_is_all_there_is_and_no_state_is_made_of_zeros(save: bool):
    problem = Problem.random(Shape(steps=64, state=False, in_channels=8, channels=8), torch.float32)
    with AllocationLog() as log:
        forward(problem, save)
    layout = layout_of(problem, _launch)
    rows = layout.rows * torch.float32.itemsize
    steps = problem.shape.steps
    weight = problem.weight.nbytes
    # output; eight slots of inputs; pre-activations, c and h_n of one step; the packed weight
    expected = rows * (steps * 8 + 8 * 16 + 4 * 8 + 8 + 8) + weight
    expected += steps * rows * 4 * 8  # what PyTorch's convolution returns on a CPU, where it cannot write into `out`
    if save:
        expected += rows * ((steps + 1) * 8 + (steps - 1) * 4 * 8)  # c of every step; gates, not pre-activations of one
    assert expected <= log.nbytes <= expected + 1024  # the interpreter copies a parameter or two
