"""The input's convolution for many steps at once, the hidden state's step by step.

    A_t = W_x * X_t + W_h * H_{t-1}

The first term goes to the gates as an addend. H_{t-1} is read where step t-1 wrote it, in the output, and X where it
lies if its rows are dense: nothing is copied, forward or backward. The kernels of W_x and W_h may have different sizes.
"""

import math
from functools import partial

from torch import Tensor

from .. import _maps
from .._layout import Layout, like_weight, to_rows
from .operands import Needs, Saved, Weights

PARTS, SHORTEST_PART = 8, 2
"""The input's convolution is done in at most so many parts of the sequence, of so many steps at least. A part's result
is kept at once: an eighth of the gates of a long sequence. With four steps at least, ten steps on CPU took 0.67 of the
eager ConvLSTM's memory with gates made again, with two 0.50. Not measured on a GPU."""


def part_length(steps: int) -> int:
    """The steps of one part."""
    return min(steps, max(SHORTEST_PART, math.ceil(steps / PARTS)))


def _split(weights: Weights, layout: Layout) -> tuple[Tensor, Tensor]:
    """W_x and W_h in the public layout."""
    if weights.input_weight is not None:
        return weights.input_weight, weights.weight
    return weights.weight[:, : layout.in_channels], weights.weight[:, layout.in_channels :]


class Forward:
    """The pre-activations of each step, in two parts."""

    def __init__(
        self,
        input: Tensor,
        h0: Tensor | None,
        output: Tensor,
        weights: Weights,
        bias: Tensor | None,
        layout: Layout,
        *,
        slots: int,
        skips_empty_state: bool,
    ):
        self._input, self._layout = input, layout
        self._outputs = output.unbind()
        self._h0 = None if h0 is None else layout.dense(to_rows(h0))
        w_x, w_h = _split(weights, layout)
        linear_map = partial(_maps.linear_map, layout, workspace=_maps.FORWARD_WORKSPACE)
        self._input_map = linear_map(layout.pack_columns(layout.input_width, w_x), bias)
        self._hidden_map = linear_map(layout.pack_columns(layout.channels, w_h))
        self._x_moves = input.stride(0) != 0
        self._length = part_length(layout.steps) if self._x_moves else 1
        self._addends = None

    def _addend(self, t: int) -> Tensor:
        """W_x * X_t + bias (B, *spatial, 4C)."""
        index = t % self._length if self._x_moves else 0
        if index == 0 and (self._x_moves or t == 0):
            frames = self._layout.pack_frames(to_rows(self._input[t : t + self._length], channel_dim=2))
            self._addends = None  # before the next are made
            addends = self._input_map(frames)
            self._addends = addends.unflatten(0, (-1, self._layout.batch)).unbind()
        return self._addends[index]

    def preact(self, t: int, out: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Two parts of A_t, each (B, *spatial, 4C), the first in `out` where that needs no copy."""
        addend = self._addend(t)
        h = self._h0 if t == 0 else self._outputs[t - 1]
        if h is None:  # no state: its convolution is zero
            return addend if self._x_moves else addend.clone(), None
        return self._hidden_map(h, out), addend

    def next_slot(self, t: int) -> None:
        """The step after reads h_t from the output."""
        return None


class Backward:
    """The gradients of input, hidden state and weights from those of the pre-activations.

    `input_by_step`: dX comes with each `step`; here it comes with each chunk. `chunk_width`: channels of a row that are
    kept for each step of a chunk: dA and, packed, X. `longest_chunk`: steps of a chunk, more of which would be no
    faster. `chunk_bytes`: what a chunk may always take. `first_alone`: no first step is treated apart.
    """

    input_by_step = False
    chunk_bytes = 0
    first_alone = False

    def __init__(
        self,
        saved: Saved,
        weights: Weights,
        bias: Tensor | None,
        layout: Layout,
        needs: Needs,
        *,
        recompute: bool,
        skips_empty_state: bool,
    ):
        self._input, self._layout = saved.input, layout
        self._output = layout.dense(to_rows(saved.output, channel_dim=2))  # a copy of vmap's slices alone
        self._h0 = None if saved.h0 is None else layout.dense(to_rows(saved.h0))
        self._public, self._needs = weights, needs
        self.chunk_width = 4 * layout.channels + layout.input_width
        self._x_moves = saved.input.stride(0) != 0
        self._packed = None, None
        w_x, w_h = _split(weights, layout)
        of_input, of_hidden = layout.pack_columns(layout.input_width, w_x), layout.pack_columns(layout.channels, w_h)
        workspace = _maps.RECOMPUTING_WORKSPACE if recompute else _maps.BACKWARD_WORKSPACE
        linear_map = partial(_maps.linear_map, layout, workspace=workspace)
        weight_grad = partial(_maps.weight_grad, layout, workspace=workspace)
        self._input_map = self._hidden_map = None
        if recompute:
            self._input_map = linear_map(of_input, bias)
            self._hidden_map = linear_map(of_hidden)
        self._adjoint = linear_map(_maps.adjoint_weight(layout, of_hidden, slice(None)))
        self._input_adjoint = None
        self.grad_input = None
        if needs.input:
            adjoint = _maps.adjoint_weight(layout, of_input, slice(0, layout.in_channels))
            self._input_adjoint = linear_map(adjoint)
            self.grad_input = layout.new_sequence(w_h, layout.in_channels)
        self._grad_h = layout.new_step(w_h, layout.channels)
        self._grad_weight = weight_grad(of_hidden)
        self._grad_input_weight = weight_grad(of_input)
        # One X has one gradient for all steps of a chunk.
        gains_by_steps = not needs.weight or not self._x_moves or self._grad_weight.gains_by_steps
        self.longest_chunk = layout.steps if gains_by_steps else 1

    def preact(self, first: int, last: int) -> Tensor:
        """The pre-activations (steps, B, *spatial, 4C) of steps first … last - 1, made again."""
        of_input = self._input_map(self._frames(first, last)).unflatten(0, (-1, self._layout.batch))
        result = of_input if self._x_moves else of_input.repeat(last - first, *(1 for _ in of_input.shape[1:]))
        for part, h in self._hidden(first, last):
            result[part].add_(self._hidden_map(h).view(result[part].shape))
        return result

    def _frames(self, first: int, last: int) -> Tensor:
        """X of steps first … last - 1 as dense rows (N·B, *spatial, input_width); of one step, if all are the same."""
        if self._packed[0] != (first, last):
            self._packed = None, None  # before the next are made
            frames = self._input[first:last] if self._x_moves else self._input[:1]
            self._packed = (first, last), self._layout.pack_frames(to_rows(frames, channel_dim=2))
        return self._packed[1]

    def _hidden(self, first: int, last: int) -> list[tuple[slice, Tensor]]:
        """H_{t-1} of steps first … last - 1 as dense rows (N·B, *spatial, C), each with the steps it belongs to.

        The state that came in lies elsewhere than the output; where none came, its step is left out.
        """
        parts = []
        if first == 0 and self._h0 is not None:
            parts.append((slice(0, 1), self._h0))
        start = max(first, 1)
        if start < last:
            parts.append((slice(start - first, last - first), self._output[start - 1 : last - 1].flatten(0, 1)))
        return parts

    def step(self, t: int, grad_preact: Tensor) -> Tensor:
        """dH_{t-1} (B, *spatial, C), from dA_t (B, *spatial, 4C)."""
        self._grad_h = self._adjoint(grad_preact, self._grad_h)
        return self._grad_h

    def chunk(self, first: int, last: int, grad_preact: Tensor) -> None:
        """dX of steps first … last - 1, and what they give to the weights; grad_preact (steps, B, *spatial, 4C)."""
        grad = grad_preact.flatten(0, 1)
        if self.grad_input is not None:
            out = self.grad_input[first:last]
            result = self._input_adjoint(grad, out.flatten(0, 1))
            if result.data_ptr() != out.data_ptr():
                out.copy_(result.view(out.shape))
        is_shared = self._public.input_weight is None
        if self._needs.weight if is_shared else self._needs.input_weight:
            # One X has the sum of its gradients.
            of_input = grad if self._x_moves else self._layout.dense(grad_preact.sum(0))
            self._grad_input_weight.add(self._frames(first, last), of_input)
        if self._needs.weight:
            for steps, h in self._hidden(first, last):
                self._grad_weight.add(h, grad_preact[steps].flatten(0, 1))

    def grad_weights(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of weight and input_weight, where they are wanted."""
        hidden, of_input = self._result(self._grad_weight), self._result(self._grad_input_weight)
        of_input = of_input[..., : self._layout.in_channels]
        weight, input_weight = self._public
        if input_weight is None:
            return like_weight(weight, of_input, hidden) if self._needs.weight else None, None
        return (
            like_weight(weight, hidden) if self._needs.weight else None,
            like_weight(input_weight, of_input) if self._needs.input_weight else None,
        )

    def _result(self, grad) -> Tensor:
        """The sum, or zeros where nothing was added."""
        result = grad.result()
        return self._layout.new_weight(self._public.weight, grad.shape).zero_() if result is None else result
