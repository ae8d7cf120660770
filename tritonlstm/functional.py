"""One layer over a sequence, as functions of their parameters."""

from collections.abc import Sequence

from torch import Tensor

from . import _checks, _ops, reference
from ._backend import BACKENDS, uses_reference, uses_triton
from ._dtypes import cell_dtype, compute_dtype, without_autocast

ACTIVATIONS = ("tanh", "relu")

State = tuple[Tensor, Tensor]
"""(h, c): the hidden state, with the input's dtype, and the cell state, float32 where that is a half type."""


def conv_lstm(
    input: Tensor | None,
    state: State | None,
    weight: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    *,
    steps: int | None = None,
    activation: str = "tanh",
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """A ConvLSTM layer over a sequence of images (Shi et al. 2015, arXiv 1506.04214, equation 3).

    Args:
        input: (T, B, Cin, H, W) with any strides; None where Cin = 0, with `steps`.
        state: (h, c), each (B, C, H, W); zeros if None.
        weight: (4C, Cin + C, kh, kw), kh and kw odd; columns: input channels, then hidden; rows: gates i, f, g, o.
        bias: (4C).
        peephole: (3, C, 1, 1) or (3, C, H, W), in the order i, f, o: the weights of c in those gates.
        steps: T, where input is None.
        activation: "tanh" or "relu", of the candidate g and of c in the output.
        backend: "auto" (Triton on a GPU, ATen elsewhere), "triton", or "torch" (`reference`: differentiable twice).

    Returns:
        output (T, B, C, H, W) and the last state (h, c). Under autocast, h has autocast's dtype.

    Raises:
        TypeError, ValueError: with the argument's name, before anything is computed.
    """
    return _layer(input, state, weight, bias, peephole, ("H", "W"), steps, activation, backend)


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
) -> tuple[Tensor, State]:
    """A peephole LSTM layer over a sequence of vectors (the FC-LSTM of Shi et al. 2015, equation 2).

    As `conv_lstm` without H, W and kernel: input (T, B, Cin), h and c (B, C), weight (4C, Cin + C), peephole (3, C).
    """
    return _layer(input, state, weight, bias, peephole, (), steps, activation, backend)


def _layer(
    input: Tensor | None,
    state: State | None,
    weight: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    spatial_dims: Sequence[str],
    steps: int | None,
    activation: str,
    backend: str,
) -> tuple[Tensor, State]:
    _checks.check_choice("activation", activation, ACTIVATIONS)
    _checks.check_choice("backend", backend, BACKENDS)
    _checks.check_parameters(weight, bias, peephole, len(spatial_dims))
    channels = weight.shape[0] // 4
    steps, batch, spatial = _sizes(input, state, weight, spatial_dims, steps)
    _checks.check_peephole_size(peephole, spatial)
    shape = (batch, channels, *spatial)
    dtype = compute_dtype(weight)
    if state is None:
        state = (
            weight.new_zeros(shape, dtype=dtype, requires_grad=False),
            weight.new_zeros(shape, dtype=cell_dtype(dtype), requires_grad=False),
        )
    else:
        _checks.check_state("state", state, shape, ("B", "C", *spatial_dims), like=weight)

    # What autocast would do for a convolution, but for c, which stays in float32.
    h, c = state
    input = None if input is None else input.to(dtype)
    h, weight = h.to(dtype), weight.to(dtype)
    if uses_reference(backend):
        with without_autocast(weight):
            output, h, c = reference.sequence(input, h, c, weight, bias, peephole, steps=steps, activation=activation)
    else:
        triton = uses_triton(backend, weight)
        output, h, c = _ops.sequence(input, h, c, weight, bias, peephole, steps, activation, triton)
    return output, (h, c)


def _sizes(
    input: Tensor | None,
    state: State | None,
    weight: Tensor,
    spatial_dims: Sequence[str],
    steps: int | None,
) -> tuple[int, int, tuple[int, ...]]:
    """T, B and the image's size, from the input or, without one, from `steps` and the state."""
    in_channels = weight.shape[1] - weight.shape[0] // 4
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
