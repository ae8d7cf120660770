"""Mixed precision: what has which dtype, loss scaling, and that training ends where float32's does."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.layers import conv_lstm, frames, gradients, peephole_lstm
from tests.support.tolerances import FLOOR
from tritonlstm import ConvLSTM2d

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
each_half = pytest.mark.parametrize("half", HALF.values(), ids=HALF.keys())
each_backend = pytest.mark.parametrize("backend", ["auto", "triton", "torch"])
LAYERS = {"ConvLSTM2d": (conv_lstm, frames), "PeepholeLSTM": (peephole_lstm, lambda: frames()[..., 0, 0])}
TARGET = 0.4
"""What the layers' outputs are to become where they are only to learn something."""

each_layer = pytest.mark.parametrize(("make", "make_input"), LAYERS.values(), ids=LAYERS.keys())


@each_layer
@each_backend
@each_half
def test_autocast_computes_in_half_and_keeps_c_and_the_gradients_in_float32(make, make_input, half, backend: str):
    layer, input = make(backend=backend), make_input().requires_grad_()
    with torch.autocast("cpu", half):
        output, state = layer(input)
        again, _ = layer(input, state)
        layer.step(input[0], state)
        from_half, _ = layer(input.to(half), state)
    assert output.dtype == again.dtype == from_half.dtype == half
    assert [(h.dtype, c.dtype) for h, c in state] == [(half, torch.float32)] * 2
    assert torch.equal(from_half, again), "autocast casts the input just so"
    (again.float().square().sum() + output.float().sum()).backward()
    assert all(parameter.grad.dtype == parameter.dtype == torch.float32 for parameter in layer.parameters())
    assert input.grad.dtype == torch.float32

    expected, _ = layer(input)
    # One rounding for each of the two layers' four steps.
    assert (output.float() - expected).abs().max() <= 8 * FLOOR[half] * expected.abs().max()


def test_autocast_leaves_float64_alone():
    layer = conv_lstm(dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = layer(frames().double())
    assert output.dtype == torch.float64
    assert all(tensor.dtype == torch.float64 for pair in state for tensor in pair)


def test_autocast_may_be_switched_off_inside():
    layer, input = conv_lstm(), frames()
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert torch.equal(layer(input)[0], layer(input)[0].float())
        assert layer(input)[0].dtype == torch.float32


@each_half
def test_the_backward_pass_may_run_outside_autocast_or_inside(half):
    layer, input = conv_lstm(), frames()
    with torch.autocast("cpu", half):
        inside = gradients(layer, layer(input)[0].float().square().sum())
        loss = layer(input)[0].float().square().sum()
    for name, gradient in gradients(layer, loss).items():
        assert torch.equal(gradient, inside[name]), name


@each_layer
@each_half
def test_pure_half_modules_train(make, make_input, half):
    layer, input = make().to(half), make_input().to(half)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        output, state = layer(input)
        loss = (output.float() - TARGET).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert output.dtype == half
    assert all(c.dtype == torch.float32 for _, c in state)
    assert all(parameter.grad.dtype == half for parameter in layer.parameters())
    assert losses[-1] < 0.7 * losses[0]


def test_grad_scaler_recovers_from_an_overflow():
    layer, input = conv_lstm(), frames()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    losses, scales, skipped = [], [], 0
    for _ in range(60):
        before = [parameter.detach().clone() for parameter in layer.parameters()]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            output, _ = layer(input)
            loss = (output - TARGET).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        finite = all(parameter.grad.isfinite().all() for parameter in layer.parameters())
        scaler.step(optimizer)
        scaler.update()
        unchanged = all(torch.equal(one, other) for one, other in zip(before, layer.parameters()))
        assert unchanged == (not finite)
        skipped += not finite
        losses.append(loss.item())
        scales.append(scaler.get_scale())
    assert skipped > 0, "the scale was meant to overflow"
    assert scales[-1] == 2.0 ** (30 - skipped)
    assert all(parameter.isfinite().all() for parameter in layer.parameters())
    assert losses[-1] < 0.5 * losses[0]


def _drifting_bars(generator: torch.Generator) -> Tensor:
    bars = torch.rand(4, 1, 1, 8, generator=generator).round().expand(-1, -1, 8, -1)
    return torch.stack([bars.roll(t, dims=-1) for t in range(6)])


def _final_loss(seed: int, half: torch.dtype | None) -> float:
    """The mean loss of the last 20 of 200 steps of next-frame prediction."""
    torch.manual_seed(seed)
    layer, head = ConvLSTM2d(1, 8, 3), nn.Conv2d(8, 1, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=1e-2)
    data, losses = torch.Generator().manual_seed(0), []
    for _ in range(200):
        sequence = _drifting_bars(data)
        optimizer.zero_grad()
        with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
            output, _ = layer(sequence[:-1])
            logits = head(output.flatten(0, 1))
        loss = F.binary_cross_entropy_with_logits(logits.float(), sequence[1:].flatten(0, 1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / 20


def test_200_steps_in_bf16_end_within_the_noise_of_float32():
    float32 = [_final_loss(seed, None) for seed in range(3)]
    bf16 = [_final_loss(seed, torch.bfloat16) for seed in range(3)]
    assert max(float32) < 0.4, "the task is learned: guessing costs 0.69"
    noise = max(float32) - min(float32)
    assert abs(sum(bf16) - sum(float32)) / 3 <= noise
