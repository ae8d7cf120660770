"""Pre-activations from one convolution a step, over rows in which input and hidden state lie side by side.

    rows = [ X_t | 0 | H_{t-1} | 0 ]        (B, *spatial, width)

The columns are the public weight's own; the zeros are there on a GPU alone (see `Layout`). Forward, the cell of the
step before has already written the hidden part, so nothing is concatenated. The rows are not kept: the backward pass
packs those of a chunk of steps from input and output.
"""

from collections.abc import Sequence

from torch import Tensor

from ..core.arguments import Arguments, Saved
from ..core.layout import Layout, to_rows
from ..core.spec import Spec
from ..linear import linear_map
from .columns import pack, unpack
from .order import Order

RING_STEPS = 8
"""Steps whose rows the forward pass holds at once where each copy of X is a launch: one for eight steps. In ATen calls
one slot serves every step, for less memory. Not measured."""


def _columns(weight: Tensor, layout: Layout) -> Tensor:
    """weight (4C, Cin + C, *kernel) in the columns of rows: itself, where these have no padding."""
    if layout.width == weight.shape[1]:
        return weight
    of_input, of_hidden = weight.split([layout.in_channels, layout.channels], 1)
    return pack(layout.width, (layout.input_slot, of_input), (layout.hidden_slot, of_hidden))


def _fill_padding(rows: Tensor, layout: Layout) -> None:
    for first, last in (
        (layout.input_slot.stop, layout.hidden_slot.start),
        (layout.hidden_slot.stop, layout.width),
    ):
        if first < last:
            rows[..., first:last] = 0


class Forward:
    """The pre-activations of each step. `bias` is what the cell leaves to the convolution.

    A ring of slots holds the rows; X is copied for a ring's length at a time, or once if it is the same at every step.
    """

    def __init__(
        self, arguments: Arguments, bias: Tensor | None, outputs: Sequence[Tensor], layout: Layout, spec: Spec
    ):
        weight, input, h0 = arguments.weight, arguments.input, arguments.h0
        self._order = order = Order(layout.steps, spec.reverse)
        self._map = linear_map(layout, _columns(weight, layout), bias, spec)
        self._frames = None if input is None else to_rows(input, channel_dim=2)
        self._refills = input is not None and input.stride(0) != 0
        ring = min(layout.steps, RING_STEPS) if self._refills and spec.backend == "triton" else 1
        rows = layout.new_sequence(weight, layout.width, ring)
        self._input_slots = rows[..., layout.input_slot]
        self._slots, self._hidden_slots = rows.unbind(), rows[..., layout.hidden_slot].unbind()
        slot = self._slot(order.start)
        rows[slot : slot + 1, ..., layout.hidden_slot] = 0 if h0 is None else to_rows(h0)
        _fill_padding(rows, layout)
        self._part = order.part(order.start, ring)
        self._copy_input(*self._part)

    def _slot(self, t: int) -> int:
        return t - self._order.part(t, len(self._slots))[0]

    def _copy_input(self, first: int, last: int) -> None:
        if self._frames is not None:
            self._input_slots[: last - first].copy_(self._frames[first:last])

    def preact(self, t: int, out: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Two parts of A_t (B, *spatial, 4C), the first in `out` where that needs no copy; here the second is None."""
        first, last = part = self._order.part(t, len(self._slots))
        if part != self._part and self._refills:
            self._copy_input(first, last)
        self._part = part
        return self._map.forward(self._slots[t - first], out), None

    def next_slot(self, t: int) -> Tensor | None:
        """Where the step after t reads h_t (B, *spatial, C), a slot of wider rows; None would be the output."""
        return self._hidden_slots[self._slot(self._order.following(t))]


class Backward:
    """The gradients of input, hidden state and weights from those of the pre-activations.

    `input_by_step`: whether dX comes with each `step`, so that the first one is wanted too. `chunk_width`: channels of
    a row that are kept for each step of a chunk, dA and what is packed for it.
    """

    def __init__(
        self, arguments: Arguments, bias: Tensor | None, saved: Saved, layout: Layout, needs: Arguments, spec: Spec
    ):
        self._arguments, self._layout, self._order = arguments, layout, Order(layout.steps, spec.reverse)
        input, weight = arguments.input, arguments.weight
        self._output = to_rows(saved.output, channel_dim=2)
        self._frames = None if input is None else to_rows(input, channel_dim=2)
        self._map = linear_map(layout, _columns(weight, layout), bias, spec)
        self._grad_weight = self._map.weight_grad() if needs.weight else None
        self._grad_input = layout.new_images(weight, layout.in_channels, layout.steps) if needs.input else None
        self._grad_frames = to_rows(self._grad_input, channel_dim=2).unbind() if needs.input else None
        self._first_column = 0 if needs.input else layout.hidden_slot.start
        self.input_by_step = needs.input
        self.chunk_width = 4 * layout.channels + (layout.width if needs.weight or spec.recomputes else 0)

    def _pack(self, first: int, last: int) -> Tensor:
        """[X_t | 0 | H_{t-1} | 0] of times first … last - 1, dense (steps · B, *spatial, width)."""
        layout, h0, start = self._layout, self._arguments.h0, self._order.start
        rows = layout.new_sequence(self._output, layout.width, last - first)
        hidden = rows[..., layout.hidden_slot]
        if first <= start < last:
            hidden[start - first] = 0 if h0 is None else to_rows(h0)
        times, sources = self._order.carried(first, last)
        if times.start < times.stop:
            hidden[times.start - first : times.stop - first] = self._output[sources]
        if self._frames is not None:
            rows[..., layout.input_slot] = self._frames[first:last]
        _fill_padding(rows, layout)
        return rows.flatten(0, 1)

    def preact(self, first: int, last: int) -> Tensor:
        """The pre-activations (steps, B, *spatial, 4C) of steps first … last - 1, recomputed."""
        return self._map.forward(self._pack(first, last)).unflatten(0, (last - first, -1))

    def new_grad_h(self) -> Tensor:
        """Uninitialised dH (B, *spatial, C), in rows as wide as those of `step`, for which a cell may be compiled."""
        return self._hidden(self._layout.new_step(self._output, self._layout.width - self._first_column))

    def step(self, t: int, grad_preact: Tensor) -> Tensor:
        """dH_{t-1} (B, *spatial, C), a slot of wider rows, from dA_t (B, *spatial, 4C)."""
        grad_row = self._map.input_grad(grad_preact, self._first_column)
        if self._grad_frames is not None:
            self._grad_frames[t].copy_(grad_row[..., self._layout.input_slot])
        return self._hidden(grad_row)

    def _hidden(self, grad_row: Tensor) -> Tensor:
        hidden = self._layout.hidden_slot
        return grad_row[..., hidden.start - self._first_column : hidden.stop - self._first_column]

    def chunk(self, first: int, last: int, grad_preact: Tensor) -> None:
        """Add what steps first … last - 1 give to the weight's gradient; grad_preact (steps, B, *spatial, 4C)."""
        if self._grad_weight is not None:
            # Packed anew where there was a `preact`: kept, the rows would add to the peak of memory.
            self._grad_weight.add(self._pack(first, last), grad_preact.flatten(0, 1))

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of input, weight and input_weight that are wanted."""
        if self._grad_weight is None:
            return self._grad_input, None, None
        total, slots = self._grad_weight.result(), (self._layout.input_slot, self._layout.hidden_slot)
        return self._grad_input, unpack(self._arguments.weight, *(total[:, slot] for slot in slots)), None
