"""One convolution a step, over rows in which hidden state and input lie side by side.

    inputs[t] = [ H_{t-1} | X_t | 0 ]        (B, *spatial, width)

The gate kernel of the step before has already written the hidden part, so nothing is concatenated. The public weight
has the input channels first; its columns are put in this order in the one copy that makes it dense.

Where there is no state, the first step may be one of the input alone (`skips_empty_state`), forward and backward.
"""

import torch
from torch import Tensor

from .. import _convolution
from .._convolution import Map
from .._dtypes import cell_dtype
from .._layout import Layout, like_weight, to_rows
from .operands import Needs, Saved, Weights


def _pack_weight(weight: Tensor, layout: Layout) -> Tensor:
    return layout.pack_columns(layout.width, weight[:, layout.in_channels :], weight[:, : layout.in_channels])


def _skips(skips_empty_state: bool, layout: Layout) -> bool:
    """Whether the hidden part of the first step is left out: not where rows are padded to what a product likes."""
    return skips_empty_state and layout.multiple == 1


class Forward:
    """The pre-activations of each step.

    In training every step has a slot of `inputs`, which is kept. In inference so many `slots` go round as a ring, for
    which X is copied a ring's length at a time; where X is the same at every step, one slot is enough.
    """

    def __init__(
        self,
        input: Tensor | None,
        h0: Tensor | None,
        output: Tensor,
        weights: Weights,
        bias: Tensor | None,
        layout: Layout,
        *,
        save: bool,
        slots: int,
        skips_empty_state: bool,
    ):
        weight, self._layout = weights.weight, layout
        self._map = Map(layout, _pack_weight(weight, layout), bias)
        self._frames = None if input is None else to_rows(input, channel_dim=2)
        x_moves = input is not None and input.stride(0) != 0
        slots = min(layout.steps, slots) if x_moves else 1
        self.inputs = layout.new_sequence(weight, layout.width, layout.steps if save else slots)
        self._slots = self.inputs.unbind()
        self._hidden_slots = self.inputs[..., layout.hidden_slot].unbind()
        self._input_slots = self.inputs[..., layout.input_slot]
        self._refills = x_moves and not save
        self.inputs[0, ..., layout.hidden_slot] = 0 if h0 is None else to_rows(h0)
        self.inputs[..., layout.input_slot.stop :] = 0
        self._copy_input(0)
        self._input_map = None
        if input is not None and h0 is None and _skips(skips_empty_state, layout):
            of_input = layout.pack_columns(layout.input_width, weight[:, : layout.in_channels])
            self._input_map = Map(layout, of_input, bias)

    def _copy_input(self, first: int) -> None:
        if self._frames is not None:
            frames = self._frames[first : first + len(self._slots)]
            self._input_slots[: frames.shape[0]].copy_(frames)

    def preact(self, t: int, out: Tensor) -> tuple[Tensor, None]:
        """A_t (B, *spatial, 4C), in `out` where that needs no copy; nothing is left for the gates to add."""
        if t == 0 and self._input_map is not None:
            input_map, self._input_map = self._input_map, None
            return input_map(self._layout.pack_frames(self._frames[:1])), None
        slot = t % len(self._slots)
        if self._refills and slot == 0 and t > 0:
            self._copy_input(t)
        return self._map(self._slots[slot], out), None

    def next_slot(self, t: int) -> Tensor:
        """Where the step after reads h_t (B, *spatial, C), in wider rows."""
        return self._hidden_slots[(t + 1) % len(self._slots)]


class Backward:
    """The gradients of input, hidden state and weight from those of the pre-activations.

    `input_by_step`: dX comes with each `step`, so the first step must be done for it too. `chunk_width`: channels of a
    row that are kept for each step of a chunk.
    """

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
        self._inputs, self._public, self._layout, self._needs = saved.inputs, weights.weight, layout, needs
        self._skips_first_hidden = saved.h0 is None and layout.in_channels > 0 and _skips(skips_empty_state, layout)
        self._weight = _pack_weight(weights.weight, layout)
        self._map = Map(layout, self._weight, bias) if recompute else None
        # Where X needs no gradient, only the hidden columns of W are transposed.
        adjoint = _convolution.adjoint_weight(layout, self._weight, slice(None) if needs.input else layout.hidden_slot)
        self._adjoint = Map(layout, adjoint)
        self._input_adjoint = None
        if needs.input and not needs.h0 and _skips(skips_empty_state, layout):
            self._input_adjoint = Map(layout, adjoint[layout.input_slot])  # dX of the first step alone
        self._grad_row = layout.new_step(adjoint, adjoint.shape[0])  # [dH_{t-1} | dX_t | 0]
        self.grad_input = layout.new_sequence(adjoint, layout.in_channels) if needs.input else None
        self._grad_frames = self.grad_input.unbind() if needs.input else None
        self.input_by_step = needs.input
        self.chunk_width = 4 * layout.channels
        self._grad_weight = None

    def preact(self, first: int, last: int) -> Tensor:
        """The pre-activations (steps, B, *spatial, 4C) of steps first … last - 1, made again."""
        return self._map(self._inputs[first:last].flatten(0, 1)).unflatten(0, (last - first, -1))

    def step(self, t: int, grad_preact: Tensor) -> Tensor | None:
        """dH_{t-1} (B, *spatial, C), in wider rows, from dA_t (B, *spatial, 4C); None if it is not wanted."""
        if t == 0 and self._input_adjoint is not None:
            self._grad_frames[0].copy_(self._input_adjoint(grad_preact))
            return None
        self._grad_row = self._adjoint(grad_preact, self._grad_row)
        if self._grad_frames is not None:
            self._grad_frames[t].copy_(self._grad_row[..., self._layout.input_slot])
        return self._grad_row[..., self._layout.hidden_slot]

    def chunk(self, first: int, last: int, grad_preact: Tensor) -> None:
        """Add to the weight's gradient what steps first … last - 1 give; grad_preact (steps, B, *spatial, 4C)."""
        if not self._needs.weight:
            return
        skipped = 1 if first == 0 and self._skips_first_hidden else 0
        if last - first > skipped:
            rows, grad = self._inputs[first + skipped : last].flatten(0, 1), grad_preact[skipped:].flatten(0, 1)
            self._add(_convolution.weight_grad(rows, grad, self._weight))
        if skipped:
            self._add_first_input(grad_preact[0])

    def _add(self, part: Tensor) -> None:
        if self._grad_weight is not None:
            self._grad_weight += part
            return
        if self._map is None:
            self._weight = part  # only its shape is needed from here on: the gradient takes its place
        self._grad_weight = part.to(cell_dtype(part.dtype))

    def _add_first_input(self, grad_preact: Tensor) -> None:
        """What the first step gives, which has an input alone; grad_preact (B, *spatial, 4C)."""
        layout = self._layout
        if self._grad_weight is None:
            self._grad_weight = torch.zeros_like(self._weight, dtype=cell_dtype(self._weight.dtype))
        frame = layout.pack_frames(self._inputs[:1, ..., layout.input_slot])
        of_input = layout.dense(self._weight[..., layout.width - layout.input_width :])  # its shape is all that matters
        part = _convolution.weight_grad(frame, grad_preact, of_input)
        self._grad_weight[..., layout.input_slot] += part[..., : layout.in_channels]

    def grad_weights(self) -> tuple[Tensor | None, None]:
        """The gradients of weight and input_weight, where they are wanted."""
        if not self._needs.weight:
            return None, None
        if self._grad_weight is None:
            return torch.zeros_like(self._public), None
        slots = self._layout.input_slot, self._layout.hidden_slot
        return like_weight(self._public, *(self._grad_weight[..., slot] for slot in slots)), None
