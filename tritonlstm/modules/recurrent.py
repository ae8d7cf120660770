"""Base classes of the recurrent layers: a cell with its parameters, and a stack of cells with its state."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..core import checks
from ..core.arguments import Arguments
from ..core.geometry import check_dimensions
from ..core.layout import from_rows, to_rows
from ..core.once import once
from ..core.spec import Options, Spec
from ..core.state import NN_LSTM_ORDER, LSTMState, as_passed, check_layers, is_transposed
from ..core.tracing import check_untraced, refuse_script
from ..functional import State
from ..functional.dropout import drop_out, drop_out_mask
from ..functional.projection import projected_layer, projected_step
from ..functional.sequence import layer
from ..functional.step import step
from ..functional.stepping import layer_by_steps
from .regularisation import Norm, Regularisation, fold, is_folded, make_norm
from .traversal import Dense, Packed, sort, unsort


class RecurrentCell(nn.Module):
    """The parameters of one layer, and its forward pass over one step or a sequence.

    `in_channels` (Cin) and `hidden_channels` (C) are the sizes it was made with.

    Subclasses set `spatial_dims`, the names of the spatial dimensions.
    """

    spatial_dims: tuple[str, ...] = ()

    weight: nn.Parameter
    input_weight: nn.Parameter | None
    bias: nn.Parameter | None
    peephole: nn.Parameter | None
    projection: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: tuple[int, ...],
        peephole_shape: tuple[int, ...] | None,
        spec: Spec,
        *,
        input_kernel_size: tuple[int, ...] | None = None,
        proj_size: int = 0,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        norm: Norm | None = None,
        bias: bool,
        forget_bias: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ):
        super().__init__()
        bias = checks.check_bool("bias", bias)
        check_dimensions(spec, self.spatial_dims)
        if dtype is not None:
            checks.check_float_dtype("dtype", dtype)
        largest = torch.finfo(dtype or torch.get_default_dtype()).max
        forget_bias = checks.check_number("forget_bias", forget_bias, largest)
        self.in_channels = in_channels
        self.hidden_channels = channels
        self.proj_size = proj_size
        self.spec = spec
        self.forget_bias = forget_bias
        self.regularisation = Regularisation.checked(input_dropout, recurrent_dropout, zoneout)
        if norm is not None and spec.recomputes:
            raise ValueError(
                'memory: expected "save" beside a norm, which would see every step twice, got "recompute"; use'
                " torch.utils.checkpoint with a norm that has no running statistics"
            )
        if proj_size and (norm is not None or recurrent_dropout or zoneout):
            raise ValueError(
                "proj_size: expected 0 beside norm, recurrent_dropout or zoneout, which run step by step,"
                f" got {proj_size}"
            )

        def parameter(shape: tuple[int, ...] | None) -> nn.Parameter | None:
            return None if shape is None else nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        # Input and hidden state share one weight if their kernels have the same size, or if there is no input.
        if input_kernel_size == kernel_size or in_channels == 0:
            input_kernel_size = None
        if input_kernel_size is None:
            self.weight = parameter((4 * channels, in_channels + (proj_size or channels), *kernel_size))
            self.register_parameter("input_weight", None)
        else:
            if spec.schedule == "concat":
                raise ValueError(
                    'schedule: "concat" needs input_kernel_size and kernel_size to be the same,'
                    f" got {input_kernel_size} and {kernel_size}"
                )
            self.weight = parameter((4 * channels, channels, *kernel_size))
            self.input_weight = parameter((4 * channels, in_channels, *input_kernel_size))
        self.register_parameter("bias", parameter((4 * channels,) if bias else None))
        self.register_parameter("peephole", parameter(peephole_shape))
        self.register_parameter("projection", parameter((proj_size, channels) if proj_size else None))
        self.norm = make_norm(norm, 4 * channels, device, dtype)
        self.reset_parameters()

    @property
    def state_channels(self) -> tuple[int, int]:
        """The channels of h and of c."""
        return self.proj_size or self.hidden_channels, self.hidden_channels

    def reset_parameters(self) -> None:
        """Weights from U(-√(3/fan_in), √(3/fan_in)), the forget gate's bias `forget_bias`, bias and peephole zero."""
        weights = [weight for weight in (self.weight, self.input_weight) if weight is not None]
        bound = math.sqrt(3 / sum(math.prod(weight.shape[1:]) for weight in weights))
        for weight in weights:
            nn.init.uniform_(weight, -bound, bound)
        if self.bias is not None:
            with torch.no_grad():  # not through a view: slicing a sharded bias copies it
                i, f, g, o = torch.zeros_like(self.bias).chunk(4)
                self.bias.copy_(torch.cat([i, f + self.forget_bias, g, o]))
        if self.peephole is not None:
            nn.init.zeros_(self.peephole)
        if self.projection is not None:
            bound = math.sqrt(3 / self.hidden_channels)
            nn.init.uniform_(self.projection, -bound, bound)
        for module in () if self.norm is None else self.norm.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def forward(
        self,
        input: Tensor | None,
        state: State | None = None,
        steps: int | None = None,
        shares_output: bool = False,
        returns: str = "sequence",
        generator: torch.Generator | None = None,
    ) -> LSTMState | tuple[Tensor, LSTMState] | tuple[Tensor, LSTMState, Tensor]:
        """One time step: input (B, Cin, *spatial), state (h, c) of (B, C, *spatial), or all without B → (h, c).

        With `steps`, a sequence: input (T, B, Cin, *spatial) → (output, (h, c)). The stack calls its cells this way, so
        that hooks, parametrizations and sharding of a cell apply. With `shares_output`, the returned output is the
        tensor that the backward pass reads rather than a copy of it: the caller must not expose it. `returns` is that
        of `functional.conv_lstm`. `generator` draws the masks.
        """
        check_untraced(input, state)
        if state is not None:
            checks.check_pair("state", state)
        h, c = (None, None) if state is None else state
        arguments = Arguments(input, h, c, self.weight, self.input_weight, self.bias, self.peephole)
        sizes, projection = (self.in_channels, self.hidden_channels), self.projection
        norm = self.norm
        if norm is not None and is_folded(norm):
            norm, arguments = None, fold(norm, arguments)
        if steps is None and projection is None and self._is_plain():
            return as_passed(step(arguments, self.spec, self.spatial_dims, sizes, norm), state)
        checks.check_channels(arguments, *sizes, None if projection is None else self.proj_size)
        if steps is None:
            return as_passed(self._regularised_step(arguments, norm, generator), state)
        spec = self.spec if returns == "sequence" else replace(self.spec, returns=returns)
        arguments = self._with_input_dropped_out(arguments, steps, generator)
        rest, training = self.regularisation, self.training
        if norm is not None or rest.zoneout is not None or (rest.recurrent_dropout and training):
            output, pair, *cells = layer_by_steps(
                arguments,
                steps,
                spec,
                self.spatial_dims,
                norm=norm,
                recurrent_dropout=rest.recurrent_dropout,
                zoneout=rest.zoneout,
                training=training,
                generator=generator,
            )
        elif projection is None:
            output, pair, *cells = layer(arguments, steps, spec, self.spatial_dims, shares_output=shares_output)
        else:
            output, pair, *cells = projected_layer(arguments, projection, steps, spec)
        return output, as_passed(pair, state), *cells

    def _is_plain(self) -> bool:
        """Whether a step is no more than its equations."""
        return not any(self.regularisation)

    def _with_input_dropped_out(self, arguments: Arguments, steps: int, generator: torch.Generator | None) -> Arguments:
        """In training, the input with one mask for all steps."""
        p, input = self.regularisation.input_dropout, arguments.input
        if not p or not self.training or input is None:
            return arguments
        checks.check_input("input", input, ("T", "B", "Cin", *self.spatial_dims), self.in_channels)
        checks.count_steps(steps, input)
        return arguments._replace(input=input * drop_out_mask(input[0], p, generator))

    def _regularised_step(
        self, arguments: Arguments, norm: nn.Module | None, generator: torch.Generator | None
    ) -> LSTMState:
        for name in ("input_dropout", "recurrent_dropout"):
            if self.training and getattr(self.regularisation, name):
                raise ValueError(
                    f"{name}: expected 0, or eval(), for a step, since one mask is for all steps of a sequence; call"
                    " the layer on the whole sequence"
                )
        if self.projection is not None:
            return projected_step(arguments, self.projection, self.spec)
        new = step(arguments, self.spec, self.spatial_dims, None, norm)
        if self.regularisation.zoneout is None:
            return new
        if arguments.h0 is None:
            old = LSTMState(*map(torch.zeros_like, new))
        else:
            old = LSTMState(arguments.h0.to(new.h.dtype), arguments.c0)
        return self.regularisation.zoneout.apply(new, old, self.training, generator)

    def __prepare_scriptable__(self):
        refuse_script()

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.hidden_channels}"]
        parts += [f"kernel_size={tuple(self.weight.shape[2:])}"] if self.spatial_dims else []
        if self.input_weight is not None:
            parts.append(f"input_kernel_size={tuple(self.input_weight.shape[2:])}")
        parts += [f"{name}=None" for name in ("bias", "peephole") if getattr(self, name) is None]
        parts += [f"peephole={tuple(self.peephole.shape)}"] if self.peephole is not None else []
        parts += [f"proj_size={self.proj_size}"] if self.proj_size else []
        parts += [str(self.regularisation)] if any(self.regularisation) else []
        return ", ".join((*parts, self.spec.encode()))


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
    ) -> tuple:
        check_untraced(input, state)
        _check_what_returns(returns, return_cells, generator)
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, state, steps, returns, return_cells, generator)
        time_dim = 1 if self.batch_first else 0
        dims = ("Cin", *self.spatial_dims)
        dims = ("B", "T", *dims) if self.batch_first else ("T", "B", *dims)
        batched = self._check("input", input, dims, state, self._cells())
        if not batched:
            input, state = _with_batch(input, 1 - time_dim), state and [_state_with_batch(pair) for pair in state]
        if self.batch_first and input is not None:
            input = input.transpose(0, 1)
        traversal = Dense(checks.count_steps(steps, input))
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
        cells = list(self.layers)
        self._check("frame", frame, ("B", "Cin", *self.spatial_dims), state, cells)
        output, states = frame, []
        for index, cell in enumerate(cells):
            if index and self.dropout and self.training:
                output = drop_out(output, self.dropout, generator)
            try:
                options = {} if generator is None or not isinstance(cell, RecurrentCell) else {"generator": generator}
                states.append(cell(output, state and state[index], **options))
            except (TypeError, ValueError) as error:
                checks.name_layer(error, index, f"layers[{index}]", index)
                raise
            output = states[-1][0]
        return output, tuple(states)

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
                    found.append(_run_cell(traversal, cells[index], name, sequence, pair, reverse, options))
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


def _without_batch(dims: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dim for dim in dims if dim != "B")


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
