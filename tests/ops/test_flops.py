"""FLOP counters see the layers: PyTorch's own formulas for plain convolutions, added up."""

import math
from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tritonlstm import ConvLSTM1d, ConvLSTM2d, ConvLSTM3d, PeepholeLSTM, functional

T, B, CIN, C, H, W = 4, 2, 3, 8, 16, 16
STEP = 2 * B * H * W * 4 * C * 9
"""Operations of a step's convolution for one channel of its argument."""
FORWARD = T * STEP * (CIN + C)


def count(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def frames() -> torch.Tensor:
    return torch.randn(T, B, CIN, H, W)


def counts(layer: torch.nn.Module, input: torch.Tensor) -> tuple[int, int, int]:
    """Of inference, of training's forward pass, and of its backward pass."""
    with torch.no_grad():
        inference = count(lambda: layer(input))
    outputs = []
    training = count(lambda: outputs.append(layer(input)[0]))
    return inference, training, count(outputs[0].sum().backward)


def test_a_forward_pass_is_its_convolutions():
    assert FORWARD == 12_976_128
    inference, training, _ = counts(ConvLSTM2d(CIN, C, 3), frames())
    assert inference == training == FORWARD


@pytest.mark.parametrize("schedule", ["concat", "hoisted"])
@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("input_learns", [False, True])
@pytest.mark.parametrize("weight_learns", [False, True])
def test_a_backward_pass_is_the_gradients_that_are_needed(
    schedule: str, memory: str, input_learns: bool, weight_learns: bool
):
    layer, input = ConvLSTM2d(CIN, C, 3, schedule=schedule, memory=memory), frames().requires_grad_(input_learns)
    layer.layers[0].weight.requires_grad_(weight_learns)
    _, _, backward = counts(layer, input)
    expected = (T - 1) * STEP * C + input_learns * T * STEP * CIN + weight_learns * FORWARD
    assert backward == expected + (memory == "recompute") * FORWARD


def test_the_gradient_of_an_initial_state_is_one_step_more():
    layer, input = ConvLSTM2d(CIN, C, 3), frames()
    state = [tuple(torch.zeros(B, C, H, W, requires_grad=True) for _ in "hc")]
    assert count(layer(input, state)[0].sum().backward) == T * STEP * C + FORWARD


PLAIN = {
    "an input kernel of its own": (lambda backend: ConvLSTM2d(CIN, C, 3, input_kernel_size=5, backend=backend), frames),
    "dilation": (lambda backend: ConvLSTM2d(CIN, C, 3, input_kernel_size=5, dilation=2, backend=backend), frames),
    "circular": (
        lambda backend: ConvLSTM2d(CIN, C, 3, input_kernel_size=5, padding_mode="circular", backend=backend),
        frames,
    ),
    "without an input": (lambda backend: ConvLSTM2d(0, C, 3, backend=backend), lambda: None),
}


@pytest.mark.parametrize(("make", "make_input"), PLAIN.values(), ids=PLAIN.keys())
def test_agrees_with_plain_pytorch(make, make_input):
    """Where both compute each gradient on its own. With one kernel for both, plain PyTorch also computes dX_t where
    only dH_{t-1} is needed, and the other way round: they are one convolution's.
    """
    state, found = [tuple(torch.zeros(B, C, H, W, requires_grad=True) for _ in "hc")], []
    for backend in ("auto", "torch"):
        layer, input, outputs = make(backend), make_input(), []
        forward = count(lambda: outputs.append(layer(input, state, steps=T)[0]))  # noqa: B023  called here
        found.append((forward, count(outputs[0].sum().backward)))
    assert found[0] == found[1]
    assert min(found[0]) > 0


def test_one_kernel_costs_plain_pytorch_the_gradients_of_both_its_parts():
    """The last convolution's dH_{-1}, or the inputs' dX where they are constants."""
    ours, plain = (ConvLSTM2d(CIN, C, 3, backend=backend) for backend in ("auto", "torch"))
    assert counts(plain, frames())[:2] == counts(ours, frames())[:2]
    assert counts(plain, frames())[2] - counts(ours, frames())[2] == (T - 1) * STEP * CIN
    learning = [counts(layer, frames().requires_grad_())[2] for layer in (plain, ours)]
    assert learning[0] - learning[1] == STEP * C


def test_vectors_are_matrix_products():
    inference, training, backward = counts(PeepholeLSTM(CIN, C), torch.randn(T, B, CIN))
    product = 2 * B * 4 * C
    assert inference == training == T * product * (CIN + C)
    assert backward == (T - 1) * product * C + training


@pytest.mark.parametrize(("layer", "spatial"), [(ConvLSTM1d(CIN, C, 3), (9,)), (ConvLSTM3d(CIN, C, 3), (3, 4, 5))])
def test_signals_and_volumes(layer: torch.nn.Module, spatial: tuple[int, ...]):
    inference, training, backward = counts(layer, torch.randn(T, B, CIN, *spatial))
    step = 2 * B * math.prod(spatial) * 4 * C * 3 ** len(spatial)
    assert inference == training == T * step * (CIN + C)
    assert backward == (T - 1) * step * C + training


def test_precomputed_pre_activations_leave_the_hidden_states_convolution():
    preact, weight = torch.randn(T, B, 4 * C, H, W, requires_grad=True), torch.randn(4 * C, C, 3, 3, requires_grad=True)
    outputs = []
    run = partial(functional.conv_lstm, None, None, weight, input_preact=preact)
    assert count(lambda: outputs.append(run()[0])) == T * STEP * C
    assert count(outputs[0].sum().backward) == (T - 1) * STEP * C + T * STEP * C


def test_autocast_and_half_precision_do_not_change_the_count():
    with torch.autocast("cpu", torch.bfloat16):
        assert count(lambda: ConvLSTM2d(CIN, C, 3)(frames())) == FORWARD
    assert count(lambda: ConvLSTM2d(CIN, C, 3, dtype=torch.bfloat16)(frames().bfloat16())) == FORWARD


def test_an_exported_program_is_counted():
    program = torch.export.export(ConvLSTM2d(CIN, C, 3), (frames(),)).module()
    assert count(lambda: program(frames())) == FORWARD


def test_modules_are_told_apart():
    layer = ConvLSTM2d(CIN, [C, C], 3)
    with FlopCounterMode(display=False) as counter:
        layer(frames())
    found = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    assert found["ConvLSTM2d.layers.0"] == FORWARD
    assert found["ConvLSTM2d.layers.1"] == T * STEP * 2 * C
    assert found["Global"] == found["ConvLSTM2d"] == FORWARD + T * STEP * 2 * C


def test_the_profiler_counts_the_convolutions_of_a_forward_pass():
    """It knows a fixed list of PyTorch's operators, forward ones alone."""
    layer, input = ConvLSTM2d(CIN, C, 3, backend="aten"), frames()
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiled:
        layer(input)
    assert {event.key: event.flops for event in profiled.key_averages()}["aten::conv2d"] == FORWARD
