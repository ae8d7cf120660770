"""The paper's encoder–forecaster: its parameter counts, its shapes, its gradients."""

import pytest
import torch

from tritonlstm.models import EncoderForecaster

PAPER = {
    (5, 5, 256): 13_524_496,
    (5, 5, 128, 128): 10_042_896,
    (5, 5, 128, 64, 64): 7_585_296,
    (9, 1, 128, 128): 11_550_224,
    (9, 1, 128, 64, 64): 8_830_480,
}
"""Shi et al. 2015, table 1: the models by input kernel, state kernel and hidden channels, on 4×4 patches of one
channel."""


@pytest.mark.parametrize(("model", "count"), PAPER.items(), ids=str)
def test_parameter_counts_of_the_paper(model: tuple[int, ...], count: int):
    input_kernel, kernel, *hidden = model
    model = EncoderForecaster(16, hidden, kernel, input_kernel_size=input_kernel, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_forecasts_as_many_frames_as_asked_and_every_parameter_learns():
    model = EncoderForecaster(2, [4, 3], 3, out_channels=1)
    input = torch.randn(5, 2, 2, 6, 7, requires_grad=True)
    for steps in (1, 4):
        assert model(input, steps).shape == (steps, 2, 1, 6, 7)
    model(input, 4).square().sum().backward()
    assert input.grad.abs().sum() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_the_first_forecaster_layer_continues_the_last_encoder_layer():
    model = EncoderForecaster(1, [4, 3], 3)
    assert [layer.layers[0].hidden_channels for layer in model.forecaster] == [3, 4]
    assert [layer.layers[0].in_channels for layer in model.forecaster] == [0, 3]


def test_fewer_steps_are_the_beginning_of_more():
    model = EncoderForecaster(1, [3], 3)
    input = torch.randn(2, 1, 1, 4, 4)
    torch.testing.assert_close(model(input, 2), model(input, 5)[:2])
