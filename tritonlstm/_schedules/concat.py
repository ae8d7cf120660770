"""One convolution a step, over rows in which hidden state and input lie side by side.

    inputs[t] = [ H_{t-1} | X_t | 0 ]        (B, *spatial, width)

The gate kernel of the step before has already written the hidden part, so nothing is concatenated. The public weight
has the input channels first; its columns are put in this order in the one copy that makes it channels last.
"""

import torch
from torch import Tensor

from .. import _convolution
from .._dtypes import cell_dtype
from .._layout import Layout, like_weight, pack_columns, to_rows
from .operands import Needs, Saved, Weights


def _pack_weight(weight: Tensor, layout: Layout) -> Tensor:
    return pack_columns(layout.width, weight[:, layout.in_channels :], weight[:, : layout.in_channels])


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
    ):
        self._input, self._bias, self._layout = input, bias, layout
        self._weight = _pack_weight(weights.weight, layout)
        x_moves = input is not None and input.stride(0) != 0
        slots = min(layout.steps, slots) if x_moves else 1
        self._refills = x_moves and not save
        self.inputs = self._weight.new_empty(layout.sequence_shape(layout.width, layout.steps if save else slots))
        self.inputs[0, ..., layout.hidden_slot] = 0 if h0 is None else to_rows(h0)
        self.inputs[..., layout.input_slot.stop :] = 0
        if input is not None:
            self._copy_input(0)

    def _copy_input(self, first: int) -> None:
        frames = to_rows(self._input[first : first + len(self.inputs)], channel_dim=2)
        self.inputs[: len(frames), ..., self._layout.input_slot] = frames

    def preact(self, t: int, out: Tensor) -> tuple[Tensor, None]:
        """A_t (B, *spatial, 4C), in `out` where that needs no copy; nothing is left for the gates to add."""
        slot = t % len(self.inputs)
        if self._refills and slot == 0 and t > 0:
            self._copy_input(t)
        return _convolution.apply(self.inputs[slot], self._weight, self._bias, out=out), None

    def next_slot(self, t: int) -> Tensor:
        """Where the step after reads h_t (B, *spatial, C), in wider rows."""
        return self.inputs[(t + 1) % len(self.inputs), ..., self._layout.hidden_slot]


class Backward:
    """The gradients of input, hidden state and weight from those of the pre-activations.

    `input_by_step`: dX comes with each `step`, so the first step must be done for it too. `chunk_width`: channels of a
    row that are kept for each step of a chunk.
    """

    def __init__(
        self, saved: Saved, weights: Weights, bias: Tensor | None, layout: Layout, needs: Needs, *, recompute: bool
    ):
        self._inputs, self._public, self._bias, self._layout = saved.inputs, weights.weight, bias, layout
        self._needs, self._recompute = needs, recompute
        self._weight = _pack_weight(weights.weight, layout)
        # Where X needs no gradient, only the hidden columns of W are transposed.
        self._adjoint = _convolution.adjoint_weight(self._weight, slice(None) if needs.input else layout.hidden_slot)
        self._grad_row = self._weight.new_empty(layout.step_shape(self._adjoint.shape[0]))  # [dH_{t-1} | dX_t | 0]
        self.grad_input = self._weight.new_empty(layout.sequence_shape(layout.in_channels)) if needs.input else None
        self.input_by_step = needs.input
        self.chunk_width = 4 * layout.channels
        self._grad_weight = None

    def preact(self, first: int, last: int) -> Tensor:
        """The pre-activations (steps, B, *spatial, 4C) of steps first … last - 1, made again."""
        rows = self._inputs[first:last].flatten(0, 1)
        return _convolution.apply(rows, self._weight, self._bias).unflatten(0, (last - first, -1))

    def step(self, t: int, grad_preact: Tensor) -> Tensor:
        """dH_{t-1} (B, *spatial, C), in wider rows, from dA_t (B, *spatial, 4C)."""
        self._grad_row = _convolution.apply(grad_preact, self._adjoint, out=self._grad_row)
        if self.grad_input is not None:
            self.grad_input[t] = self._grad_row[..., self._layout.input_slot]
        return self._grad_row[..., self._layout.hidden_slot]

    def chunk(self, first: int, last: int, grad_preact: Tensor) -> None:
        """Add to the weight's gradient what steps first … last - 1 give; grad_preact (steps, B, *spatial, 4C)."""
        if not self._needs.weight:
            return
        rows, grad = self._inputs[first:last].flatten(0, 1), grad_preact.flatten(0, 1)
        part = _convolution.weight_grad(rows, grad, self._weight)
        if self._grad_weight is not None:
            self._grad_weight += part
            return
        if not self._recompute:
            self._weight = part  # only its shape is needed from here on: the gradient takes its place
        self._grad_weight = part.to(cell_dtype(part.dtype))

    def grad_weights(self) -> tuple[Tensor | None, None]:
        """The gradients of weight and input_weight, where they are wanted."""
        if not self._needs.weight:
            return None, None
        if self._grad_weight is None:
            return torch.zeros_like(self._public), None
        slots = self._layout.input_slot, self._layout.hidden_slot
        return like_weight(self._public, *(self._grad_weight[..., slot] for slot in slots)), None
