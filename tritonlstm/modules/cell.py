"""A recurrent cell: the parameters of one layer, and its forward pass over one step or a sequence."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..core import checks
from ..core.arguments import Arguments
from ..core.geometry import check_dimensions
from ..core.marks import Marks
from ..core.spec import Spec
from ..core.state import LSTMState, as_passed
from ..core.tracing import check_untraced, refuse_script
from ..functional import State
from ..functional.dropout import drop_out_mask
from ..functional.projection import projected_layer, projected_step
from ..functional.sequence import layer
from ..functional.step import step
from ..functional.stepping import layer_by_steps
from .lookup import parameters
from .regularisation import Norm, Regularisation, fold, is_folded, make_norm

_PARAMETERS = ("weight", "input_weight", "bias", "peephole", "projection")


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
        marks: Marks | None = None,
        reset_state: State | None = None,
    ) -> LSTMState | tuple[Tensor, LSTMState] | tuple[Tensor, LSTMState, Tensor]:
        """One time step: input (B, Cin, *spatial), state (h, c) of (B, C, *spatial), or all without B → (h, c).

        With `steps`, a sequence: input (T, B, Cin, *spatial) → (output, (h, c)). The stack calls its cells this way, so
        that hooks, parametrizations and sharding of a cell apply. With `shares_output`, the returned output is the
        tensor that the backward pass reads rather than a copy of it: the caller must not expose it. `returns` is that
        of `functional.conv_lstm`. `generator` draws the masks. `marks` (T, B) say which samples are reset, to the reset
        state or zero, and held.
        """
        check_untraced(input, state)
        if marks is not None or reset_state is not None:
            _check_marks(marks, reset_state, steps)
        if state is not None:
            checks.check_pair("state", state)
        h, c = (None, None) if state is None else state
        weight, input_weight, bias, peephole, projection = parameters(self, _PARAMETERS)
        arguments = Arguments(input, h, c, weight, input_weight, bias, peephole)
        sizes, norm = (self.in_channels, self.hidden_channels), self.norm
        if norm is not None and is_folded(norm):
            norm, arguments = None, fold(norm, arguments)
        if steps is None and projection is None and self._is_plain():
            return as_passed(step(arguments, self.spec, self.spatial_dims, sizes, norm), state)
        checks.check_channels(arguments, *sizes, None if projection is None else self.proj_size)
        if steps is None:
            return as_passed(self._regularised_step(arguments, norm, generator), state)
        if projection is not None and marks is not None:
            raise ValueError(
                f"proj_size: expected 0 beside lengths, reset and hold, got {self.proj_size}; a PackedSequence has"
                " lengths too"
            )
        marking = {} if marks is None else {"marks": marks, "reset_state": reset_state}
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
                **marking,
            )
        elif projection is None:
            output, pair, *cells = layer(
                arguments, steps, spec, self.spatial_dims, shares_output=shares_output, **marking
            )
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


def _check_marks(marks: object, reset_state: object, steps: int | None) -> None:
    if marks is None:
        raise ValueError(f"reset_state: expected None without marks, got {checks.describe(reset_state)}")
    if not isinstance(marks, Marks):
        raise TypeError(f"marks: expected tritonlstm.core.marks.Marks, got {checks.describe(marks)}")
    if steps is None:
        raise ValueError("marks: expected None for one step, got the marks of a sequence; pass steps")
