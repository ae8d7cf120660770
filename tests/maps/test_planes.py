"""Where a CPU's layers run over planes."""

import pytest
import torch
from torch import Tensor

from tritonlstm import ConvLSTM2d, _devices
from tritonlstm._maps import winograd
from tritonlstm._maps.planes import is_faster_in_planes


def weight(kernel: tuple[int, ...] = (5, 5), channels: int = 8, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(4 * channels, 2 * channels, *kernel, dtype=dtype)


def test_planes_are_taken_where_they_were_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX2")
    assert is_faster_in_planes(weight())
    assert is_faster_in_planes(weight(kernel=(3, 7)))
    assert not is_faster_in_planes(weight(kernel=(5, 3)))
    assert not is_faster_in_planes(weight(kernel=(9, 9)))
    assert not is_faster_in_planes(weight(kernel=(9, 5)))
    assert not is_faster_in_planes(weight(kernel=()))
    assert not is_faster_in_planes(weight(channels=7))
    assert not is_faster_in_planes(torch.empty(24, 8, 5, 5)), "2 channels of the input, 6 of the hidden state"
    assert is_faster_in_planes(torch.empty(32, 8, 5, 5), torch.empty(32, 8, 7, 7))
    assert not is_faster_in_planes(torch.empty(32, 8, 5, 5), torch.empty(32, 16, 3, 3))
    assert not is_faster_in_planes(weight(dtype=torch.bfloat16))
    assert not is_faster_in_planes(weight().to("meta"))
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX512")
    assert not is_faster_in_planes(weight())


def test_planes_are_left_where_minimal_filtering_is_faster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX2")
    many, pixels = weight(channels=24), winograd.MAP[5].pixels
    assert is_faster_in_planes(many, pixels=pixels - 1)
    assert not is_faster_in_planes(many, pixels=pixels)
    assert not is_faster_in_planes(many), "a compiler does not ask for the pixels"
    assert is_faster_in_planes(weight(channels=24, kernel=(3, 5)), pixels=10**6)
    assert not is_faster_in_planes(weight(channels=56, kernel=(3, 5)), pixels=10**6)
    assert is_faster_in_planes(weight(channels=24, kernel=(1, 5)), pixels=10**6)
    assert not is_faster_in_planes(torch.empty(32, 8, 5, 5), torch.empty(32, 512, 5, 5), pixels=10**6)


@pytest.mark.parametrize(("side", "planar"), [(6, True), (16, False)])
def test_a_layer_asks_for_its_pixels(monkeypatch: pytest.MonkeyPatch, side: int, planar: bool):
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX2")
    layer, input = ConvLSTM2d(24, 24, 5), torch.randn(2, 4, 24, side, side)
    assert layer(input)[0].is_contiguous() == planar


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_a_layer_returns_what_its_layout_has(monkeypatch: pytest.MonkeyPatch, capability: str):
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", capability)
    layer, input = ConvLSTM2d(8, [8, 16], 5), torch.randn(3, 2, 8, 6, 7, requires_grad=True)
    output, [_, (h, c)] = layer(input)
    images = (output, h, c, *torch.autograd.grad(output.sum(), input))
    assert {image.is_contiguous() for image in images} == {capability == "AVX2"}
    plain = ConvLSTM2d(8, [8, 16], 5, backend="torch")
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(output, plain(input)[0], rtol=1e-4, atol=1e-5)
