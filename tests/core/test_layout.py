"""The sizes of a layer's tensors, and how they lie in memory."""

import pytest
import torch

from tritonlstm.core.layout import Layout, from_rows


def layout(multiple: int = 1) -> Layout:
    return Layout(steps=5, batch=2, spatial=(3, 4), in_channels=6, channels=7, multiple=multiple)


def test_allocates_densely_and_no_views():
    own, like = layout(), torch.empty(0)
    rows, images = own.new_sequence(like, 7, steps=5), own.new_images(like, 7, steps=5)
    assert rows.shape == (5, 2, 3, 4, 7) and rows.is_contiguous()
    assert images.shape == (5, 2, 7, 3, 4)
    assert from_rows(rows, 2).stride() == images.stride()
    assert own.new_step(like, 7).shape == (2, 3, 4, 7)
    assert own.new_images(like, 7).stride() == images[0].stride()
    assert not any(tensor._is_view() for tensor in (rows, images, own.new_step(like, 7), own.new_images(like, 7)))


@pytest.mark.parametrize(
    ("multiple", "input", "hidden", "width"), [(1, slice(0, 6), slice(6, 13), 13), (8, slice(0, 6), slice(8, 15), 16)]
)
def test_a_row_has_the_input_and_then_the_hidden_state_each_aligned(multiple, input, hidden, width):
    own = layout(multiple)
    assert (own.input_slot, own.hidden_slot, own.width) == (input, hidden, width)
