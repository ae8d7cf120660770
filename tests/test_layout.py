"""How an image lies in memory, and where a CPU's layers run over planes."""

import pytest
import torch
from torch import Tensor

from tritonlstm import ConvLSTM2d, _devices
from tritonlstm._layout import Layout, from_rows, is_faster_in_planes


def layout(planar: bool) -> Layout:
    return Layout(steps=5, batch=2, spatial=(3, 4), in_channels=6, channels=7, multiple=1, planar=planar)


@pytest.mark.parametrize("planar", [False, True])
def test_allocates_densely_and_no_views(planar: bool):
    own, like = layout(planar), torch.empty(0)
    rows, images = own.new_sequence(like, 7), own.new_images(like, 7, steps=5)
    assert rows.shape == (5, 2, 3, 4, 7)
    assert images.shape == (5, 2, 7, 3, 4)
    assert rows.stride() == from_rows(rows, 2).movedim(2, -1).stride()
    assert from_rows(rows, 2).stride() == images.stride()
    assert images.is_contiguous() == planar
    assert rows.is_contiguous() != planar
    assert own.new_step(like, 7).shape == (2, 3, 4, 7)
    assert own.new_images(like, 7).stride() == images[0].stride()
    assert not any(tensor._is_view() for tensor in (rows, images, own.new_step(like, 7), own.new_images(like, 7)))


@pytest.mark.parametrize("planar", [False, True])
def test_dense_copies_what_lies_otherwise(planar: bool):
    own = layout(planar)
    rows = torch.randn(5, 2, 3, 4, 7)
    dense = own.dense(rows)
    assert torch.equal(dense, rows)
    assert dense.stride() == own.new_sequence(rows, 7).stride()
    assert own.dense(dense).data_ptr() == dense.data_ptr()
    assert (dense.data_ptr() == rows.data_ptr()) != planar


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
    assert is_faster_in_planes(torch.empty(32, 8, 5, 5), torch.empty(32, 16, 7, 7))
    assert not is_faster_in_planes(torch.empty(32, 8, 5, 5), torch.empty(32, 16, 3, 3))
    assert not is_faster_in_planes(weight(dtype=torch.bfloat16))
    assert not is_faster_in_planes(weight().to("meta"))
    monkeypatch.setattr(_devices, "CPU_CAPABILITY", "AVX512")
    assert not is_faster_in_planes(weight())


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
