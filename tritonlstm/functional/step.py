"""One step of a layer, composed of a convolution and the gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..core import checks
from ..core.arguments import UNMARKED, Arguments
from ..core.backend import resolve
from ..core.dtypes import cell_dtype, compute_dtype, convolution_dtype, without_autocast
from ..core.geometry import check_dimensions, check_margins
from ..core.layout import from_rows, to_rows
from ..core.once import once
from ..core.spec import Spec
from ..core.state import LSTMState
from .gates import State, gates_for

_Convolution = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(images, weight, bias) → W * images + b."""


class _Plan(NamedTuple):
    """What follows from the metadata of a step's arguments."""

    is_batched: bool
    reads_rows: bool  # whether the gates require channels last and add the bias
    dtype: torch.dtype  # of the pre-activations, as autocast has it
    convolve: _Convolution
    convolve_input: _Convolution | None  # with an input_weight
    gates: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], State]  # of (preact, c, bias, peephole)


def step(
    arguments: Arguments,
    spec: Spec,
    spatial_dims: tuple[str, ...],
    sizes: tuple[int, int] | None = None,
    norm: Callable[[Tensor], Tensor] | None = None,
) -> LSTMState:
    """One step of a layer: one convolution over [x ; h], which PyTorch differentiates, and `lstm_gates`.

    The basis of the modules' steps. arguments.input is (B, Cin, *spatial), h0 and c0 (B, C, *spatial), or all without
    B. Nothing is packed and nothing is kept from one call to the next, so that a loop of steps costs no more than one
    in plain PyTorch. Numbers differ by rounding from those of a sequence, whose convolutions may be computed in
    another way. `sizes` are Cin and C where a module was made with them. `norm` is applied to the pre-activations, bias
    included, before peepholes and gates.
    """
    input, h, c, weight, input_weight, bias, peephole = tensors = arguments[:UNMARKED]
    plan = once(_plan, tensors, spec, spatial_dims, sizes)
    if not plan.is_batched:
        input, h, c = (None if tensor is None else tensor.unsqueeze(0) for tensor in (input, h, c))
    if h is None:
        h, c = _zero_state(input, arguments.channels, plan.dtype)
    of_convolution, of_gates = (None, bias) if plan.reads_rows and norm is None else (bias, None)
    if input_weight is None:
        preact = plan.convolve(_concatenate(input, h, as_rows=plan.reads_rows), weight, of_convolution)
    else:
        preact = plan.convolve_input(input, input_weight, of_convolution) + plan.convolve(h, weight, None)
    if norm is not None:
        size, preact = preact.shape, norm(preact).to(plan.dtype)
        checks.check_shape("norm (its result)", preact, size, ("B", "4·C", *spatial_dims))
    h, c = plan.gates(preact, c, of_gates, peephole)
    return LSTMState(h, c) if plan.is_batched else LSTMState(h.squeeze(0), c.squeeze(0))


def _plan(
    tensors: Sequence[Tensor | None], spec: Spec, spatial_dims: tuple[str, ...], sizes: tuple[int, int] | None
) -> _Plan:
    """Check a step's arguments, and tell how to compute it."""
    input, h, c, weight, input_weight, bias, peephole = tensors
    arguments = Arguments(*tensors)
    if sizes is not None:
        checks.check_channels(arguments, *sizes)
    checks.check_parameters(weight, input_weight, bias, peephole, len(spatial_dims))
    if input is not None:
        dims = ("B", "Cin", *spatial_dims)
        like, is_batched = input, checks.is_batched("input", input, dims)
        checks.check_input("input", input, dims if is_batched else dims[1:], arguments.in_channels)
        checks.check_dtype("input", input, weight)
        checks.check_device("input", input, weight.device)
    elif arguments.in_channels:
        raise ValueError(f"input: expected a Tensor with {arguments.in_channels} channels, got None")
    elif h is None:
        raise ValueError("state: expected (h, c), which alone tells the sizes without input, got None")
    else:
        like, is_batched = h, checks.is_batched("state[0]", h, ("B", "C", *spatial_dims))
    outer, spatial = (like.shape[:1], like.shape[2:]) if is_batched else ((), like.shape[1:])
    checks.check_peephole_size(peephole, tuple(spatial))
    checks.check_pixels(input, tuple(spatial))
    check_dimensions(spec, spatial_dims)
    check_margins(spec, (weight, input_weight), spatial, spatial_dims)
    if h is not None:
        shape = (*outer, arguments.channels, *spatial)
        checks.check_state("state", (h, c), shape, ("B", "C", *spatial_dims)[0 if is_batched else 1 :], like=weight)
    backend, dtype = resolve(spec.backend, weight), compute_dtype(weight)
    elements = (like.shape[0] if is_batched else 1) * arguments.channels * math.prod(spatial)
    return _Plan(
        is_batched,
        backend == "triton",
        dtype,
        _convolution(weight, bias, spec, dtype),
        None if input_weight is None else _convolution(input_weight, bias, spec, dtype),
        gates_for(elements, weight.device, peephole, spec, backend),
    )


def _convolution(weight: Tensor, bias: Tensor | None, spec: Spec, dtype: torch.dtype) -> _Convolution:
    """W * images + b in that dtype, of (images, weight, bias); computed in float32 where PyTorch has no correct
    convolution in it."""
    convolve, wanted = reference.convolution_for(weight, spec), convolution_dtype(weight, dtype)
    if wanted == dtype and (bias is None or bias.dtype == weight.dtype):
        return convolve

    def with_narrow_bias(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(images, weight, None if bias is None else bias.to(weight.dtype))

    def widened(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with without_autocast(weight):
            bias = None if bias is None else bias.to(wanted)
            return convolve(images.to(wanted), weight.to(wanted), bias).to(dtype)

    return with_narrow_bias if wanted == dtype else widened


def _zero_state(input: Tensor, channels: int, dtype: torch.dtype) -> State:
    """h and c of zeros (B, C, *spatial), channels last if the input is."""
    rows = to_rows(input)
    h = from_rows(rows.new_zeros(*rows.shape[:-1], channels, dtype=dtype))
    if not rows.is_contiguous():
        h = h.contiguous()
    return h, h if cell_dtype(dtype) == dtype else h.to(cell_dtype(dtype))


def _concatenate(input: Tensor | None, h: Tensor, *, as_rows: bool) -> Tensor:
    """[x ; h] (B, Cin + C, *spatial), with `as_rows` stored channels last."""
    if input is None:
        return h
    if as_rows:
        return from_rows(torch.cat([to_rows(input), to_rows(h)], -1))
    return torch.cat([input, h], 1)
