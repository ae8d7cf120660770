"""Steps of more than 2³⁷ elements, in memory that is sparse: the blocks at both ends and in the middle."""

import re

import pytest
import torch

from tests.support import sparse
from tests.support.ptx.fault import Fault
from tests.support.ptx.launch import on_machine
from tritonlstm import Spec
from tritonlstm.cells import BackwardStep, ForwardStep
from tritonlstm.cells import triton as cell
from tritonlstm.cells.aten import AtenCell
from tritonlstm.cells.triton import TritonCell, TritonParameterGrads
from tritonlstm.core.layout import Layout
from tritonlstm.launch import pick_config

ROWS = {64: 2**29 + 5, 17: 2**31 - 3}
"""Rows of a step by its channels: more than 2³⁵ elements of a state."""


class Step:
    """One step of `channels` channels: huge tensors, and the rows of one block in small ones beside them."""

    def __init__(self, channels: int):
        self.channels, self.rows = channels, ROWS[channels]
        self.layout = Layout(1, self.rows, (1,), channels, channels, multiple=8)
        half = {"dtype": torch.bfloat16}
        self.preact = sparse.zeros(self.rows, 1, 4 * channels, **half)
        self.gates = sparse.zeros(self.rows, 1, 4 * channels, **half)
        self.c_prev = sparse.zeros(self.rows, 1, channels, dtype=torch.float32)
        self.c = sparse.zeros(self.rows, 1, channels, dtype=torch.float32)
        self.h = sparse.zeros(self.rows, 1, channels, **half)
        self.wide = sparse.zeros(self.rows, 1, self.layout.width, **half)
        self.slot = self.wide[..., self.layout.hidden_slot]
        self.peephole = torch.randn(3, 1, channels, **half)
        self.cell = TritonCell(self.layout, Spec(), self.preact, None, self.peephole)

    def forward_step(self) -> ForwardStep:
        return ForwardStep(self.preact, None, self.c_prev, gates=self.gates, c=self.c, h=self.h, h_next=self.slot)

    def of_block(self, block: int) -> tuple[slice, torch.Tensor, torch.Tensor]:
        """The rows that a block of the gate kernels touches; row, counted from there, and channel of its elements."""
        size = pick_config("gates_forward", "cpu", 2, self.channels).block
        elements = torch.arange(block * size, min((block + 1) * size, self.rows * self.channels))
        first, last = int(elements[0]) // self.channels, int(elements[-1]) // self.channels
        return slice(first, last + 1), elements // self.channels - first, elements % self.channels


def fill(tensor: torch.Tensor, rows: slice) -> torch.Tensor:
    """Random numbers in these rows, which are returned."""
    return tensor[rows].normal_()


@pytest.mark.parametrize("channels", ROWS)
def test_the_first_middle_and_last_blocks_reach_exactly_their_rows(channels: int):
    step = Step(channels)
    count = -(-step.rows * channels // pick_config("gates_forward", "cpu", 2, channels).block)
    assert step.preact.numel() > 2**37 and step.rows * channels > 2**35
    grad_output = sparse.zeros(*step.h.shape, dtype=torch.bfloat16)
    grad_c = sparse.zeros(*step.c.shape, dtype=torch.float32)
    grad_preact = sparse.zeros(*step.preact.shape, dtype=torch.bfloat16)
    for block in (0, count // 2, count - 1):
        rows, row, channel = step.of_block(block)
        for tensor in (step.preact, step.c_prev):
            fill(tensor, rows)
        with on_machine(blocks=lambda grid, block=block: [block]):
            step.cell.forward(step.forward_step())
        small = Layout(1, rows.stop - rows.start, (1,), 0, channels, multiple=1)
        plain = AtenCell(small, Spec(), step.preact, None, step.peephole)
        h, h_next, c = (torch.empty_like(tensor[rows]) for tensor in (step.h, step.h, step.c))
        gates = AtenCell.new_gates(h, 1)[0]
        plain.forward(
            ForwardStep(step.preact[rows].clone(), None, step.c_prev[rows], gates=gates, c=c, h=h, h_next=h_next)
        )
        for got, wanted in ((step.c, c), (step.h, h), (step.slot, h), *zip(step.gates.chunk(4, -1), gates)):
            torch.testing.assert_close(
                got[rows][row, 0, channel], wanted[row, 0, channel].to(got.dtype), rtol=1e-2, atol=1e-2
            )

        step.gates[rows] = torch.cat(gates.unbind(), -1)
        before = fill(grad_c, rows).clone()
        fill(grad_output, rows)
        fill(step.slot, rows)
        with on_machine(blocks=lambda grid, block=block: [block]):
            step.cell.backward(
                BackwardStep(step.gates, step.c_prev, step.c, grad_output, step.slot, grad_c, grad_preact)
            )
        wanted = torch.empty_like(step.preact[rows])
        plain.backward(
            BackwardStep(gates, step.c_prev[rows], c, grad_output[rows], step.slot[rows], before, grad_preact=wanted)
        )
        pairs = (grad_c, before), *zip(grad_preact.chunk(4, -1), wanted.chunk(4, -1))
        for got, expected in pairs:
            torch.testing.assert_close(got[rows][row, 0, channel], expected[row, 0, channel], rtol=2e-2, atol=2e-2)


def test_offsets_of_32_bits_would_be_found():
    step = Step(64)

    def cut(ptx: str) -> str:
        """A block's first element, counted in 32 bits."""
        edited, count = re.subn(
            r"mul\.wide\.u32\s+(%rd\d+), (%r\d+), 1024;", r"mul.wide.u32 \1, \2, 1024; and.b64 \1, \1, 4294967295;", ptx
        )
        assert count
        return edited

    with on_machine(blocks=lambda count: [count - 1]):
        step.cell.forward(step.forward_step())
    with on_machine(blocks=lambda count: [count - 1], edit=cut), pytest.raises(Fault, match="outside preact_ptr"):
        step.cell.forward(step.forward_step())


class Huge:
    """Tells the sums of the reduction which memory to take."""

    device = torch.device("cpu")

    @staticmethod
    def new_zeros(*shape: int) -> torch.Tensor:
        return sparse.zeros(*shape, dtype=torch.float32)


SUMS = {
    "few images of many pixels": (5, 2**23, 1),  # offsets of up to 5·2³¹ elements, in one split
    "many images of few pixels": (2**19, 2**7, 2**10),  # in many splits, the last of which begins close to 2³⁴
}


@pytest.mark.parametrize(("images", "pixels", "splits"), SUMS.values(), ids=SUMS.keys())
def test_sums_reach_exactly_the_last_rows(images: int, pixels: int, splits: int, monkeypatch: pytest.MonkeyPatch):
    channels, block = 64, 256 // 64  # pixels of a block of columns
    layout = Layout(1, images, (pixels,), channels, channels, multiple=8)
    grad_preact = sparse.zeros(1, images, pixels, 4 * channels, dtype=torch.bfloat16)
    c_prev, c = (sparse.zeros(1, images, pixels, channels, dtype=torch.float32) for _ in range(2))
    assert grad_preact.numel() > 2**33
    monkeypatch.setattr(cell, "_REDUCTION_PROGRAMS", splits * pixels // block)
    sums = TritonParameterGrads(layout, Huge, bias=True, peephole_pixels=pixels, itemsize=2)
    assert len(sums._sums) == splits
    chosen = [images - images // splits, images - 2, images - 1]  # the first and the last of the last split
    columns = slice(pixels - block, pixels)
    for image in chosen:
        for tensor in (grad_preact, c_prev, c):
            tensor[0, image, columns].normal_()
    with on_machine(blocks=lambda count: [count - 1]):
        sums.add(grad_preact, c_prev, c)
    da, before, after = (tensor[0, :, columns][chosen].double() for tensor in (grad_preact, c_prev, c))
    da_i, da_f, _, da_o = biases = da.chunk(4, -1)
    expected = [each.sum(0) for each in (*biases, da_i * before, da_f * before, da_o * after)]
    torch.testing.assert_close(sums._sums[-1, :, columns].double(), torch.stack(expected), rtol=1e-5, atol=1e-5)
