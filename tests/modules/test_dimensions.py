"""Layers of signals and of volumes: each is the layer of images where these have one row, or one slice."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.layers import step_by_step, with_peepholes
from tritonlstm import ConvLSTM1d, ConvLSTM1dCell, ConvLSTM2d, ConvLSTM2dCell, ConvLSTM3d, ConvLSTM3dCell, functional

T, B, CIN, C = 4, 2, 3, 5


def with_parameters_of(layer: nn.Module, other: nn.Module) -> nn.Module:
    """The layer with another's parameters, which differ in dimensions of one element alone."""
    for own, given in zip(layer.parameters(), other.parameters(), strict=True):
        own.data.copy_(given.detach().reshape(own.shape))
    return layer


def everything(layer: nn.Module, input: Tensor) -> list[Tensor]:
    input = input.detach().requires_grad_()
    output, state = layer(input)
    loss = output.square().sum() + sum(h.sum() + c.square().sum() for h, c in state)
    return [
        output,
        *(each for pair in state for each in pair),
        *torch.autograd.grad(loss, [input, *layer.parameters()]),
    ]


@pytest.mark.parametrize("backend", ["auto", "triton", "torch"])
@pytest.mark.parametrize("peephole", ["channel", "full"])
@pytest.mark.parametrize(
    ("kind", "spatial", "kernel", "image", "image_kernel"),
    [(ConvLSTM1d, (7,), 3, (1, 7), (1, 3)), (ConvLSTM3d, (1, 4, 6), (1, 3, 5), (4, 6), (3, 5))],
    ids=["signals", "volumes"],
)
def test_agrees_with_the_layer_of_images(kind, spatial, kernel, image, image_kernel, peephole: str, backend: str):
    sizes = (spatial, image) if peephole == "full" else (None, None)
    layer, images = (
        type(CIN, [C, 2], [size] * 2, peephole=peephole, spatial_size=of, backend=backend)
        for type, size, of in ((kind, kernel, sizes[0]), (ConvLSTM2d, image_kernel, sizes[1]))
    )
    with_parameters_of(layer, with_peepholes(images))
    input = torch.randn(T, B, CIN, *spatial)
    got, expected = everything(layer, input), everything(images, input.view(T, B, CIN, *image))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other.view(one.shape), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(step_by_step(layer, input), layer(input))


@pytest.mark.parametrize(
    ("kind", "cell", "spatial"),
    [(ConvLSTM1d, ConvLSTM1dCell, (8,)), (ConvLSTM2d, ConvLSTM2dCell, (4, 6)), (ConvLSTM3d, ConvLSTM3dCell, (3, 4, 6))],
)
class TestAnyDimensions:
    def test_parameters(self, kind, cell, spatial):
        layer = kind(CIN, [C, 2], 3, peephole="full", spatial_size=spatial, input_kernel_size=[1, None])
        shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
        kernel = (3,) * len(spatial)
        assert shapes == {
            "layers.0.weight": (4 * C, C, *kernel),
            "layers.0.input_weight": (4 * C, CIN, *(1 for _ in spatial)),
            "layers.0.bias": (4 * C,),
            "layers.0.peephole": (3, C, *spatial),
            "layers.1.weight": (8, C + 2, *kernel),
            "layers.1.bias": (8,),
            "layers.1.peephole": (3, 2, *spatial),
        }
        assert all(type(each) is cell for each in layer.layers)
        assert f"kernel_size=[{kernel}, {kernel}]" in repr(layer)

    def test_batch_first_and_unbatched(self, kind, cell, spatial):
        layer = with_peepholes(kind(CIN, C, 3))
        input = torch.randn(T, B, CIN, *spatial)
        output, ((h, c),) = layer(input)
        one, ((one_h, one_c),) = layer(input[:, 0])
        torch.testing.assert_close((one, one_h, one_c), (output[:, 0], h[0], c[0]))
        layer.batch_first = True
        assert torch.equal(layer(input.transpose(0, 1))[0], output.transpose(0, 1))

    def test_the_function_is_the_layer(self, kind, cell, spatial):
        layer, input = with_peepholes(kind(CIN, C, 3)), torch.randn(T, B, CIN, *spatial)
        one = layer.layers[0]
        got = functional.conv_lstm(input, None, one.weight, one.bias, one.peephole)
        expected, (state,) = layer(input)
        assert all(map(torch.equal, (got[0], *got[1]), (expected, *state)))

    def test_autocast_and_half_precision(self, kind, cell, spatial):
        layer, input = with_peepholes(kind(CIN, C, 3)), torch.randn(T, B, CIN, *spatial)
        with torch.autocast("cpu", torch.bfloat16):
            output, ((h, c),) = layer(input)
        assert (output.dtype, h.dtype, c.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
        half, _ = layer.bfloat16()(input.bfloat16())
        torch.testing.assert_close(half, output, rtol=0.05, atol=0.02)


KERNELS = {
    "signals, list": (ConvLSTM1d, [3, 5], {}, [(3,), (5,)]),
    "signals, tuple of one": (ConvLSTM1d, (3,), {"num_layers": 2}, [(3,), (3,)]),
    "signals, list of one": (ConvLSTM1d, [3], {}, [(3,)]),
    "volumes, triple": (ConvLSTM3d, (1, 3, 5), {"num_layers": 2}, [(1, 3, 5)] * 2),
    "volumes, list of a triple": (ConvLSTM3d, [[1, 3, 5]], {}, [(1, 3, 5)]),
    "volumes, list for one layer": (ConvLSTM3d, [1, 3, 5], {"num_layers": 1}, [(1, 3, 5)]),
    "volumes, list for three layers": (ConvLSTM3d, [1, 3, 5], {"num_layers": 3}, [(1,) * 3, (3,) * 3, (5,) * 3]),
    "volumes, list for two layers": (ConvLSTM3d, [3, 5], {}, [(3,) * 3, (5,) * 3]),
}


@pytest.mark.parametrize(("kind", "kernel", "options", "wanted"), KERNELS.values(), ids=KERNELS.keys())
def test_kernel_sizes(kind, kernel, options: dict, wanted: list):
    assert list(kind(1, 2, kernel, **options).kernel_size) == wanted
