"""One layer over a sequence, as a function of its parameters."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops, reference
from ..core import checks
from ..core.arguments import Arguments, Results
from ..core.backend import resolve
from ..core.compiler import constant_when_compiled
from ..core.devices import architecture
from ..core.dtypes import cell_dtype, compute_dtype, without_autocast
from ..core.geometry import check_dimensions, check_margins
from ..core.marks import Marks, make_marks
from ..core.spec import Options, Spec, check_keywords
from ..core.state import LSTMState, as_passed
from ..core.tracing import check_untraced
from ..launch import pick_schedule
from .gates import State
from .marks import with_marks

if TYPE_CHECKING:
    from typing_extensions import Unpack


def conv_lstm(
    input: Tensor | None,
    state: State | None,
    weight: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    *,
    input_weight: Tensor | None = None,
    input_preact: Tensor | None = None,
    steps: int | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: State | None = None,
    hold: Tensor | None = None,
    returns: str = "sequence",
    **options: Unpack[Options],
) -> tuple[Tensor, LSTMState] | tuple[Tensor, LSTMState, Tensor]:
    """A ConvLSTM layer over a sequence of images (Shi et al. 2015, arXiv 1506.04214, equation 3).

    The weight's dimensions tell signals, images and volumes apart: in place of H and W, signals have L, and volumes D,
    H and W.

    Args:
        input: (T, B, Cin, H, W) with any strides; None if Cin = 0, with `steps`.
        state: (h, c), each (B, C, H, W); zeros if None.
        weight: (4C, Cin + C, kh, kw), kh and kw odd. Gates in the order i, f, g, o; input channels first, then hidden.
        bias: (4C).
        peephole: (3, C, 1, 1) or (3, C, H, W), the weights of c in the gates i, f, o.
        input_weight: (4C, Cin, kh', kw'), for an input kernel of a different size; `weight` is then (4C, C, kh, kw) and
            applies to the hidden state alone.
        input_preact: (T, B, 4C, H, W), in place of input: its part of the pre-activations, which any module may
            compute: a convolution with stride, without padding, depthwise or with an even kernel, a normalisation,
            attention. It is in the dtype of an input; `weight` is then (4C, C, kh, kw) and applies to the hidden state
            alone. Channels last is used where it lies. The bias is added once, here or there.
        steps: T, if input is None.
        lengths: (B), each sample's number of steps, a tensor of int64 or int32 or a list of ints. Past it a sample's
            state stays as it is, so that the one returned is its own last, and its output is zero. What the input holds
            there has no effect, but must be finite where the weight learns.
        reset: (T, B), torch.bool: before the steps where it is True, a sample's state becomes the reset state. With
            reverse=True, before it in the order of the steps.
        reset_state: (h, c), each (B, C, H, W) or (1, C, H, W), which may learn; zeros if None.
        hold: (T, B), torch.bool: at the steps where it is True, a sample's state stays as it is, after a reset, and its
            output is its hidden state. As past a length, the input must be finite there where the weight learns.
        returns: "sequence"; "last", for the output (B, C, H, W) of the last step alone: inference allocates no
            sequence, and training keeps what the backward pass reads; or "cells", for c at every step behind the state.
        options: how the layer computes: the fields of `tritonlstm.Spec`, by keyword.

    Returns:
        output (T, B, C, H, W) and the last state, an `LSTMState` (h, c), stored channels last. Under autocast, h has
        autocast's dtype. They may be modified in place before the backward pass. The input and the state passed in are
        saved without a copy: if they are modified, the backward pass raises PyTorch's usual error. With returns="cells"
        also c at every step, (T, B, C, H, W), in c's dtype.

    Raises:
        TypeError, ValueError: for an invalid argument, which the message names, before anything is computed. Lengths on
            a GPU, or under torch.compile or vmap, have no values to check: they count as if cut to 0 … T.
    """
    check_keywords("conv_lstm", options, conv_lstm)
    arguments = _arguments(input, state, weight, input_weight, bias, peephole, input_preact)
    is_precomputed = input_preact is not None
    dims, spec = checks.spatial_dims(weight), Spec(**options, returns=returns)
    marks = _marks(arguments, steps, dims, is_precomputed, lengths, reset, hold)
    output, pair, *cells = layer(
        arguments, steps, spec, dims, marks=marks, reset_state=reset_state, is_precomputed=is_precomputed
    )
    return output, as_passed(pair, state), *cells


def peephole_lstm(
    input: Tensor | None,
    state: State | None,
    weight: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    *,
    projection: Tensor | None = None,
    input_preact: Tensor | None = None,
    steps: int | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: State | None = None,
    hold: Tensor | None = None,
    returns: str = "sequence",
    **options: Unpack[Options],
) -> tuple[Tensor, LSTMState] | tuple[Tensor, LSTMState, Tensor]:
    """A peephole LSTM layer over a sequence of vectors (the FC-LSTM of Shi et al. 2015, equation 2).

    As `conv_lstm` without spatial dimensions: input (T, B, Cin), h and c (B, C), weight (4C, Cin + C), peephole (3, C);
    input_preact (T, B, 4C) in place of input, beside a weight (4C, C); reset_state (B, C) or (1, C) twice.
    With a projection (P, C), nn.LSTM's weight_hr (Sak et al. 2014, arXiv 1402.1128), h is projection · (o ∘ ψ(c)):
    h (B, P), output (T, B, P), weight (4C, Cin + P). A layer with a
    projection takes no input_preact, lengths, reset, reset_state or hold.
    """
    check_keywords("peephole_lstm", options, peephole_lstm)
    arguments = _arguments(input, state, weight, None, bias, peephole, input_preact)
    spec, is_precomputed = Spec(**options, returns=returns), input_preact is not None
    if projection is None:
        marks = _marks(arguments, steps, (), is_precomputed, lengths, reset, hold)
        output, pair, *cells = layer(
            arguments, steps, spec, (), marks=marks, reset_state=reset_state, is_precomputed=is_precomputed
        )
    else:
        from .projection import projected_layer  # which composes `layer`

        masks = {"input_preact": input_preact, "lengths": lengths, "reset": reset, "hold": hold}
        for name, value in {**masks, "reset_state": reset_state}.items():
            if value is not None:
                raise ValueError(f"{name}: expected None beside a projection, got {checks.describe(value)}")
        output, pair, *cells = projected_layer(arguments, projection, steps, spec)
    return output, as_passed(pair, state), *cells


def _marks(
    arguments: Arguments,
    steps: int | None,
    spatial_dims: Sequence[str],
    is_precomputed: bool,
    lengths: object,
    reset: object,
    hold: object,
) -> Marks | None:
    if lengths is None and reset is None and hold is None:
        return None
    given = arguments
    checks.check_parameters(given.weight, given.input_weight, given.bias, given.peephole, len(spatial_dims))
    steps, batch, _ = _sizes(arguments, spatial_dims, steps, is_precomputed)
    return make_marks(lengths, reset, hold, steps, batch, arguments.weight.device)


def _arguments(input, state, weight, input_weight, bias, peephole, input_preact) -> Arguments:
    if input_preact is not None:
        for name, other in (("input", input), ("input_weight", input_weight)):
            if other is not None:
                raise ValueError(f"{name}: expected None beside input_preact, got {checks.describe(other)}")
        input = input_preact
    check_untraced(input, weight)
    if state is not None:
        checks.check_pair("state", state)
    h, c = (None, None) if state is None else state
    return Arguments(input, h, c, weight, input_weight, bias, peephole)


def layer(
    arguments: Arguments,
    steps: int | None,
    spec: Spec,
    spatial_dims: Sequence[str],
    *,
    marks: Marks | None = None,
    reset_state: State | None = None,
    shares_output: bool = False,
    is_precomputed: bool = False,
) -> tuple[Tensor, LSTMState] | tuple[Tensor, LSTMState, Tensor]:
    """A layer with any number of spatial dimensions: the basis of `conv_lstm`, `peephole_lstm` and the modules.

    The output, the last state and, with spec.returns "cells", c at every step.
    With marks (T, B), samples may be held, and reset to the reset state (h, c), each (B or 1, C, *spatial), or zero.
    With `shares_output`, the returned output is the tensor that the backward pass reads rather than a copy of it: it
    must not be modified before. With `is_precomputed`, arguments.input is the input's part of the pre-activations.
    """
    weight, input_weight, peephole = arguments.weight, arguments.input_weight, arguments.peephole
    checks.check_parameters(weight, input_weight, arguments.bias, peephole, len(spatial_dims))
    if spec.schedule == "concat" and input_weight is not None:
        raise ValueError(
            'schedule: "concat" needs one kernel for input and hidden state, got input_weight'
            f' {tuple(input_weight.shape)}; "auto" works here'
        )
    check_dimensions(spec, spatial_dims)
    steps, batch, spatial = _sizes(arguments, spatial_dims, steps, is_precomputed)
    checks.check_peephole_size(peephole, spatial)
    check_margins(spec, (weight, input_weight), spatial, spatial_dims)
    shape = (batch, arguments.channels, *spatial)
    if arguments.h0 is not None:
        checks.check_state("state", (arguments.h0, arguments.c0), shape, ("B", "C", *spatial_dims), like=weight)

    arguments = with_marks(arguments, marks, reset_state, (steps, *shape), spatial_dims)

    # As autocast casts a convolution's arguments. c is not cast: it stays in float32.
    dtype = compute_dtype(weight)
    cast = {name: getattr(arguments, name) for name in ("input", "h0", "weight", "input_weight", "reset_h")}
    cast = {name: None if tensor is None else tensor.to(dtype) for name, tensor in cast.items()}
    arguments = arguments._replace(**cast)
    spec = replace(spec, backend=resolve(spec.backend, arguments.weight))
    if spec.backend == "torch":
        checks.check_pixels(arguments.input, spatial, "input_preact" if is_precomputed else "input")
        with without_autocast(weight):
            output, h, c = _by_reference(arguments, steps, spec, shape)
        return _with_cells(output, h, c, spec, Tensor.clone)
    if spec.backend == "triton":
        checks.check_peephole_offsets(peephole)
    spec = replace(spec, schedule=_schedule(spec.schedule, arguments))
    output, h, c = ops.sequence(arguments, steps, spec, shares_output=shares_output)
    return _with_cells(output, h, c, spec, ops.copy)


def _with_cells(
    output: Tensor, h: Tensor, c: Tensor, spec: Spec, copy: Callable[[Tensor], Tensor]
) -> tuple[Tensor, LSTMState] | tuple[Tensor, LSTMState, Tensor]:
    """What `layer` returns. With spec.returns "cells", c is that of every step."""
    if spec.returns != "cells":
        return output, LSTMState(h, c)
    return output, LSTMState(h, copy(c[0 if spec.reverse else -1])), c


def _by_reference(arguments: Arguments, steps: int, spec: Spec, shape: tuple[int, ...]) -> Results:
    if arguments.h0 is None:
        weight = arguments.weight
        zeros = weight.new_zeros(shape), weight.new_zeros(shape, dtype=cell_dtype(weight.dtype))
        arguments = arguments._replace(h0=zeros[0], c0=zeros[1])
    return Results(*reference.sequence(**arguments._asdict(), steps=steps, spec=spec))


def _schedule(schedule: str, arguments: Arguments) -> str:
    """The schedule of a call, "concat" or "hoisted"."""
    if arguments.in_channels == 0:
        return "concat"
    if arguments.input_weight is not None:
        return "hoisted"
    if schedule != "auto":
        return schedule
    weight = arguments.weight
    rows, columns, *kernel = map(operator.index, weight.shape)  # makes the sizes constants under torch.compile
    return _tuned_schedule(weight.device, weight.element_size(), columns - rows // 4, rows // 4, tuple(kernel))


@constant_when_compiled  # torch.compile cannot trace the reading of tables
def _tuned_schedule(
    device: torch.device, itemsize: int, in_channels: int, channels: int, kernel: tuple[int, ...]
) -> str:
    return pick_schedule(architecture(device), itemsize, in_channels, channels, kernel)


def _sizes(
    arguments: Arguments, spatial_dims: Sequence[str], steps: int | None, is_precomputed: bool
) -> tuple[int, int, tuple[int, ...]]:
    """T, B and the spatial size, from the input or, without one, from `steps` and the state."""
    input, weight, in_channels = arguments.input, arguments.weight, arguments.in_channels
    if input is not None:
        name, dim = "input", "Cin"
        if is_precomputed:
            name, dim, columns = "input_preact", "4·C", in_channels
            in_channels = len(weight)
            if columns:
                raise ValueError(
                    f"weight: expected C = {in_channels // 4} columns beside input_preact, for the hidden state alone,"
                    f" got {tuple(weight.shape)}"
                )
        checks.check_input(name, input, ("T", "B", dim, *spatial_dims), in_channels)
        checks.check_dtype(name, input, weight)
        checks.check_device(name, input, weight.device)
        return checks.count_steps(steps, input, name), input.shape[1], tuple(input.shape[3:])
    if in_channels:
        raise ValueError(f"input: expected a Tensor with {in_channels} channels, got None")
    steps = checks.count_steps(steps, None)
    if arguments.h0 is None:
        raise ValueError("state: expected (h, c), which alone tells the sizes without input, got None")
    dims = ("B", "C", *spatial_dims)
    checks.check_pair("state", (arguments.h0, arguments.c0))
    if arguments.h0.dim() != len(dims):
        raise ValueError(
            f"state[0]: expected {len(dims)} dimensions ({', '.join(dims)}), got shape {tuple(arguments.h0.shape)}"
        )
    return steps, arguments.h0.shape[0], tuple(arguments.h0.shape[2:])
