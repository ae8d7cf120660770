"""One layer over a sequence, as functions of their parameters."""

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _checks, _ops, reference
from ._backend import BACKENDS, uses_reference, uses_triton
from ._devices import architecture
from ._dtypes import cell_dtype, compute_dtype, without_autocast
from ._maps.planes import is_faster_in_planes
from .tuning import pick_schedule

ACTIVATIONS = ("tanh", "relu")
MEMORIES = ("save", "recompute")
SCHEDULES = ("auto", "concat", "hoisted")

State = tuple[Tensor, Tensor]
"""(h, c): the hidden state, with the input's dtype, and the cell state, float32 where that is a half type."""


def conv_lstm(
    input: Tensor | None,
    state: State | None,
    weight: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    *,
    input_weight: Tensor | None = None,
    steps: int | None = None,
    activation: str = "tanh",
    backend: str = "auto",
    memory: str = "save",
    schedule: str = "auto",
) -> tuple[Tensor, State]:
    """A ConvLSTM layer over a sequence of images (Shi et al. 2015, arXiv 1506.04214, equation 3).

    Args:
        input: (T, B, Cin, H, W) with any strides; None where Cin = 0, with `steps`.
        state: (h, c), each (B, C, H, W); zeros if None.
        weight: (4C, Cin + C, kh, kw), kh and kw odd; columns: input channels, then hidden; rows: gates i, f, g, o.
        bias: (4C).
        peephole: (3, C, 1, 1) or (3, C, H, W), in the order i, f, o: the weights of c in those gates.
        input_weight: (4C, Cin, kh', kw'), for an input kernel of another size; `weight` is then (4C, C, kh, kw), of the
            hidden state alone.
        steps: T, where input is None.
        activation: "tanh" or "relu", of the candidate g and of c in the output.
        backend: "auto" (Triton on a GPU, ATen elsewhere), "triton", or "torch" (`reference`: differentiable twice).
        memory: what training keeps for the backward pass, beside the input, the output and c. "save": the gates of
            every step. "recompute": it makes them again, for about half the memory and one more convolution. "torch"
            keeps what autograd does.
        schedule: "concat" (one convolution a step over input and hidden state), "hoisted" (the input's for many steps
            at once, the hidden state's step by step), or "auto": what tuning measured to be faster, else "concat".
            Numbers differ by rounding. With `input_weight` it is always "hoisted", without an input there is nothing to
            hoist, and "torch" has none.

    Returns:
        output (T, B, C, H, W) and the last state (h, c), stored channels last, or contiguous where a CPU convolves that
        faster. Under autocast, h has autocast's dtype. They may be written to before the backward pass; the input and
        the state that came in are kept as they are, not copied, and writing to them raises PyTorch's own error.

    Raises:
        TypeError, ValueError: with the argument's name, before anything is computed.
    """
    options = (steps, activation, backend, memory, schedule)
    return layer(input, state, weight, input_weight, bias, peephole, ("H", "W"), *options)


def peephole_lstm(
    input: Tensor | None,
    state: State | None,
    weight: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    *,
    steps: int | None = None,
    activation: str = "tanh",
    backend: str = "auto",
    memory: str = "save",
    schedule: str = "auto",
) -> tuple[Tensor, State]:
    """A peephole LSTM layer over a sequence of vectors (the FC-LSTM of Shi et al. 2015, equation 2).

    As `conv_lstm` without H, W and kernel: input (T, B, Cin), h and c (B, C), weight (4C, Cin + C), peephole (3, C).
    """
    return layer(input, state, weight, None, bias, peephole, (), steps, activation, backend, memory, schedule)


def layer(
    input: Tensor | None,
    state: State | None,
    weight: Tensor,
    input_weight: Tensor | None,
    bias: Tensor | None,
    peephole: Tensor | None,
    spatial_dims: Sequence[str],
    steps: int | None,
    activation: str,
    backend: str,
    memory: str,
    schedule: str,
    *,
    shares_output: bool = False,
) -> tuple[Tensor, State]:
    """A layer over images of any dimensions: `conv_lstm`, `peephole_lstm`, and what the modules run.

    With `shares_output` the output is the one that the backward pass reads, not a copy: nobody may write to it before.
    """
    _checks.check_choice("activation", activation, ACTIVATIONS)
    _checks.check_choice("backend", backend, BACKENDS)
    _checks.check_choice("memory", memory, MEMORIES)
    _checks.check_choice("schedule", schedule, SCHEDULES)
    if schedule == "concat" and input_weight is not None:
        raise ValueError(
            'schedule: "concat" needs one kernel for input and hidden state, got input_weight'
            f' {tuple(input_weight.shape)}; "auto" works here'
        )
    _checks.check_parameters(weight, input_weight, bias, peephole, len(spatial_dims))
    channels = weight.shape[0] // 4
    in_channels = weight.shape[1] - channels if input_weight is None else input_weight.shape[1]
    steps, batch, spatial = _sizes(input, state, weight, in_channels, spatial_dims, steps)
    _checks.check_peephole_size(peephole, spatial)
    shape = (batch, channels, *spatial)
    if state is not None:
        _checks.check_state("state", state, shape, ("B", "C", *spatial_dims), like=weight)

    # What autocast would do for a convolution, but for c, which stays in float32.
    dtype = compute_dtype(weight)
    h, c = (None, None) if state is None else (state[0].to(dtype), state[1])
    input = None if input is None else input.to(dtype)
    weight = weight.to(dtype)
    input_weight = None if input_weight is None else input_weight.to(dtype)
    if uses_reference(backend):
        with without_autocast(weight):
            if state is None:
                h, c = weight.new_zeros(shape), weight.new_zeros(shape, dtype=cell_dtype(dtype))
            output, h, c = reference.sequence(
                input, h, c, weight, bias, peephole, input_weight=input_weight, steps=steps, activation=activation
            )
    else:
        triton, recompute = uses_triton(backend, weight), memory == "recompute"
        if triton:
            _checks.check_peephole_offsets(peephole)
        hoisted = in_channels > 0 and _is_hoisted(schedule, weight, input_weight)
        pixels = None if torch.compiler.is_compiling() else batch * math.prod(spatial)  # no guards on sizes
        planar = not triton and is_faster_in_planes(weight, input_weight, pixels=pixels)
        options = (steps, activation, triton, hoisted, recompute, planar)
        tensors = (input, h, c, weight, input_weight, bias, peephole)
        output, h, c = _ops.sequence(*tensors, *options, shares_output=shares_output)
    return output, (h, c)


def _is_hoisted(schedule: str, weight: Tensor, input_weight: Tensor | None) -> bool:
    if input_weight is not None:
        return True
    if schedule == "auto":
        rows, columns, *kernel = map(operator.index, weight.shape)  # to a compiler, a weight's sizes are constants here
        schedule = _tuned_schedule(weight.device, weight.element_size(), columns - rows // 4, rows // 4, tuple(kernel))
    return schedule == "hoisted"


@torch.compiler.assume_constant_result  # what reads tables is nothing to trace
def _tuned_schedule(
    device: torch.device, itemsize: int, in_channels: int, channels: int, kernel: tuple[int, ...]
) -> str:
    return pick_schedule(architecture(device), itemsize, in_channels, channels, kernel)


def _sizes(
    input: Tensor | None,
    state: State | None,
    weight: Tensor,
    in_channels: int,
    spatial_dims: Sequence[str],
    steps: int | None,
) -> tuple[int, int, tuple[int, ...]]:
    """T, B and the image's size, from the input or, without one, from `steps` and the state."""
    if input is not None:
        _checks.check_input("input", input, ("T", "B", "Cin", *spatial_dims), in_channels)
        _checks.check_dtype("input", input, weight)
        _checks.check_device("input", input, weight.device)
        return _checks.count_steps(steps, input), input.shape[1], tuple(input.shape[3:])
    if in_channels:
        raise ValueError(f"input: expected a Tensor with {in_channels} channels, got None")
    steps = _checks.count_steps(steps, None)
    if state is None:
        raise ValueError("state: expected (h, c), which alone tells the sizes without input, got None")
    dims = ("B", "C", *spatial_dims)
    _checks.check_pair("state", state)
    if state[0].dim() != len(dims):
        raise ValueError(f"state[0]: expected {len(dims)} dimensions {dims}, got shape {tuple(state[0].shape)}")
    return steps, state[0].shape[0], tuple(state[0].shape[2:])
