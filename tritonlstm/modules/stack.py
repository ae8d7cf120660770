"""A stack of recurrent cells, in one direction or in both, with its state."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..core import checks
from ..core.layout import from_rows, to_rows
from ..core.marks import Marks
from ..core.once import once
from ..core.spec import Options
from ..core.state import NN_LSTM_ORDER, LSTMState, as_passed, check_layers, is_transposed
from ..core.tracing import check_untraced, refuse_script
from ..functional import State
from ..functional.dropout import drop_out
from .cell import RecurrentCell
from .lookup import children
from .masks import Masks
from .traversal import Dense, Packed, sort, unsort


class RecurrentStack(nn.Module):
    """A stack of cells, in one direction or in both. Each layer reads the output sequence of the one below.

    A cell may be replaced by another module, such as an adapter or a wrapper around it. The stack calls it as
    `cell(input, state, steps)`. If it has no in_channels or hidden_channels of its own, the stack leaves the check of
    these sizes to it. Subclasses set `spatial_dims`, the names of the spatial dimensions.
    """

    spatial_dims: tuple[str, ...] = ()

    def __init__(
        self,
        cells: Sequence[RecurrentCell],
        reverse_cells: Sequence[RecurrentCell] | None,
        batch_first: bool,
        dropout: float,
    ):
        super().__init__()
        self.batch_first = checks.check_bool("batch_first", batch_first)
        self.dropout = checks.check_probability("dropout", dropout)
        self.reverse = cells[0].spec.reverse
        self.layers = nn.ModuleList(cells)
        self.reverse_layers = None if reverse_cells is None else nn.ModuleList(reverse_cells)
        if self.dropout and len(cells) == 1:
            warnings.warn(
                f"dropout: {dropout} has no effect on one layer, since it is between the layers", stacklevel=3
            )

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def bidirectional(self) -> bool:
        return self.reverse_layers is not None

    def reset_parameters(self) -> None:
        """Call `reset_parameters` of each cell, those inside of wrappers too."""
        for module in self.modules():
            if isinstance(module, RecurrentCell):
                module.reset_parameters()

    def forward(
        self,
        input: Tensor | PackedSequence | None,
        state: Sequence[State] | None = None,
        steps: int | None = None,
        # Not by keyword alone: PyTorch's older exporter passes defaults by position, and must reach `check_untraced`.
        returns: str = "sequence",
        return_cells: bool = False,
        generator: torch.Generator | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        reset_state: Sequence[State] | None = None,
        hold: Tensor | None = None,
    ) -> tuple:
        check_untraced(input, state)
        _check_what_returns(returns, return_cells, generator)
        masks = Masks(lengths, reset, reset_state, hold)
        if isinstance(input, PackedSequence):
            masks.refuse("beside a PackedSequence")
            return self._forward_packed(input, state, steps, returns, return_cells, generator)
        time_dim = 1 if self.batch_first else 0
        dims = ("Cin", *self.spatial_dims)
        dims = ("B", "T", *dims) if self.batch_first else ("T", "B", *dims)
        batched = self._check("input", input, dims, state, self._cells())
        if not batched:
            input, state = _with_batch(input, 1 - time_dim), state and [_state_with_batch(pair) for pair in state]
        if self.batch_first and input is not None:
            input = input.transpose(0, 1)
        steps = checks.count_steps(steps, input)
        traversal = Dense(steps, *self._marks(masks, input, state, steps, batched))
        output, states, *cells = self._run(input, state, traversal, returns, return_cells, generator)

        def in_order(sequence: Tensor) -> Tensor:
            """With the dimensions that the input has, in its order."""
            if returns == "last":
                return sequence if batched else sequence.squeeze(0)
            sequence = sequence.transpose(0, 1) if self.batch_first else sequence
            return sequence if batched else sequence.squeeze(1 - time_dim)

        if not batched:
            states = tuple(_state_without_batch(pair) for pair in states)
        return _map(in_order, output), states, *(_map(in_order, each) for each in cells)

    def _marks(
        self, masks: Masks, input: Tensor | None, state: Sequence[State] | None, steps: int, batched: bool
    ) -> tuple[Marks | None, Sequence[State] | None]:
        """The marks of a call, whose input is (T, B, …), and the state that a reset sets each cell to."""
        if not masks.given:
            return None, None
        if input is None and state is None:
            raise ValueError("state: expected (h, c), which alone tells the sizes without input, got None")
        for index, cell in enumerate(self._cells()):
            if not isinstance(cell, RecurrentCell):
                masks.refuse(f"beside a cell that is not tritonlstm's, as cell {index}, a {type(cell).__name__}")
        like = state[0][0].unsqueeze(0) if input is None else input
        marks = masks.marks(
            steps,
            like.shape[1],
            like.device,
            batched=batched,
            batch_first=self.batch_first,
            bidirectional=self.bidirectional,
            num_layers=self.num_layers,
        )
        if masks.reset_state is None:
            return marks, None
        channels = [_state_channels(cell) for cell in self.layers]
        masks.check_reset_state(channels, like[0], self.spatial_dims, batched=batched)
        return marks, masks.reset_state if batched else [_state_with_batch(pair) for pair in masks.reset_state]

    def _forward_packed(
        self,
        packed: PackedSequence,
        state: Sequence[State] | None,
        steps: int | None,
        returns: str,
        return_cells: bool,
        generator: torch.Generator | None,
    ) -> tuple:
        if steps is not None:
            raise ValueError(f"steps: expected None beside a PackedSequence, which has its lengths, got {steps!r}")
        for module in self.modules() if self.training else ():
            if isinstance(module, RecurrentCell) and any(module.regularisation[:2]):
                raise ValueError(
                    "input: expected sequences of one length in training with input_dropout or recurrent_dropout, whose"
                    " masks are for all steps of a sequence, got a PackedSequence; pad it"
                )
        data, batch_sizes = packed.data, packed.batch_sizes
        first = data[: int(batch_sizes[0])][None] if isinstance(data, Tensor) else data
        self._check("input", first, ("T", "B", "Cin", *self.spatial_dims), state, self._cells())
        output, states, *cells = self._run(
            data, sort(packed, state), Packed(batch_sizes), returns, return_cells, generator
        )

        def in_order(sequence: Tensor) -> Tensor | PackedSequence:
            if returns == "last":
                indices = packed.unsorted_indices
                return sequence if indices is None else sequence.index_select(0, indices)
            return PackedSequence(sequence, batch_sizes, packed.sorted_indices, packed.unsorted_indices)

        return _map(in_order, output), unsort(packed, states), *(_map(in_order, each) for each in cells)

    def step(
        self,
        frame: Tensor | None,
        state: Sequence[State] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, tuple[LSTMState, ...]]:
        """One time step, for streaming: frame (B, Cin, *spatial), or without B → (output (B, C, *spatial), state).

        A reversed stack takes the frames from the last to the first. One of both directions has no steps: it would have
        to know the frames to come.
        """
        if self.bidirectional:
            raise ValueError(
                "bidirectional: expected False for a step, since the second direction starts from the last frame; call"
                " the layer on the whole sequence"
            )
        cells = children(self, "layers")
        if len(cells) == 1 and type(cells[0]).forward is RecurrentCell.forward:
            return self._step_of_one(cells[0], frame, state, generator)
        self._check_step(frame, state, cells)
        output, states = frame, []
        for index, cell in enumerate(cells):
            if index and self.dropout and self.training:
                output = drop_out(output, self.dropout, generator)
            try:
                options = {} if generator is None or not isinstance(cell, RecurrentCell) else {"generator": generator}
                states.append(cell(output, state and state[index], **options))
            except (TypeError, ValueError) as error:
                checks.name_layer(error, index, f"layers[{index}]", index, "frame")
                raise
            output = states[-1][0]
        return output, tuple(states)

    def _step_of_one(
        self,
        cell: RecurrentCell,
        frame: Tensor | None,
        state: Sequence[State] | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, tuple[LSTMState]]:
        """The step of a stack of one layer, whose cell checks all but the state's form: once is enough."""
        try:
            pair = None
            if state is not None:
                check_layers(state, 1)
                (pair,) = state
                if pair is None:  # which the cell would take for no state
                    checks.check_pair("state[0]", pair)
            new = cell(frame, pair) if generator is None else cell(frame, pair, generator=generator)
        except (TypeError, ValueError) as error:
            try:
                self._check_step(frame, state, [cell])  # a wrong frame is to blame before a state beside it
            except (TypeError, ValueError, RuntimeError) as told:
                raise told from None
            checks.name_layer(error, 0, "layers[0]", 0, "frame")
            raise
        return new[0], (new,)

    def _check_step(self, frame: Tensor | None, state: Sequence[State] | None, cells: Sequence[nn.Module]) -> None:
        self._check("frame", frame, ("B", "Cin", *self.spatial_dims), state, cells)

    def __prepare_scriptable__(self):
        refuse_script()

    def _repr_of_options(self) -> str:
        """For `extra_repr`: what stacks have in common."""
        parts = [f"batch_first={self.batch_first}"]
        parts += [f"dropout={self.dropout}"] if self.dropout else []
        return ", ".join(parts + ["bidirectional=True"] * self.bidirectional)

    def _cells(self) -> list[nn.Module]:
        """The cells in the order of their states: layer by layer, in each the forward direction first."""
        if self.reverse_layers is None:
            return list(self.layers)
        return [cell for pair in zip(self.layers, self.reverse_layers) for cell in pair]

    def _check(
        self,
        name: str,
        input: Tensor | None,
        dims: tuple[str, ...],
        state: Sequence[State] | None,
        cells: Sequence[nn.Module],
    ) -> bool:
        """Check the input and every state before the first layer runs. Returns whether they have a batch dimension.

        This reads no weight: it may be parametrized, or sharded and not gathered at this point. Each cell checks its
        input against its own weight.
        """
        check_untraced(input, state)
        if not cells:
            raise ValueError("layers: expected at least one cell, got an empty ModuleList")
        first, channels = cells[0], tuple([_state_channels(cell) for cell in cells])
        what = "layers" if self.reverse_layers is None else "layers' directions"
        sizes = name, dims, getattr(first, "in_channels", None), channels, what
        try:
            tensors = (input,)
            if state is not None:
                check_layers(state, len(cells), what)
                for index, pair in enumerate(state):
                    checks.check_pair(f"state[{index}]", pair)
                    tensors += tuple(pair)
            return once(_check_sizes, tensors, *sizes)
        except (TypeError, ValueError):
            if input is not None:  # a wrong input is to blame before a state beside it
                _check_sizes((input,), *sizes)
                weight = next((each for each in first.parameters() if each.is_floating_point()), None)
                if weight is not None:
                    checks.check_dtype(name, input, weight)
                    checks.check_device(name, input, weight.device)
            raise

    def _run(
        self,
        input: Tensor | None,
        state: Sequence[State] | None,
        traversal: Dense | Packed,
        returns: str,
        return_cells: bool,
        generator: torch.Generator | None,
    ) -> tuple:
        """The layers one after another: output, states and, if wanted, c at every step.

        With returns="layers", output and c are tuples with one sequence for each layer.
        """
        directions = [self.layers] if self.reverse_layers is None else [self.layers, self.reverse_layers]
        sequence, outputs, states, every_c = input, [], [], []
        for index in range(self.num_layers):
            is_between = index + 1 < self.num_layers
            if index and self.dropout and self.training:
                sequence = drop_out(sequence, self.dropout, generator)
            options = {}
            # What is joined to another direction's, or is the next layer's input, need not be copied.
            options["shares_output"] = len(directions) > 1 or is_between
            if generator is not None:
                options["generator"] = generator
            if returns == "last" and not is_between:
                options["returns"] = "last"
            elif return_cells and (returns == "layers" or not is_between):
                options["returns"] = "cells"
            found = []
            for direction, cells in enumerate(directions):
                name = f"{('layers', 'reverse_layers')[direction]}[{index}]"
                pair = state and state[len(states)]
                try:
                    reverse = self.reverse or direction == 1
                    of_cell = {**options, **traversal.options(len(states))}
                    found.append(_run_cell(traversal, cells[index], name, sequence, pair, reverse, of_cell))
                except (TypeError, ValueError) as error:
                    checks.name_layer(error, index, name, len(states))
                    raise
                states.append(found[-1][1])
            channel_dim = 1 if options.get("returns") == "last" else traversal.channel_dim
            sequence = _join([output for output, *_ in found], channel_dim)
            outputs.append(sequence)
            if options.get("returns") == "cells":
                every_c.append(_join([cells for _, _, cells in found], channel_dim))
        if returns == "layers":
            return tuple(outputs), tuple(states), *([tuple(every_c)] if return_cells else [])
        return sequence, tuple(states), *every_c


def both_directions(
    make: Callable[[list[int], Options], list[RecurrentCell]],
    in_channels: int,
    channels: Sequence[int],
    bidirectional: bool,
    options: Options,
) -> tuple[list[RecurrentCell], list[RecurrentCell] | None]:
    """The cells of a stack's layers and, if bidirectional, those of the second direction.

    `make` makes the cells from each one's input channels and the options. `channels` are those of each layer's h.
    """
    if not checks.check_bool("bidirectional", bidirectional):
        return make([in_channels, *channels], options), None
    if options.get("reverse"):
        raise ValueError(f"reverse: expected False beside bidirectional=True, got {options['reverse']!r}")
    below = [in_channels, *(2 * each for each in channels)]
    return make(below, options), make(below, {**options, "reverse": True})


def _check_what_returns(returns: object, return_cells: object, generator: object) -> None:
    checks.check_choice("returns", returns, ("sequence", "last", "layers"))
    if checks.check_bool("return_cells", return_cells) and returns == "last":
        raise ValueError(
            'return_cells: expected False beside returns="last", whose c is in the state, got True; returns="sequence"'
            " gives c at every step"
        )
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {checks.show(generator)}")


def _run_cell(
    traversal: Dense | Packed,
    cell: nn.Module,
    name: str,
    sequence: Tensor | None,
    state: State | None,
    reverse: bool,
    options: dict[str, object],
) -> tuple:
    """A cell over sequences: output, last state and, where the options say so, c at every step."""
    if isinstance(cell, RecurrentCell):
        return traversal.run(cell, sequence, state, reverse, **options)
    returns = options.get("returns")
    if returns == "cells":
        raise TypeError(
            f"return_cells: expected cells of tritonlstm, which have c, got a {type(cell).__name__} as {name}"
        )
    output, pair = traversal.run(cell, sequence, state, reverse)
    return (pair[0].clone(), pair) if returns == "last" else (output, pair)


def _state_channels(cell: nn.Module) -> tuple[int, int] | None:
    """The channels of a cell's h and c, if it tells them."""
    channels = getattr(cell, "hidden_channels", None)
    return getattr(cell, "state_channels", None if channels is None else (channels, channels))


def _join(directions: Sequence[Tensor], channel_dim: int) -> Tensor:
    """The channels of both directions side by side, stored channels last."""
    if len(directions) == 1:
        return directions[0]
    return from_rows(torch.cat([to_rows(each, channel_dim) for each in directions], -1), channel_dim)


def _map(function: Callable[[Tensor], object], value: Tensor | tuple[Tensor, ...]) -> object:
    """The function of a tensor, or of each of several."""
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _check_sizes(
    tensors: Sequence[Tensor | None],
    name: str,
    dims: tuple[str, ...],
    in_channels: int | None,
    channels: tuple[tuple[int, int] | None, ...],
    what: str,
) -> bool:
    """`_check` of (input, h, c, h, c, …), for cells with these channels of h and c; None where a cell tells none.

    dims: of the input, named `name`, with a batch. what: whose the states are.
    """
    input, *states = tensors
    spatial_dims = tuple(dim for dim in dims if dim not in ("T", "B", "Cin"))
    state_dims = ("B", "C", *spatial_dims)
    if input is None and not states:
        return True
    like, like_dims = (states[0], state_dims) if input is None else (input, dims)
    is_batched = checks.is_batched("state[0][0]" if input is None else name, like, like_dims)
    if not is_batched:
        dims, state_dims, like_dims = (
            tuple(dim for dim in each if dim != "B") for each in (dims, state_dims, like_dims)
        )
    if input is not None and in_channels is not None:
        checks.check_input(name, input, dims, in_channels)
    outer = (like.shape[like_dims.index("B")],) if is_batched else ()
    spatial = tuple(like.shape[like.dim() - len(spatial_dims) :])
    pairs = list(zip(states[::2], states[1::2]))
    shapes = []
    for pair, known in zip(pairs, channels):
        if known is None:
            known = (pair[0].shape[len(outer)] if pair[0].dim() == len(state_dims) else None,) * 2
        shapes.append(tuple((*outer, each, *spatial) for each in known))
    try:
        for index, (pair, (of_h, of_c)) in enumerate(zip(pairs, shapes)):
            checks.check_state(f"state[{index}]", pair, of_h, state_dims, like=like, c_shape=of_c)
    except (TypeError, ValueError):
        if is_transposed(pairs, shapes):
            raise TypeError(f"state: expected one pair (h, c) for each of 2 {what}, got {NN_LSTM_ORDER}") from None
        raise
    return is_batched


def _with_batch(tensor: Tensor | None, dim: int) -> Tensor | None:
    return None if tensor is None else tensor.unsqueeze(dim)


def _state_with_batch(state: State | None) -> State | None:
    if state is None:
        return None
    h, c = state
    return as_passed(LSTMState(h.unsqueeze(0), c.unsqueeze(0)), state)


def _state_without_batch(state: State) -> State:
    h, c = state
    return as_passed(LSTMState(h.squeeze(0), c.squeeze(0)), state)
