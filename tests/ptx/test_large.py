"""Steps of more than 2³⁷ elements, in memory that is sparse: the blocks at both ends and in the middle, and of what
specialises the kernels otherwise the last."""

import math
import re

import pytest
import torch
from torch import Tensor

from tests.support import sparse
from tests.support.ptx.fault import Fault
from tests.support.ptx.launch import on_machine
from tritonlstm import Spec
from tritonlstm.cells import BackwardStep, ForwardStep
from tritonlstm.cells.aten import AtenCell
from tritonlstm.cells.triton import TritonCell
from tritonlstm.core.layout import Layout
from tritonlstm.launch import pick_config

HALF = torch.bfloat16
ROWS = {"64 channels": (64, 2**29 + 5), "17 channels": (17, 2**31 - 3), "rows of 64 bits": (17, 2**31 + 5)}
"""Channels, and rows of a step: more than 2³⁵ elements of a state."""


class Step:
    """One step of a layer: huge tensors, in rows, and what the compiled kernels and ATen make of one block of them.

    Without a slot for h it is a hoisted step, with an addend instead. `grad_output` (B, *spatial, C) may have any
    strides.
    """

    def __init__(
        self,
        channels: int,
        batch: int,
        spatial: tuple[int, ...] = (1,),
        hoisted: bool = False,
        recomputes: bool = False,
        grad_output: Tensor | None = None,
    ):
        self.channels, self.rows = channels, batch * math.prod(spatial)
        assert self.rows * channels > 2**35
        layout = Layout(1, batch, spatial, channels, channels, multiple=8)
        self.preact, self.gates, self.grad_preact = (self._zeros(4 * channels, HALF) for _ in range(3))
        self.addend = self._zeros(4 * channels, HALF) if hoisted else None
        self.c_prev, self.c, self.grad_c = (self._zeros(channels, torch.float32) for _ in range(3))
        self.h = self._zeros(channels, HALF)
        self.slot = self._zeros(layout.width, HALF)[..., layout.hidden_slot]
        self.grad_output = self._zeros(channels, HALF) if grad_output is None else grad_output
        self.spec = Spec(memory="recompute" if recomputes else "save")
        self.peephole = torch.randn(3, 1, channels, dtype=HALF)
        self.bias = torch.randn(4 * channels, dtype=HALF) if recomputes else None
        self.cell = TritonCell(layout, self.spec, self.preact, self.bias, self.peephole)
        self.blocks = -(-self.rows * channels // self._block)

    @property
    def _block(self) -> int:
        return pick_config("gates_forward", "cpu", 2, self.channels).block

    def _zeros(self, channels: int, dtype: torch.dtype) -> Tensor:
        return sparse.zeros(self.rows, 1, channels, dtype=dtype)

    def _of_block(self, block: int) -> tuple[slice, Tensor, Tensor]:
        """The rows that a block touches; row, counted from there, and channel of its elements."""
        elements = torch.arange(block * self._block, min((block + 1) * self._block, self.rows * self.channels))
        first, last = int(elements[0]) // self.channels, int(elements[-1]) // self.channels
        return slice(first, last + 1), elements // self.channels - first, elements % self.channels

    def _plain(self, rows: slice) -> AtenCell:
        layout = Layout(1, rows.stop - rows.start, (1,), 0, self.channels, multiple=1)
        return AtenCell(layout, self.spec, self.preact, None, self.peephole)

    def _plain_preact(self, rows: slice) -> Tensor:
        """The pre-activations with the bias, which another part of the layer adds for ATen."""
        return self.preact[rows].float() + (0 if self.bias is None else self.bias)

    def forward(self) -> None:
        saved = None if self.spec.recomputes else self.gates
        h_next = self.slot if self.addend is None else None
        self.cell.forward(ForwardStep(self.preact, self.addend, self.c_prev, saved, self.c, self.h, h_next))

    def backward(self) -> None:
        gates = self.preact if self.spec.recomputes else self.gates
        self.cell.backward(
            BackwardStep(gates, self.c_prev, self.c, self.grad_output, self.slot, self.grad_c, self.grad_preact)
        )

    def check_forward(self, block: int) -> None:
        """Leaves the right results in the block's rows."""
        rows, row, channel = self._of_block(block)
        for tensor in (self.preact, self.c_prev, self.addend):
            if tensor is not None:
                tensor[rows].normal_()
        with on_machine(blocks=lambda count: [block]):
            self.forward()
        h, h_next, c = (torch.empty_like(tensor[rows]) for tensor in (self.h, self.h, self.c))
        gates = AtenCell.new_gates(h, 1)[0]
        addend = None if self.addend is None else self.addend[rows]
        self._plain(rows).forward(
            ForwardStep(self._plain_preact(rows), addend, self.c_prev[rows], gates=gates, c=c, h=h, h_next=h_next)
        )
        pairs = [(self.c, c), (self.h, h)]
        pairs += [(self.slot, h_next)] if addend is None else []
        pairs += [] if self.spec.recomputes else zip(self.gates.chunk(4, -1), gates)
        for got, wanted in pairs:
            torch.testing.assert_close(
                got[rows][row, 0, channel], wanted[row, 0, channel].to(got.dtype), rtol=1e-2, atol=1e-2
            )
        self.gates[rows], self.c[rows] = torch.cat(gates.unbind(), -1), c

    def check_backward(self, block: int) -> None:
        """After check_forward."""
        rows, row, channel = self._of_block(block)
        grad_c = self.grad_c[rows].normal_().clone()
        self.slot[rows].normal_()
        # The rows of any strides, by the indices of their pixels.
        pixels = torch.unravel_index(torch.arange(rows.start, rows.stop), self.grad_output.shape[:-1])
        grad_output = torch.randn_like(self.slot[rows])
        self.grad_output[pixels] = grad_output[:, 0]
        with on_machine(blocks=lambda count: [block]):
            self.backward()
        wanted = torch.empty_like(self.preact[rows])
        gates = torch.stack(self.gates[rows].chunk(4, -1))
        gates = self._plain_preact(rows) if self.spec.recomputes else gates
        self._plain(rows).backward(
            BackwardStep(gates, self.c_prev[rows], self.c[rows], grad_output, self.slot[rows], grad_c, wanted)
        )
        for got, expected in ((self.grad_c, grad_c), *zip(self.grad_preact.chunk(4, -1), wanted.chunk(4, -1))):
            torch.testing.assert_close(got[rows][row, 0, channel], expected[row, 0, channel], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("channels", "rows"), ROWS.values(), ids=ROWS.keys())
def test_the_first_middle_and_last_blocks_reach_exactly_their_rows(channels: int, rows: int):
    step = Step(channels, rows)
    for block in (0, step.blocks // 2, step.blocks - 1):
        step.check_forward(block)
        step.check_backward(block)


def test_a_hoisted_step_reaches_exactly_its_last_rows():
    step = Step(64, 2**29 + 5, hoisted=True)
    step.check_forward(step.blocks - 1)


def test_a_step_that_recomputes_its_gates_reaches_exactly_its_last_rows():
    step = Step(64, 2**29 + 5, recomputes=True)
    step.check_forward(step.blocks - 1)
    step.check_backward(step.blocks - 1)


@pytest.mark.parametrize("channels_first", [False, True], ids=["images first", "channels first"])
def test_a_gradient_with_strides_of_its_own_is_read_in_exactly_its_last_rows(channels_first: bool):
    """An image stride times more than 2¹⁹ images, or a channel stride of more than 2³¹ elements."""
    if channels_first:
        channels, batch = 17, 2**21 + 1
        grad_output = sparse.zeros(channels, batch, 32, 32, dtype=HALF).permute(1, 2, 3, 0)
    else:
        channels, batch = 64, 2**19 + 1
        grad_output = sparse.zeros(batch, channels, 32, 32, dtype=HALF).permute(0, 2, 3, 1)
    step = Step(channels, batch, (32, 32), grad_output=grad_output)
    step.check_forward(step.blocks - 1)
    step.check_backward(step.blocks - 1)


def test_offsets_of_32_bits_would_be_found():
    step = Step(64, 2**29 + 5)

    def cut(ptx: str) -> str:
        """A block's first element, counted in 32 bits."""
        edited, count = re.subn(
            r"mul\.wide\.u32\s+(%rd\d+), (%r\d+), 1024;", r"mul.wide.u32 \1, \2, 1024; and.b64 \1, \1, 4294967295;", ptx
        )
        assert count
        return edited

    with on_machine(blocks=lambda count: [count - 1]):
        step.forward()
    with on_machine(blocks=lambda count: [count - 1], edit=cut), pytest.raises(Fault, match="outside preact_ptr"):
        step.forward()
