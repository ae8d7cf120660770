"""PyTorch's convolutions and products, their gradients, and the dtype in which they run."""

import pytest
import torch
from torch import nn

from tritonlstm import ConvLSTM2d, Spec, linear
from tritonlstm.core import devices
from tritonlstm.core.checks import check_odd
from tritonlstm.core.layout import Layout
from tritonlstm.core.spec import PADDING_MODES
from tritonlstm.linear import linear_map
from tritonlstm.linear.convolution import Convolution

HALF = (torch.bfloat16, torch.float16)
LAYOUT = Layout(2, 2, (5, 6), in_channels=3, channels=2, multiple=1)


@pytest.mark.parametrize("kernel", [(3, 5), (3,), ()], ids=["images", "signals", "vectors"])
def test_the_gradients_are_autograds(kernel: tuple[int, ...]):
    spatial = (5, 6)[: len(kernel)]
    weight = torch.randn(8, 5, *kernel, dtype=torch.float64, requires_grad=True)
    rows, grad = (torch.randn(2, *spatial, size, dtype=torch.float64) for size in (5, 8))
    map = linear_map(LAYOUT, weight.detach(), torch.ones(8, dtype=torch.float64))
    images = rows.movedim(-1, 1).requires_grad_()
    if kernel:
        convolve = torch.nn.functional.conv1d if len(kernel) == 1 else torch.nn.functional.conv2d
        result = convolve(images, weight, padding="same")
    else:
        result = images @ weight.t()
    torch.testing.assert_close(map.forward(rows).movedim(-1, 1), result.detach() + 1)
    of_images, of_weight = torch.autograd.grad(result, (images, weight), grad.movedim(-1, 1))
    torch.testing.assert_close(map.input_grad(grad).movedim(-1, 1), of_images)
    total = map.weight_grad()
    assert not total.result().any() and total.result().shape == weight.shape
    total.add(rows, grad)
    total.add(rows, grad)
    torch.testing.assert_close(total.result(), 2 * of_weight)


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("kernel", "spatial"), [((3,), (5,)), ((3, 5), (5, 6)), ((3, 1, 3), (4, 3, 5))])
def test_dilation_and_padding_are_those_of_pytorchs_modules(mode: str, dilation: int, kernel: tuple, spatial: tuple):
    module = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel) - 1](
        5, 8, kernel, padding="same", padding_mode=mode, dilation=dilation, dtype=torch.float64
    )
    map = linear_map(LAYOUT, module.weight.detach(), module.bias.detach(), Spec(dilation=dilation, padding_mode=mode))
    rows, grad = (torch.randn(2, *spatial, size, dtype=torch.float64) for size in (5, 8))
    images = rows.movedim(-1, 1).requires_grad_()
    result = module(images)
    torch.testing.assert_close(map.forward(rows).movedim(-1, 1), result.detach())
    of_images, of_weight = torch.autograd.grad(result, (images, module.weight), grad.movedim(-1, 1))
    torch.testing.assert_close(map.input_grad(grad).movedim(-1, 1), of_images)
    torch.testing.assert_close(map.input_grad(grad, 2).movedim(-1, 1), of_images[:, 2:])
    total = map.weight_grad()
    total.add(rows, grad)
    torch.testing.assert_close(total.result(), of_weight)


def test_an_even_kernel_is_the_next_odd_one_that_begins_with_zeros():
    """As the refusal of even kernels says."""
    images, weight = torch.randn(2, 5, 7, 6, dtype=torch.float64), torch.randn(8, 5, 4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"pad\(weight, \(1, 0, 1, 0\)\)"):
        check_odd("weight", weight.shape[2:])
    with pytest.raises(ValueError, match=r"pad\(weight, \(0, 0, 1, 0\)\)"):
        check_odd("weight", (4, 3))
    odd = torch.nn.functional.pad(weight, (1, 0, 1, 0))
    # As padding="same" of PyTorch and of JAX: the odd pixel of padding comes last.
    expected = torch.nn.functional.conv2d(torch.nn.functional.pad(images, (0, 1, 1, 2)), weight)
    torch.testing.assert_close(linear_map(LAYOUT, odd).forward(images.movedim(1, -1)).movedim(-1, 1), expected)


@pytest.mark.parametrize("options", [{"dilation": 2}, {"dilation": (1, 2)}, {"padding_mode": ("zeros", "circular")}])
def test_minimal_filtering_is_for_plain_convolutions(monkeypatch: pytest.MonkeyPatch, options: dict):
    monkeypatch.setattr(linear, "is_faster", lambda layout, weight: True)
    weight, large = torch.randn(8, 5, 5, 5), Layout(2, 2, (64, 64), in_channels=3, channels=2, multiple=1)
    with monkeypatch.context() as patch:
        patch.setattr(linear, "Winograd", lambda *args: "filtered")
        assert linear_map(large, weight) == linear_map(large, weight, None, Spec(dilation=(1, 1))) == "filtered"
        assert linear_map(large, weight, None, Spec(**options)) != "filtered"
        assert linear_map(large, torch.randn(8, 5, 1, 1), None, Spec(padding_mode="circular")) == "filtered"


def test_a_weight_that_is_channels_last_is_used_where_it_lies():
    weight = torch.randn(8, 5, 3, 3)
    assert Convolution(LAYOUT, weight, None)._weight().data_ptr() != weight.data_ptr()
    weight = weight.contiguous(memory_format=torch.channels_last)
    assert Convolution(LAYOUT, weight, None)._weight().data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "is_contiguous"), [((5, 5), True), ((7, 5), True), ((3, 5), False)])
def test_large_kernels_over_many_channels_read_contiguous_images_on_avx2(
    monkeypatch: pytest.MonkeyPatch, kernel: tuple[int, int], is_contiguous: bool, format: torch.memory_format
):
    monkeypatch.setattr(devices, "CPU_CAPABILITY", "AVX2")
    seen, convolve = [], torch.conv2d
    monkeypatch.setattr(torch, "conv2d", lambda *args: seen.append(args[:2]) or convolve(*args))
    weight, bias = torch.randn(128, 5, *kernel).contiguous(memory_format=format), torch.randn(128)
    rows = torch.randn(2, 5, 6, 5)
    result = Convolution(LAYOUT, weight, bias).forward(rows)
    assert [each.is_contiguous() for each in seen[0]] == [is_contiguous] * 2
    expected = torch.nn.functional.conv2d(rows.movedim(-1, 1), weight, bias, padding="same")
    assert result.is_contiguous()
    torch.testing.assert_close(result.movedim(-1, 1), expected)


def test_a_cpus_weight_gradient_is_of_two_steps_at_a_time(monkeypatch: pytest.MonkeyPatch):
    seen, backward = [], Convolution._backward
    monkeypatch.setattr(
        Convolution,
        "_backward",
        lambda self, *args, **options: seen.append(len(args[0])) or backward(self, *args, **options),
    )
    total = Convolution(LAYOUT, torch.empty(8, 5, 3, 3), None).weight_grad()
    total.add(torch.randn(5 * 2, 5, 6, 5), torch.randn(5 * 2, 5, 6, 8))
    assert seen == [4, 4, 2]


def test_a_gradient_of_many_steps_is_about_as_exact_as_one_of_each():
    sizes = Layout(24, 1, (48, 48), in_channels=8, channels=8, multiple=1)
    rows, grad = (torch.randn(24, 48, 48, size, dtype=torch.float64) for size in (16, 32))
    weight = torch.empty(32, 16, 3, 3)
    exact, at_once, by_step = (
        Convolution(sizes, weight.to(dtype), None).weight_grad()
        for dtype in (torch.float64, torch.float32, torch.float32)
    )
    exact.add(rows, grad)
    rows, grad = rows.float(), grad.float()
    at_once.add(rows, grad)
    for image in range(24):
        by_step.add(rows[image : image + 1], grad[image : image + 1])
    errors = [(total.result() - exact.result()).square().mean().sqrt() for total in (at_once, by_step)]
    assert errors[0] < 2 * errors[1]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("is_missing", [True, False], ids=["missing", "there"])
def test_half_types_convolve_in_float32_where_a_cpu_has_no_convolution_in_them(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, is_missing: bool
):
    monkeypatch.setattr(devices, "CPU_LACKS", frozenset(HALF if is_missing else ()))
    seen, convolve = [], torch.conv2d
    monkeypatch.setattr(torch, "conv2d", lambda *args: seen.append(args[0].dtype) or convolve(*args))
    weight, rows = torch.randn(8, 5, 3, 3).to(dtype), torch.randn(2, 5, 6, 5).to(dtype)
    bias, grad = torch.randn(8).to(dtype), torch.randn(2, 5, 6, 8).to(dtype)
    map = Convolution(LAYOUT, weight, bias)
    result, total = map.forward(rows), map.weight_grad()
    assert result.dtype == map.input_grad(grad).dtype == dtype and result.is_contiguous()
    assert seen == [torch.float32 if is_missing else dtype]
    total.add(rows, grad)
    total.add(rows, grad)
    assert total.result().dtype == torch.float32
    exact = Convolution(LAYOUT, weight.double(), None).weight_grad()
    exact.add(rows.double(), 2 * grad.double())
    allowed = 1e-5 if is_missing else 0.05
    assert (total.result() - exact.result()).abs().max() < allowed * exact.result().abs().max()


@pytest.mark.parametrize("dtype", HALF)
def test_half_types_of_volumes_convolve_in_float32(dtype: torch.dtype):
    """oneDNN's weight gradient in bfloat16 is wrong where a kernel is deeper than the volume, as here."""
    sizes = Layout(1, 2, (2, 3, 2), in_channels=8, channels=8, multiple=1)
    weight, rows = torch.randn(32, 16, 3, 3, 3).to(dtype), torch.randn(2, 2, 3, 2, 16).to(dtype)
    grad = torch.randn(2, 2, 3, 2, 32).to(dtype)
    got, exact = (Convolution(sizes, weight.to(each), None).weight_grad() for each in (dtype, torch.float64))
    got.add(rows, grad)
    exact.add(rows.double(), grad.double())
    assert (got.result() - exact.result()).abs().max() < 1e-5 * exact.result().abs().max()


def test_a_half_layer_trains_in_float32_convolutions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "CPU_LACKS", frozenset(HALF))
    layer = ConvLSTM2d(3, [4, 2], 3, dtype=torch.bfloat16)
    exact = ConvLSTM2d(3, [4, 2], 3, dtype=torch.float64, backend="torch")
    exact.load_state_dict(layer.state_dict())
    input = torch.randn(3, 2, 3, 6, 5).bfloat16()
    output, got = layer(input)[0], {}
    got = torch.autograd.grad(output.float().square().sum(), list(layer.parameters()))
    expected = torch.autograd.grad(exact(input.double())[0].square().sum(), list(exact.parameters()))
    for gradient, wanted in zip(got, expected, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert (gradient - wanted).abs().max() < 0.05 * wanted.abs().max()
