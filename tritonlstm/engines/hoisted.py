"""Pre-activations from the input's convolution for many steps at once, and the hidden state's step by step.

    A_t = W_x * X_t + W_h * H_{t-1}

The first term goes to the cell as an addend. H_{t-1} is read from the output, where step t-1 wrote it. X is read in
place if its rows are dense and need no padding, and is packed otherwise. The kernels of W_x and W_h may have different
sizes.

A first step without a state leaves the second term out, which takes time (bench/NOTES.md). So what is not finite in W_h
has no effect before the second step, while in plain PyTorch 0 · NaN is NaN (docs/pytorch.md).
"""

import math
from collections.abc import Sequence

from torch import Tensor

from ..core.arguments import Arguments, Saved
from ..core.layout import Layout, to_rows
from ..core.spec import Spec
from ..linear import linear_map
from .columns import pack, unpack
from .order import Order

PARTS, SHORTEST_PART = 8, 2
"""The input's convolution is done in at most so many parts of the sequence, of so many steps at least: a part's result
is an eighth of the gates of a long sequence. Chosen for memory. Not measured on a GPU."""


def part_length(steps: int) -> int:
    """The steps of one part."""
    return min(steps, max(SHORTEST_PART, math.ceil(steps / PARTS)))


def _split(arguments: Arguments, layout: Layout) -> tuple[Tensor, Tensor]:
    """W_x, its columns padded as the rows of an input are, and W_h."""
    w_x, w_h = arguments.input_weight, arguments.weight
    if w_x is None:
        w_x, w_h = w_h.split([layout.in_channels, layout.channels], 1)
    return pack(layout.input_width, (layout.input_slot, w_x)), w_h


def _pack_frames(frames: Tensor, layout: Layout) -> Tensor:
    """Input (N, B, *spatial, Cin) as dense rows (N·B, *spatial, input_width), not copied if it is that."""
    if layout.input_width == layout.in_channels:
        return frames.contiguous().flatten(0, 1)
    packed = layout.new_sequence(frames, layout.input_width, len(frames))
    packed[..., layout.input_slot] = frames
    packed[..., layout.in_channels :] = 0
    return packed.flatten(0, 1)


class Forward:
    """The pre-activations of each step, in two parts. `bias` is what the cell leaves to the convolution."""

    def __init__(
        self, arguments: Arguments, bias: Tensor | None, outputs: Sequence[Tensor], layout: Layout, spec: Spec
    ):
        self._layout, self._order, h0 = layout, Order(layout.steps, spec.reverse), arguments.h0
        w_x, w_h = _split(arguments, layout)
        self._input_map = linear_map(layout, w_x, bias, spec)
        self._hidden_map = linear_map(layout, w_h, None, spec)
        self._outputs = outputs
        self._h0 = None if h0 is None else to_rows(h0).contiguous()
        self._x_moves = arguments.input.stride(0) != 0
        self._frames = to_rows(arguments.input, channel_dim=2)[: None if self._x_moves else 1]
        self._length = part_length(layout.steps) if self._x_moves else layout.steps
        self._part = self._addends = None

    def _addend(self, t: int) -> Tensor:
        """W_x * X_t + bias (B, *spatial, 4C)."""
        first, last = part = self._order.part(t, self._length)
        if part != self._part:
            self._part, self._addends = part, None  # before the next part's
            frames = _pack_frames(self._frames[first:last], self._layout)
            self._addends = self._input_map.forward(frames).unflatten(0, (-1, self._layout.batch)).unbind()
        return self._addends[t - first if self._x_moves else 0]

    def preact(self, t: int, out: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Two parts of A_t (B, *spatial, 4C), the first in `out` where that needs no copy; the second may be None."""
        addend = self._addend(t)
        h = self._h0 if t == self._order.start else self._outputs[self._order.previous(t)]
        if h is None:  # zero, as its convolution; the cell may overwrite what it gets
            return addend if self._x_moves else addend.clone(), None
        return self._hidden_map.forward(h, out), addend

    def next_slot(self, t: int) -> Tensor | None:
        """The step after t reads h_t from the output."""
        return None


class Backward:
    """The gradients of input, hidden state and weights from those of the pre-activations.

    `input_by_step`: dX comes with each chunk, not with each `step`. `chunk_width`: channels of a row that are kept for
    each step of a chunk, dA and the packed X.
    """

    input_by_step = False

    def __init__(
        self, arguments: Arguments, bias: Tensor | None, saved: Saved, layout: Layout, needs: Arguments, spec: Spec
    ):
        self._arguments, self._layout, self._order = arguments, layout, Order(layout.steps, spec.reverse)
        input, h0 = arguments.input, arguments.h0
        self._frames, self._x_moves = to_rows(input, channel_dim=2), input.stride(0) != 0
        self._output = to_rows(saved.output, channel_dim=2).contiguous()  # copies only slices from vmap
        self._h0 = None if h0 is None else to_rows(h0).contiguous()
        w_x, w_h = _split(arguments, layout)
        self._input_map = linear_map(layout, w_x, bias, spec)
        self._hidden_map = linear_map(layout, w_h, None, spec)
        self._packed = None, None
        wants_input_weight = needs.weight if arguments.input_weight is None else needs.input_weight
        self._grad_weight = self._hidden_map.weight_grad() if needs.weight else None
        self._grad_input_weight = self._input_map.weight_grad() if wants_input_weight else None
        self._grad_input = layout.new_images(w_h, layout.in_channels, layout.steps) if needs.input else None
        self.chunk_width = 4 * layout.channels + layout.input_width

    def preact(self, first: int, last: int) -> Tensor:
        """The pre-activations (steps, B, *spatial, 4C) of steps first … last - 1, recomputed."""
        of_input = self._input_map.forward(self._rows(first, last)).unflatten(0, (-1, self._layout.batch))
        result = of_input if self._x_moves else of_input.repeat(last - first, *(1 for _ in of_input.shape[1:]))
        for part, h in self._hidden(first, last):
            result[part].add_(self._hidden_map.forward(h).view(result[part].shape))
        return result

    def _rows(self, first: int, last: int) -> Tensor:
        """X of steps first … last - 1 as dense rows (N·B, *spatial, input_width); of one step, if all are the same."""
        if self._packed[0] != (first, last):
            self._packed = None, None  # before the next chunk's
            frames = self._frames[first:last] if self._x_moves else self._frames[:1]
            self._packed = (first, last), _pack_frames(frames, self._layout)
        return self._packed[1]

    def _hidden(self, first: int, last: int) -> list[tuple[slice, Tensor]]:
        """H_{t-1} of steps first … last - 1 as dense rows (N·B, *spatial, C), each with the steps it belongs to.

        The state that came in lies elsewhere than the output; where none came, it is zero and left out.
        """
        parts, start = [], self._order.start
        if first <= start < last and self._h0 is not None:
            parts.append((slice(start - first, start - first + 1), self._h0))
        times, sources = self._order.carried(first, last)
        if times.start < times.stop:
            steps = slice(times.start - first, times.stop - first)
            parts.append((steps, self._output[sources].flatten(0, 1)))
        return parts

    def new_grad_h(self) -> Tensor:
        """Uninitialised dH (B, *spatial, C), in rows as wide as those of `step`."""
        return self._layout.new_step(self._output, self._layout.channels)

    def step(self, t: int, grad_preact: Tensor) -> Tensor:
        """dH_{t-1} (B, *spatial, C), from dA_t (B, *spatial, 4C)."""
        return self._hidden_map.input_grad(grad_preact)

    def chunk(self, first: int, last: int, grad_preact: Tensor) -> None:
        """dX of steps first … last - 1, and what they give to the weights; grad_preact (steps, B, *spatial, 4C)."""
        grad = grad_preact.flatten(0, 1)
        if self._grad_input is not None:
            grad_rows = self._input_map.input_grad(grad).unflatten(0, (last - first, -1))
            to_rows(self._grad_input, channel_dim=2)[first:last] = grad_rows[..., self._layout.input_slot]
        if self._grad_input_weight is not None:
            # One X has the sum of its gradients.
            of_input = grad if self._x_moves else grad_preact.sum(0)
            self._grad_input_weight.add(self._rows(first, last), of_input)
        if self._grad_weight is not None:
            for steps, h in self._hidden(first, last):
                self._grad_weight.add(h, grad_preact[steps].flatten(0, 1))

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of input, weight and input_weight that are wanted."""
        weight, input_weight = self._arguments.weight, self._arguments.input_weight
        of_hidden = None if self._grad_weight is None else self._grad_weight.result()
        of_input = None
        if self._grad_input_weight is not None:
            of_input = self._grad_input_weight.result()[:, self._layout.input_slot]
        if input_weight is None:
            grad_weight = None if of_hidden is None else unpack(weight, of_input, of_hidden)
            return self._grad_input, grad_weight, None
        grad_weight = None if of_hidden is None else unpack(weight, of_hidden)
        return self._grad_input, grad_weight, None if of_input is None else unpack(input_weight, of_input)
