"""One convolution a step, over rows in which hidden state and input lie side by side.

    rows = [ H_{t-1} | X_t | 0 ]        (B, *spatial, width)

Forward, the gate kernel of the step before has already written the hidden part, so nothing is concatenated. The rows
are not kept: the backward pass packs those of a chunk of steps from output and input. The public weight has the input
channels first; its columns are put in this order in the one copy that makes it dense.

Where there is no state, the first step may be one of the input alone (`skips_empty_state`), forward and backward.
"""

from functools import partial

from torch import Tensor

from .. import _maps
from .._layout import Layout, like_weight, to_rows
from .operands import Needs, Saved, Weights

PREPARED_FRACTION = 2
"""The part of what map and adjoint prepare that a chunk may take where they are prepared for each. With chunks of one
step that took 12% of training in two cases of 5×5 kernels (two threads of an EPYC); with this fraction the one that
holds most stayed below 0.55 of the eager ConvLSTM's memory."""


def _pack_weight(weight: Tensor, layout: Layout) -> Tensor:
    return layout.pack_columns(layout.width, weight[:, layout.in_channels :], weight[:, : layout.in_channels])


def _pack_input_weight(weight: Tensor, layout: Layout) -> Tensor:
    """Its columns of the input alone."""
    return layout.pack_columns(layout.input_width, weight[:, : layout.in_channels])


def _fill_padding(rows: Tensor, layout: Layout) -> None:
    if layout.input_slot.stop < layout.width:
        rows[..., layout.input_slot.stop :] = 0


def _shape_alone(like: Tensor, *shape: int) -> Tensor:
    """A tensor without memory, for what only shapes matter to."""
    return like.new_empty(()).expand(shape)


def _may_skip(skips_empty_state: bool, layout: Layout) -> bool:
    """Whether the hidden part of a first step may be left out.

    Not where rows are padded to what a product likes, nor where nothing else is in them.
    """
    return skips_empty_state and layout.multiple == 1 and layout.in_channels > 0


def _input_alone_pays(layout: Layout, weight: Tensor) -> bool:
    """Whether a first step's map of the input alone is faster than the whole one; weight (4C, Cin + C, *kernel)."""
    packed = _shape_alone(weight, len(weight), *weight.shape[2:], layout.width)
    return _maps.map_pays_in_part(layout, packed, layout.in_channels, layout.width)


class Forward:
    """The pre-activations of each step.

    So many `slots` for a step's rows go round as a ring, and X is copied a ring's length at a time; where X is the same
    at every step, one slot is enough.
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
        slots: int,
        skips_empty_state: bool,
    ):
        weight, self._layout = weights.weight, layout
        linear_map = partial(_maps.linear_map, layout, workspace=_maps.FORWARD_WORKSPACE)
        self._map = self._input_map = None
        if h0 is None and _may_skip(skips_empty_state, layout) and _input_alone_pays(layout, weight):
            self._input_map = linear_map(_pack_input_weight(weight, layout), bias, once=True)
        if layout.steps > 1 or self._input_map is None:
            self._map = linear_map(_pack_weight(weight, layout), bias)
        self._frames = None if input is None else to_rows(input, channel_dim=2)
        self._refills = input is not None and input.stride(0) != 0
        rows = layout.new_sequence(weight, layout.width, min(layout.steps, slots) if self._refills else 1)
        hidden, self._input_slots = rows[..., layout.hidden_slot], rows[..., layout.input_slot]
        self._slots, self._hidden_slots = rows.unbind(), hidden.unbind()
        if self._input_map is None:  # else the first step does not read it
            hidden[0] = 0 if h0 is None else to_rows(h0)
        _fill_padding(rows, layout)
        is_read = self._input_map is None or not self._refills or len(self._slots) > 1
        if is_read:
            self._copy_input(0)

    def _copy_input(self, first: int) -> None:
        if self._frames is not None:
            frames = self._frames[first : first + len(self._slots)]
            self._input_slots[: frames.shape[0]].copy_(frames)

    def preact(self, t: int, out: Tensor | None) -> tuple[Tensor, None]:
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
    row that are kept for each step of a chunk: dA and, packed, [H_{t-1} | X_t | 0], where that is wanted.
    `longest_chunk`: steps of a chunk, more of which would gain nothing. `chunk_bytes`: what a chunk may always take.
    `first_alone`: whether the first step must be a chunk by itself, since its pre-activations are made of less.

    With `recompute`, maps that prepare more than a copy of a weight do so for each chunk, and none is kept beside
    another or beside what the weight's gradient works in: they may take more memory than all else. A chunk may take a
    part of that, so that they are not prepared so often.
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
        self._saved, self._public, self._layout, self._needs = saved, weights.weight, layout, needs
        self._output = to_rows(saved.output, channel_dim=2)
        self._frames = None if saved.input is None else to_rows(saved.input, channel_dim=2)
        gates, _, *kernel = weights.weight.shape
        rows_of_adjoint = layout.width if needs.input else layout.channels
        packed = _shape_alone(weights.weight, gates, *kernel, layout.width)
        adjoint = _shape_alone(weights.weight, rows_of_adjoint, *kernel, gates)
        may_skip = _may_skip(skips_empty_state, layout)
        self.first_alone = recompute and saved.h0 is None and may_skip and _input_alone_pays(layout, weights.weight)
        workspace, self.chunk_bytes = _maps.BACKWARD_WORKSPACE, 0
        self._linear_map = partial(_maps.linear_map, layout, workspace=workspace)
        if recompute:
            prepared = sum(_maps.prepared_bytes(layout, weight, workspace=workspace) for weight in (packed, adjoint))
            workspace = min(workspace, max(_maps.RECOMPUTING_WORKSPACE, prepared))  # the gradient's, where they lay
            self.chunk_bytes = prepared // PREPARED_FRACTION  # none where nothing is prepared
        self._prepares_by_chunk = self.chunk_bytes > 0
        self._bias, self._map, self._adjoint = bias, None, None
        # Where X needs no gradient, only the hidden columns of W are transposed.
        self._adjoint_columns = slice(None) if needs.input else layout.hidden_slot
        of_all = layout.in_channels, layout.width
        self._skips_first_adjoint = (
            needs.input and not needs.h0 and may_skip and _maps.map_pays_in_part(layout, adjoint, *of_all)
        )
        self._skips_first_hidden = (
            saved.h0 is None and may_skip and _maps.weight_grad_pays_in_part(layout, packed, *of_all)
        )
        weight_grad = partial(_maps.weight_grad, layout, workspace=workspace)
        self._grad_weight = weight_grad(packed)
        of_input = packed[..., layout.width - layout.input_width :]
        self._grad_first_weight = weight_grad(of_input, once=True)  # of a first step that has an input alone
        self._grad_row = layout.new_step(weights.weight, rows_of_adjoint)  # [dH_{t-1} | dX_t | 0]
        self.grad_input = layout.new_sequence(weights.weight, layout.in_channels) if needs.input else None
        self._grad_frames = self.grad_input.unbind() if needs.input else None
        self.input_by_step = needs.input
        gains_by_steps = not needs.weight or self._grad_weight.gains_by_steps or self.chunk_bytes > 0
        self.longest_chunk = layout.steps if gains_by_steps else 1
        self.chunk_width = 4 * layout.channels + (layout.width if needs.weight or recompute else 0)

    def _new_adjoint(self, columns: slice, *, once: bool = False):
        # No name for the packed weight, which would keep it while the map prepares its own.
        adjoint = partial(_maps.adjoint_weight, self._layout, channels=columns)
        return self._linear_map(adjoint(_pack_weight(self._public, self._layout)), once=once)

    def _pack(self, first: int, last: int) -> Tensor:
        """[H_{t-1} | X_t | 0] of steps first … last - 1, dense (steps, B, *spatial, width)."""
        layout, h0 = self._layout, self._saved.h0
        rows = layout.new_sequence(self._output, layout.width, last - first)
        hidden = rows[..., layout.hidden_slot]
        if first == 0:
            hidden[0] = 0 if h0 is None else to_rows(h0)
        after = max(first, 1)  # the steps whose hidden state is in the output
        if after < last:
            hidden[after - first :] = self._output[after - 1 : last - 1]
        if self._frames is not None:
            rows[..., layout.input_slot] = self._frames[first:last]
        _fill_padding(rows, layout)
        return rows

    def preact(self, first: int, last: int) -> Tensor:
        """The pre-activations (steps, B, *spatial, 4C) of steps first … last - 1, made again."""
        if first == 0 and self.first_alone:
            of_input = self._linear_map(_pack_input_weight(self._public, self._layout), self._bias, once=True)
            return of_input(self._layout.pack_frames(self._frames[:1])).unflatten(0, (1, -1))
        linear_map = self._map
        if linear_map is None:
            linear_map = self._linear_map(_pack_weight(self._public, self._layout), self._bias)
            self._map = None if self._prepares_by_chunk else linear_map
        return linear_map(self._pack(first, last).flatten(0, 1)).unflatten(0, (last - first, -1))

    def step(self, t: int, grad_preact: Tensor) -> Tensor | None:
        """dH_{t-1} (B, *spatial, C), in wider rows, from dA_t (B, *spatial, 4C); None if it is not wanted."""
        if t == 0 and self._skips_first_adjoint:
            self._adjoint = None
            of_first = self._new_adjoint(self._layout.input_slot, once=True)
            self._grad_frames[0].copy_(of_first(grad_preact))
            return None
        if self._adjoint is None:
            self._adjoint = self._new_adjoint(self._adjoint_columns)
        self._grad_row = self._adjoint(grad_preact, self._grad_row)
        if self._grad_frames is not None:
            self._grad_frames[t].copy_(self._grad_row[..., self._layout.input_slot])
        return self._grad_row[..., self._layout.hidden_slot]

    def chunk(self, first: int, last: int, grad_preact: Tensor) -> None:
        """Add to the weight's gradient what steps first … last - 1 give; grad_preact (steps, B, *spatial, 4C)."""
        if self._prepares_by_chunk:
            self._adjoint = None  # what it prepared may take more memory than all else here
        if not self._needs.weight:
            return
        skipped = 1 if first == 0 and self._skips_first_hidden else 0
        if last - first > skipped:
            # Packed again where there was a `preact`, lest it be kept all the while.
            self._grad_weight.add(self._pack(first + skipped, last).flatten(0, 1), grad_preact[skipped:].flatten(0, 1))
        if skipped:
            self._grad_first_weight.add(self._layout.pack_frames(self._frames[:1]), grad_preact[0])

    def grad_weights(self) -> tuple[Tensor | None, None]:
        """The gradients of weight and input_weight, where they are wanted."""
        if not self._needs.weight:
            return None, None
        layout, public = self._layout, self._public
        slots = layout.input_slot, layout.hidden_slot
        total, of_first = self._grad_weight.result(), self._grad_first_weight.result()
        if total is None:
            total = layout.new_weight(public, self._grad_weight.shape).zero_()
        if of_first is not None:
            total[..., layout.input_slot] += of_first[..., : layout.in_channels]
        return like_weight(public, *(total[..., slot] for slot in slots)), None
