"""The weight gradient as products of rows of taps, against PyTorch's."""

import pytest
import torch

from tritonlstm import ConvLSTM2d, _convolution, _devices, _tap_rows

# (images, height, width), channels in and out, kernel
CASES = {
    "square": ((2, 9, 7), 3, 8, (3, 3)),
    "one tap": ((2, 4, 5), 3, 4, (1, 1)),
    "tall kernel": ((1, 6, 5), 2, 4, (5, 1)),
    "wide kernel": ((3, 5, 6), 2, 4, (1, 7)),
    "kernel larger than the image": ((2, 2, 3), 3, 4, (7, 9)),
    "one column": ((2, 8, 1), 2, 4, (3, 5)),
    "one row": ((2, 1, 8), 2, 4, (3, 5)),
}


@pytest.mark.parametrize("strip_pixels", [1, 14, 10**6], ids=["row by row", "strips", "whole images"])
@pytest.mark.parametrize(("sizes", "in_channels", "out_channels", "kernel"), CASES.values(), ids=CASES)
def test_is_the_gradient_of_the_convolution(
    monkeypatch: pytest.MonkeyPatch,
    sizes: tuple[int, ...],
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    strip_pixels: int,
):
    monkeypatch.setattr(_tap_rows, "STRIP_PIXELS", strip_pixels)
    rows, grad = (torch.randn(*sizes, channels, dtype=torch.float64) for channels in (in_channels, out_channels))
    weight = torch.zeros(out_channels, *kernel, in_channels, dtype=torch.float64)
    torch.testing.assert_close(
        _tap_rows.weight_grad(rows, grad, kernel), _convolution.weight_grad(rows, grad, weight), rtol=0, atol=1e-12
    )


def answers(pixels: tuple[int, int] = (64, 64), in_channels: int = 64, dtype: torch.dtype = torch.float32) -> bool:
    return _tap_rows.is_faster(
        torch.zeros(1, *pixels, in_channels, dtype=dtype), torch.zeros(128, 3, 3, in_channels, dtype=dtype)
    )


def test_is_taken_where_it_was_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX2")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert answers()
    assert not answers(pixels=(16, 16))
    assert not answers(in_channels=8)
    assert not answers(dtype=torch.bfloat16)
    planar = torch.zeros(1, 64, 64, 64).movedim(1, -1)
    assert not _tap_rows.is_faster(planar, torch.zeros(128, 3, 3, 64))
    assert not _tap_rows.is_faster(torch.zeros(1, 64, 64, 64), torch.zeros(128, 1, 1, 64))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert not answers()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX512")
    assert not answers()


def test_gives_a_layer_the_gradients_that_pytorch_gives(monkeypatch: pytest.MonkeyPatch):
    layer, input = ConvLSTM2d(3, [4, 2], 3), torch.randn(3, 2, 3, 9, 8)

    def gradients() -> list[torch.Tensor]:
        return torch.autograd.grad(layer(input)[0].square().sum(), list(layer.parameters()))

    calls, real = [], _tap_rows.weight_grad
    monkeypatch.setattr(_tap_rows, "weight_grad", lambda *args: calls.append(args) or real(*args))
    monkeypatch.setattr(_tap_rows, "is_faster", lambda *_: False)
    expected = gradients()
    assert not calls
    monkeypatch.setattr(_tap_rows, "is_faster", lambda *_: True)
    for got, by_pytorch in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(got, by_pytorch, rtol=1e-4, atol=1e-6)
    assert calls
