"""Base classes of the recurrent layers: a cell with its parameters, and a stack of cells with its state."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import functional
from ..core import checks
from ..core.arguments import Arguments
from ..core.spec import Spec
from ..core.state import NN_LSTM_ORDER, LSTMState, as_passed, check_layers, is_transposed
from ..functional import State


class RecurrentCell(nn.Module):
    """The parameters of one layer, and its forward pass over one step or a sequence.

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
        if dtype is not None:
            checks.check_float_dtype("dtype", dtype)
        largest = torch.finfo(dtype or torch.get_default_dtype()).max
        forget_bias = checks.check_number("forget_bias", forget_bias, largest)
        self._in_channels = in_channels
        self._channels = channels
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
        *,
        shares_output: bool = False,
    ) -> LSTMState | tuple[Tensor, LSTMState]:
        """One time step: input (B, Cin, *spatial), state (h, c) of (B, C, *spatial), or all without B → (h, c).

        With `steps`, a sequence: input (T, B, Cin, *spatial) → (output, (h, c)). The stack calls its cells this way, so
        that hooks, parametrizations and sharding of a cell apply. With `shares_output`, the returned output is the
        tensor that the backward pass reads rather than a copy of it: the caller must not expose it.
        """
        if state is not None:
            checks.check_pair("state", state)
        if steps is not None:
            return self._run(input, state, steps, shares_output)
        dims = ("B", "Cin", *self.spatial_dims)
        batched = _is_batched("input", input, dims, "state", state)
        if not batched:
            input, state = _with_batch(input, 0), _state_with_batch(state)
        if input is not None:
            checks.check_input("input", input, dims, self._in_channels)
            input = input.unsqueeze(0)
        _, state = self._run(input, state, steps=1, shares_output=True)
        return state if batched else _state_without_batch(state)

    def _run(
        self, input: Tensor | None, state: State | None, steps: int, shares_output: bool
    ) -> tuple[Tensor, LSTMState]:
        """The cell over a whole sequence (T, B, Cin, *spatial)."""
        h, c = (None, None) if state is None else state
        arguments = Arguments(input, h, c, self.weight, self.input_weight, self.bias, self.peephole)
        checks.check_channels(arguments, self._in_channels, self._channels)
        output, pair = functional.layer(arguments, steps, self.spec, self.spatial_dims, shares_output=shares_output)
        return output, as_passed(pair, state)

    def extra_repr(self) -> str:
        parts = [f"{self._in_channels}, {self._channels}"]
        parts += [f"kernel_size={tuple(self.weight.shape[2:])}"] if self.spatial_dims else []
        if self.input_weight is not None:
            parts.append(f"input_kernel_size={tuple(self.input_weight.shape[2:])}")
        parts += [f"{name}=None" for name in ("bias", "peephole") if getattr(self, name) is None]
        parts += [f"peephole={tuple(self.peephole.shape)}"] if self.peephole is not None else []
        return ", ".join((*parts, self.spec.encode()))


class RecurrentStack(nn.Module):
    """A stack of cells. Each one reads the output sequence of the one below."""

    def __init__(self, cells: Sequence[RecurrentCell], batch_first: bool):
        super().__init__()
        self.batch_first = checks.check_bool("batch_first", batch_first)
        self.layers = nn.ModuleList(cells)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def reset_parameters(self) -> None:
        """Call `reset_parameters` of each cell."""
        for cell in self.layers:
            cell.reset_parameters()

    def forward(
        self, input: Tensor | None, state: Sequence[State] | None = None, *, steps: int | None = None
    ) -> tuple[Tensor, tuple[LSTMState, ...]]:
        time_dim = 1 if self.batch_first else 0
        dims = ("Cin", *self._spatial_dims)
        dims = ("B", "T", *dims) if self.batch_first else ("T", "B", *dims)
        batched = self._check("input", input, dims, state)
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
        batched = self._check("frame", frame, ("B", "Cin", *self._spatial_dims), state)
        if not batched:
            frame, state = _with_batch(frame, 0), state and [_state_with_batch(pair) for pair in state]
        output, states = self._run(None if frame is None else frame.unsqueeze(0), state, 1)
        output = output.squeeze(0)
        if not batched:
            output, states = output.squeeze(0), tuple(_state_without_batch(pair) for pair in states)
        return output, states

    @property
    def _spatial_dims(self) -> tuple[str, ...]:
        if not self.layers:
            raise ValueError("layers: expected at least one cell, got an empty ModuleList")
        return self.layers[0].spatial_dims

    def _check(self, name: str, input: Tensor | None, dims: tuple[str, ...], state: Sequence[State] | None) -> bool:
        """Check the input and every state before the first layer runs. Returns whether they have a batch dimension.

        This reads no weight: it may be parametrized, or sharded and not gathered at this point. Each cell checks its
        input against its own weight.
        """
        if input is None and state is not None:
            check_layers(state, len(self.layers))
        batched = _is_batched(name, input, dims, "state[0]", None if state is None or input is not None else state[0])
        if not batched:
            dims = tuple(dim for dim in dims if dim != "B")
        if input is not None:
            checks.check_input(name, input, dims, self.layers[0]._in_channels)
        if state is not None:
            if input is not None:
                check_layers(state, len(self.layers))
            sizes = state[0][0] if input is None else input
            spatial = tuple(sizes.shape[sizes.dim() - len(self._spatial_dims) :])
            batch = ()
            if batched:
                batch = (sizes.shape[0 if input is None else dims.index("B")],)
            state_dims = ("B", "C", *self._spatial_dims)[0 if batched else 1 :]
            shapes = [(*batch, cell._channels, *spatial) for cell in self.layers]
            try:
                for index, (pair, shape) in enumerate(zip(state, shapes, strict=True)):
                    checks.check_state(f"state[{index}]", pair, shape, state_dims, like=sizes)
            except (TypeError, ValueError):
                self._check_which_is_wrong(name, input, state, shapes)
                raise
        return batched

    def _check_which_is_wrong(
        self, name: str, input: Tensor | None, state: Sequence[State], shapes: list[tuple[int, ...]]
    ) -> None:
        """Given that input and state do not fit each other, raise if it is not a single tensor of the state's fault."""
        weight = next((each for each in self.layers[0].parameters() if each.is_floating_point()), None)
        if input is not None and weight is not None:
            checks.check_dtype(name, input, weight)
            checks.check_device(name, input, weight.device)
        if is_transposed(state, shapes):
            raise TypeError(f"state: expected one pair (h, c) for each of 2 layers, got {NN_LSTM_ORDER}")

    def _run(
        self, input: Tensor | None, state: Sequence[State] | None, steps: int | None
    ) -> tuple[Tensor, tuple[LSTMState, ...]]:
        """The layers over (T, B, Cin, *spatial), one after another."""
        steps = checks.count_steps(steps, input)
        output, states = input, []
        for index, cell in enumerate(self.layers):
            # The output of an inner layer is not exposed, so it need not be copied.
            is_between = index + 1 < len(self.layers)
            try:
                output, pair = cell(output, state and state[index], steps, shares_output=is_between)
            except (TypeError, ValueError) as error:
                checks.name_layer(error, index)
                raise
            states.append(pair)
        return output, tuple(states)


def _is_batched(name: str, input: Tensor | None, dims: tuple[str, ...], state_name: str, state: State | None) -> bool:
    """Whether the input, or without one the state, has all of `dims` rather than all but "B"."""
    if input is None:
        if state is None:
            return True
        checks.check_pair(state_name, state)
        name, input = f"{state_name}[0]", state[0]
        dims = ("B", "C", *(dim for dim in dims if dim not in ("T", "B", "Cin")))
    checks.check_tensor(name, input)
    if input.dim() not in (len(dims), len(dims) - 1):
        unbatched = ", ".join(dim for dim in dims if dim != "B")
        raise ValueError(
            f"{name}: expected dimensions ({', '.join(dims)}) or, without a batch, ({unbatched}),"
            f" got shape {tuple(input.shape)}"
        )
    return input.dim() == len(dims)


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
