"""How an image lies in memory."""

import pytest
import torch

from tritonlstm._layout import Layout, from_rows


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
