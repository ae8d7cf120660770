"""The reduction of more than 2³⁵ elements of a state, in memory that is sparse: the last columns of the last split."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support import sparse
from tests.support.ptx.launch import on_machine
from tritonlstm.cells import triton as cell
from tritonlstm.cells.triton import TritonParameterGrads
from tritonlstm.core.layout import Layout


class Huge:
    """Tells the sums of the reduction which memory to take."""

    device = torch.device("cpu")

    @staticmethod
    def new_zeros(*shape: int) -> Tensor:
        return sparse.zeros(*shape, dtype=torch.float32)


SUMS = {
    "few images of many pixels": (64, 65, 2**23, 1),  # offsets of up to 2³⁵ elements, in one split
    "many images of few pixels": (64, 9 * 2**19, 2**7, 9 * 2**10),  # the last split begins beyond 2³⁵
    "rows of 64 bits": (17, 65534 * 32769 + 40, 1, 65535),  # and as many splits as a grid may have: the last has 40
}
"""Channels, images, pixels of one that have sums of their own, and splits."""


def last_sums(
    channels: int,
    images: int,
    pixels: int,
    splits: int,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[str], str] = lambda ptx: ptx,
) -> tuple[Tensor, Tensor]:
    """The sums (7, pixels, channels) of the last program, and what they should be."""
    block = 256 // channels  # pixels of a block of columns
    assert images * pixels * channels > 2**35
    layout = Layout(1, images, (pixels,), channels, channels, multiple=8)
    grad_preact = sparse.zeros(1, images, pixels, 4 * channels, dtype=torch.bfloat16)
    c_prev, c = (sparse.zeros(1, images, pixels, channels, dtype=torch.float32) for _ in range(2))
    monkeypatch.setattr(cell, "_REDUCTION_PROGRAMS", splits * -(-pixels // block))
    sums = TritonParameterGrads(layout, Huge, bias=True, peephole_pixels=pixels, dtype=torch.bfloat16)
    assert len(sums._sums) == splits
    first = (splits - 1) * -(-images // splits)  # of the last split
    chosen, columns = [first, images - 2, images - 1], slice(max(0, pixels - block), pixels)
    for image in chosen:
        for tensor in (grad_preact, c_prev, c):
            tensor[0, image, columns].normal_()
    with on_machine(blocks=lambda count: [count - 1], edit=edit):
        sums.add(grad_preact, c_prev, c)
    da, before, after = (tensor[0, :, columns][chosen].double() for tensor in (grad_preact, c_prev, c))
    da_i, da_f, _, da_o = biases = da.chunk(4, -1)
    expected = [each.sum(0) for each in (*biases, da_i * before, da_f * before, da_o * after)]
    return sums._sums[-1, :, columns].double(), torch.stack(expected)


@pytest.mark.parametrize("sizes", SUMS.values(), ids=SUMS.keys())
def test_sums_reach_exactly_the_last_rows(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    torch.testing.assert_close(*last_sums(*sizes, monkeypatch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opcode", ["mul.lo.s64", "shl.b64"])
def test_offsets_of_32_bits_would_be_found(opcode: str, monkeypatch: pytest.MonkeyPatch):
    """Such sums of one split are those of other rows, or lie where others do."""

    def cut(ptx: str) -> str:
        edited, count = re.subn(rf"({re.escape(opcode)}\s+(%rd\d+), [^;]*;)", r"\1 and.b64 \2, \2, 4294967295;", ptx)
        assert count
        return edited

    with pytest.raises(AssertionError, match=r"not close|more than once"):
        torch.testing.assert_close(*last_sums(*SUMS["few images of many pixels"], monkeypatch, cut))
