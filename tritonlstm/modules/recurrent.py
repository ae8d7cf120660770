"""Base classes of the recurrent layers: a cell with its parameters, and a stack of cells with its state."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core import checks
from ..core.arguments import Arguments
from ..core.geometry import check_dimensions
from ..core.once import once
from ..core.spec import Spec
from ..core.state import NN_LSTM_ORDER, LSTMState, as_passed, check_layers, is_transposed
from ..core.tracing import check_untraced, refuse_script
from ..functional import State
from ..functional.sequence import layer
from ..functional.step import step


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

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: tuple[int, ...],
        peephole_shape: tuple[int, ...] | None,
        spec: Spec,
        *,
        input_kernel_size: tuple[int, ...] | None = None,
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
        self.spec = spec
        self.forget_bias = forget_bias

        def parameter(shape: tuple[int, ...] | None) -> nn.Parameter | None:
            return None if shape is None else nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        # Input and hidden state share one weight if their kernels have the same size, or if there is no input.
        if input_kernel_size == kernel_size or in_channels == 0:
            input_kernel_size = None
        if input_kernel_size is None:
            self.weight = parameter((4 * channels, in_channels + channels, *kernel_size))
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
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights from U(-√(3/fan_in), √(3/fan_in)), the forget gate's bias `forget_bias`, everything else zero."""
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

    def forward(
        self,
        input: Tensor | None,
        state: State | None = None,
        steps: int | None = None,
        shares_output: bool = False,
    ) -> LSTMState | tuple[Tensor, LSTMState]:
        """One time step: input (B, Cin, *spatial), state (h, c) of (B, C, *spatial), or all without B → (h, c).

        With `steps`, a sequence: input (T, B, Cin, *spatial) → (output, (h, c)). The stack calls its cells this way, so
        that hooks, parametrizations and sharding of a cell apply. With `shares_output`, the returned output is the
        tensor that the backward pass reads rather than a copy of it: the caller must not expose it.
        """
        check_untraced(input, state)
        if state is not None:
            checks.check_pair("state", state)
        h, c = (None, None) if state is None else state
        arguments = Arguments(input, h, c, self.weight, self.input_weight, self.bias, self.peephole)
        sizes = self.in_channels, self.hidden_channels
        if steps is None:
            return as_passed(step(arguments, self.spec, self.spatial_dims, sizes), state)
        checks.check_channels(arguments, *sizes)
        output, pair = layer(arguments, steps, self.spec, self.spatial_dims, shares_output=shares_output)
        return output, as_passed(pair, state)

    def __prepare_scriptable__(self):
        refuse_script()

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.hidden_channels}"]
        parts += [f"kernel_size={tuple(self.weight.shape[2:])}"] if self.spatial_dims else []
        if self.input_weight is not None:
            parts.append(f"input_kernel_size={tuple(self.input_weight.shape[2:])}")
        parts += [f"{name}=None" for name in ("bias", "peephole") if getattr(self, name) is None]
        parts += [f"peephole={tuple(self.peephole.shape)}"] if self.peephole is not None else []
        return ", ".join((*parts, self.spec.encode()))


class RecurrentStack(nn.Module):
    """A stack of cells. Each one reads the output sequence of the one below.

    A cell may be replaced by another module, such as an adapter or a wrapper around it. The stack calls it as
    `cell(input, state, steps)`. If it has no in_channels or hidden_channels of its own, the stack leaves the check of
    these sizes to it. Subclasses set `spatial_dims`, the names of the spatial dimensions.
    """

    spatial_dims: tuple[str, ...] = ()

    def __init__(self, cells: Sequence[RecurrentCell], batch_first: bool):
        super().__init__()
        self.batch_first = checks.check_bool("batch_first", batch_first)
        self.layers = nn.ModuleList(cells)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def reset_parameters(self) -> None:
        """Call `reset_parameters` of each cell, those inside of wrappers too."""
        for module in self.layers.modules():
            if isinstance(module, RecurrentCell):
                module.reset_parameters()

    def forward(
        self, input: Tensor | None, state: Sequence[State] | None = None, steps: int | None = None
    ) -> tuple[Tensor, tuple[LSTMState, ...]]:
        time_dim = 1 if self.batch_first else 0
        dims = ("Cin", *self.spatial_dims)
        dims = ("B", "T", *dims) if self.batch_first else ("T", "B", *dims)
        batched = self._check("input", input, dims, state, list(self.layers))
        if not batched:
            input, state = _with_batch(input, 1 - time_dim), state and [_state_with_batch(pair) for pair in state]
        if self.batch_first and input is not None:
            input = input.transpose(0, 1)
        output, states = self._run(input, state, steps)
        if self.batch_first:
            output = output.transpose(0, 1)
        if not batched:
            output, states = output.squeeze(1 - time_dim), tuple(_state_without_batch(pair) for pair in states)
        return output, states

    def step(self, frame: Tensor | None, state: Sequence[State] | None = None) -> tuple[Tensor, tuple[LSTMState, ...]]:
        """One time step, for streaming: frame (B, Cin, *spatial), or without B → (output (B, C, *spatial), state)."""
        cells = list(self.layers)
        self._check("frame", frame, ("B", "Cin", *self.spatial_dims), state, cells)
        output, states = frame, []
        for index, cell in enumerate(cells):
            try:
                states.append(cell(output, state and state[index]))
            except (TypeError, ValueError) as error:
                checks.name_layer(error, index)
                raise
            output = states[-1][0]
        return output, tuple(states)

    def __prepare_scriptable__(self):
        refuse_script()

    @staticmethod
    def _check(
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
        first, channels = cells[0], tuple([getattr(cell, "hidden_channels", None) for cell in cells])
        sizes = name, dims, getattr(first, "in_channels", None), channels
        try:
            tensors = (input,)
            if state is not None:
                check_layers(state, len(cells))
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
        self, input: Tensor | None, state: Sequence[State] | None, steps: int | None
    ) -> tuple[Tensor, tuple[LSTMState, ...]]:
        """The layers over (T, B, Cin, *spatial), one after another."""
        steps = checks.count_steps(steps, input)
        output, states = input, []
        for index, cell in enumerate(self.layers):
            # The output of an inner layer is not exposed, so it need not be copied.
            is_between = index + 1 < len(self.layers)
            options = {"shares_output": is_between} if isinstance(cell, RecurrentCell) else {}
            try:
                output, pair = cell(output, state and state[index], steps, **options)
            except (TypeError, ValueError) as error:
                checks.name_layer(error, index)
                raise
            states.append(pair)
        return output, tuple(states)


def _check_sizes(
    tensors: Sequence[Tensor | None],
    name: str,
    dims: tuple[str, ...],
    in_channels: int | None,
    channels: tuple[int | None, ...],
) -> bool:
    """`_check` of (input, h, c, h, c, …), for cells with these channels; None where a cell does not tell them.

    dims: of the input, named `name`, with a batch.
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
    shapes = [
        (*outer, pair[0].shape[len(outer)] if known is None and pair[0].dim() == len(state_dims) else known, *spatial)
        for pair, known in zip(pairs, channels)
    ]
    try:
        for index, (pair, shape) in enumerate(zip(pairs, shapes)):
            checks.check_state(f"state[{index}]", pair, shape, state_dims, like=like)
    except (TypeError, ValueError):
        if is_transposed(pairs, shapes):
            raise TypeError(f"state: expected one pair (h, c) for each of 2 layers, got {NN_LSTM_ORDER}") from None
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
