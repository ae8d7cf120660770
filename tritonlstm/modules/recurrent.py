"""Base classes of the recurrent layers: a cell with its parameters, and a stack of cells with its state."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core import checks
from ..core.arguments import Arguments
from ..core.spec import Spec
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
        checks.check_bool("bias", bias)
        checks.check_number("forget_bias", forget_bias)
        if dtype is not None and dtype not in checks.DTYPES:
            raise TypeError(f"dtype: expected one of {', '.join(map(str, checks.DTYPES))}, got {dtype!r}")
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
    ) -> State | tuple[Tensor, State]:
        """One time step: input (B, Cin, *spatial), state (h, c) of (B, C, *spatial), or all without B → (h, c).

        With `steps`, a sequence: input (T, B, Cin, *spatial) → (output, (h, c)). The stack calls its cells this way, so
        that hooks, parametrizations and sharding of a cell apply. With `shares_output`, the returned output is the
        tensor that the backward pass reads rather than a copy of it: the caller must not expose it.
        """
        checks.check_untraced(input, state)
        if state is not None:
            checks.check_pair("state", state)
        if steps is not None:
            arguments = self._arguments(input, state)
            return layer(arguments, steps, self.spec, self.spatial_dims, shares_output=shares_output)
        return step(self._arguments(input, state), self.spec, self.spatial_dims)

    def _arguments(self, input: Tensor | None, state: State | None) -> Arguments:
        h, c = (None, None) if state is None else state
        return Arguments(input, h, c, self.weight, self.input_weight, self.bias, self.peephole)

    def __prepare_scriptable__(self):
        checks.refuse_script()

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
        checks.check_bool("batch_first", batch_first)
        self.layers = nn.ModuleList(cells)
        self.batch_first = batch_first

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
    ) -> tuple[Tensor, tuple[State, ...]]:
        time_dim = 1 if self.batch_first else 0
        dims = ("Cin", *self.spatial_dims)
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

    def step(self, frame: Tensor | None, state: Sequence[State] | None = None) -> tuple[Tensor, tuple[State, ...]]:
        """One time step, for streaming: frame (B, Cin, *spatial), or without B → (output (B, C, *spatial), state)."""
        self._check("frame", frame, ("B", "Cin", *self.spatial_dims), state)
        states = []
        for index, cell in enumerate(self.layers):
            states.append(cell(frame, state and state[index]))
            frame = states[-1][0]
        return frame, tuple(states)

    def __prepare_scriptable__(self):
        checks.refuse_script()

    def _check(self, name: str, input: Tensor | None, dims: tuple[str, ...], state: Sequence[State] | None) -> bool:
        """Check the input and every state before the first layer runs. Returns whether they have a batch dimension.

        This reads no weight: it may be parametrized, or sharded and not gathered at this point. Each cell checks its
        input against its own weight.
        """
        checks.check_untraced(input, state)
        if state is not None and (not isinstance(state, (tuple, list)) or len(state) != len(self.layers)):
            raise TypeError(
                f"state: expected one pair (h, c) for each of {len(self.layers)} layers, got {checks.describe(state)}"
            )
        batched = _is_batched(name, input, dims, "state[0]", state and state[0])
        if not batched:
            dims = tuple(dim for dim in dims if dim != "B")
        first = self.layers[0]
        if input is not None and hasattr(first, "in_channels"):
            checks.check_input(name, input, dims, first.in_channels)
        if state is not None:
            sizes = state[0][0] if input is None else input
            spatial = tuple(sizes.shape[sizes.dim() - len(self.spatial_dims) :])
            batch = ()
            if batched:
                batch = (sizes.shape[0 if input is None else dims.index("B")],)
            state_dims = ("B", "C", *self.spatial_dims)[0 if batched else 1 :]
            for index, (cell, pair) in enumerate(zip(self.layers, state, strict=True)):
                checks.check_pair(f"state[{index}]", pair)
                known = hasattr(cell, "hidden_channels")
                channels = (cell.hidden_channels,) if known else pair[0].shape[len(batch) :][:1]
                shape = (*batch, *channels, *spatial)
                checks.check_state(f"state[{index}]", pair, shape, state_dims, like=sizes)
        return batched

    def _run(
        self, input: Tensor | None, state: Sequence[State] | None, steps: int | None
    ) -> tuple[Tensor, tuple[State, ...]]:
        """The layers over (T, B, Cin, *spatial), one after another."""
        steps = checks.count_steps(steps, input)
        output, states = input, []
        for index, cell in enumerate(self.layers):
            # The output of an inner layer is not exposed, so it need not be copied.
            is_between = index + 1 < len(self.layers)
            options = {"shares_output": is_between} if isinstance(cell, RecurrentCell) else {}
            output, pair = cell(output, state and state[index], steps, **options)
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
    return checks.is_batched(name, input, dims)


def _with_batch(tensor: Tensor | None, dim: int) -> Tensor | None:
    return None if tensor is None else tensor.unsqueeze(dim)


def _state_with_batch(state: State | None) -> State | None:
    return None if state is None else tuple(tensor.unsqueeze(0) for tensor in state)


def _state_without_batch(state: State) -> State:
    h, c = state
    return h.squeeze(0), c.squeeze(0)


def per_layer(name: str, value: object, num_layers: int) -> list:
    """Expand one value to a list of length `num_layers`; check the length of a list."""
    if not isinstance(value, list):
        return [value] * num_layers
    if len(value) != num_layers:
        raise ValueError(f"{name}: expected one value or {num_layers}, one for each layer, got {value}")
    return value


def count_layers(num_layers: int | None, **options: object) -> int:
    """`num_layers` or, if it is None, the common length of the lists among the options."""
    if num_layers is not None:
        checks.check_integer("num_layers", num_layers, minimum=1)
        return num_layers
    lengths = {name: len(value) for name, value in options.items() if isinstance(value, list)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"num_layers: expected lists of one length, got {lengths}")
    count = next(iter(lengths.values()), 1)
    checks.check_integer(f"num_layers (the length of {', '.join(lengths)})", count, minimum=1)
    return count
