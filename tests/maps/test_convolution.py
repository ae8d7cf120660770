"""PyTorch's convolutions, their adjoints and gradients, and the dtype in which they run."""

import pytest
import torch

from tritonlstm import ConvLSTM2d, _devices
from tritonlstm._layout import Layout
from tritonlstm._maps import adjoint_weight, convolution, product

HALF = (torch.bfloat16, torch.float16)


def layout(planar: bool = False) -> Layout:
    return Layout(2, 2, (5, 6), in_channels=3, channels=2, multiple=1, planar=planar)


@pytest.mark.parametrize("planar", [False, True], ids=["rows", "planes"])
@pytest.mark.parametrize("kernel", [(3, 5), ()], ids=["images", "vectors"])
def test_the_adjoint_is_the_transpose(kernel: tuple[int, ...], planar: bool):
    own, way = layout(planar and bool(kernel)), convolution if kernel else product
    spatial = (5, 6) if kernel else ()
    weight = own.dense(torch.randn(8, *kernel, 5, dtype=torch.float64))
    rows, grad = (own.dense(torch.randn(2, *spatial, size, dtype=torch.float64)) for size in (5, 8))
    forth = (way.Map(own, weight)(rows) * grad).sum()
    back = way.Map(own, adjoint_weight(own, weight, slice(1, 4)))(grad)
    of_others = weight.clone()
    of_others[..., 1:4] = 0
    rest = (way.Map(own, own.dense(of_others))(rows) * grad).sum()
    torch.testing.assert_close((back * rows[..., 1:4]).sum(), forth - rest)


def test_a_cpus_gradient_is_of_two_steps_at_a_time(monkeypatch: pytest.MonkeyPatch):
    seen, grad = [], convolution.WeightGrad._grad
    monkeypatch.setattr(convolution.WeightGrad, "_grad", lambda *args: seen.append(len(args[1])) or grad(*args))
    total = convolution.WeightGrad(layout(), torch.empty(8, 3, 3, 5))
    total.add(torch.randn(5 * 2, 5, 6, 5), torch.randn(5 * 2, 5, 6, 8))
    assert seen == [4, 4, 2]


def test_a_gradient_of_many_steps_is_about_as_exact_as_one_of_each():
    sizes = Layout(24, 1, (48, 48), in_channels=8, channels=8, multiple=1)
    rows, grad = (torch.randn(24, 48, 48, size, dtype=torch.float64) for size in (16, 32))
    weight = torch.empty(32, 3, 3, 16)
    exact, at_once, by_step = (
        convolution.WeightGrad(sizes, weight.to(dtype)) for dtype in (torch.float64, torch.float32, torch.float32)
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
    monkeypatch.setattr(_devices, "cpu_convolves", lambda dtype: not (is_missing and dtype in HALF))
    seen, convolve = [], torch.convolution
    monkeypatch.setattr(torch, "convolution", lambda *args: seen.append(args[0].dtype) or convolve(*args))
    weight, rows = torch.randn(8, 3, 3, 5).to(dtype), torch.randn(2, 5, 6, 5).to(dtype)
    bias, grad = torch.randn(8).to(dtype), torch.randn(2, 5, 6, 8).to(dtype)
    result, total = convolution.Map(layout(), weight, bias)(rows), convolution.WeightGrad(layout(), weight)
    assert result.dtype == dtype and result.is_contiguous()
    assert seen == [torch.float32 if is_missing else dtype]
    assert total.gains_by_steps != is_missing
    total.add(rows, grad)
    total.add(rows, grad)
    assert total.result().dtype == torch.float32
    exact = convolution.WeightGrad(layout(), weight.double())
    exact.add(rows.double(), 2 * grad.double())
    allowed = 1e-5 if is_missing else 0.05
    assert (total.result() - exact.result()).abs().max() < allowed * exact.result().abs().max()


def test_a_half_layer_trains_in_float32_convolutions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_devices, "cpu_convolves", lambda dtype: dtype not in HALF)
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
