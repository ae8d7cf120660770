"""The algorithm: a whole sequence of one layer, forward and backward.

Forward, two kernels a step: the linear map of the dense `inputs[t]`, and the gates, which write h_t into the hidden
slot of `inputs[t+1]`. Backward, at most three a step: the gates' gradient, the adjoint map, whose result holds dH and
dX side by side, and the copy of dX where the input needs it; then one weight gradient and one parameter reduction for
each chunk of time. The gates come from `_launch` (Triton) or `_gates_aten`.
"""

import math
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from . import _convolution
from ._dtypes import cell_dtype
from ._layout import (
    Layout,
    from_rows,
    pack_inputs,
    pack_peephole,
    pack_weight,
    to_rows,
    unpack_peephole_grad,
    unpack_weight_grad,
)

CHUNK_FRACTION = 8
"""dA is kept for at most this part of the saved bytes at once (one step at the least), which makes four or five
chunks of a long sequence. On CPU the weight gradient of ten steps at once was at most 9% faster than ten of one
(float32, Zen 5), so the bound is chosen for memory; not measured on a GPU."""


class Saved(NamedTuple):
    """What the backward pass keeps, in rows."""

    inputs: Tensor  # (T, B, *spatial, width)   [ H_{t-1} | X_t | 0 ]
    cells: Tensor  # (T + 1, B, *spatial, C)    C_{-1} … C_{T-1}
    gates: Tensor  # (T, B, *spatial, 4C)       i, f, g, o, activated


class Needs(NamedTuple):
    """Which gradients are wanted, in the order of the operator's tensor arguments."""

    input: bool
    h0: bool
    c0: bool
    weight: bool
    bias: bool
    peephole: bool


def forward(
    input: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    layout: Layout,
    *,
    activation: str,
    pointwise: ModuleType,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Saved | None]:
    """output (T, B, *spatial, C), h_n and c_n (B, *spatial, C), and with `save` what the backward pass needs.

    Arguments are in the public layout, results in rows; every result is a tensor of its own.
    """
    channels, steps = layout.channels, layout.steps
    # On a CPU, whose calls cost little, one slot serves every step of inference: X is copied step by step, but where it
    # is the same at all of them, and less memory is touched. On a GPU that copy would be a third kernel a step.
    rolling = not save and pointwise.BIAS_IN_CONVOLUTION
    x_moves = input is not None and input.stride(0) != 0
    inputs = pack_inputs(input, h0, layout, steps=1 if rolling else steps)
    packed_weight = pack_weight(weight, layout)
    packed_peephole = None if peephole is None else pack_peephole(peephole)
    map_bias, gate_bias = (bias, None) if pointwise.BIAS_IN_CONVOLUTION else (None, bias)
    if map_bias is not None:
        map_bias = map_bias.to(weight.dtype).contiguous()
    if gate_bias is not None:
        gate_bias = gate_bias.contiguous()

    # Without `save`, c is updated in place and the pre-activations of every step share one buffer.
    cells = c0.new_empty(layout.sequence_shape(channels, steps + 1 if save else 1))
    cells[0] = to_rows(c0)
    gates = weight.new_empty(layout.sequence_shape(4 * channels, steps if save else 1))
    output = weight.new_empty(layout.sequence_shape(channels))
    h_n = weight.new_empty(layout.step_shape(channels))

    for t in range(steps if layout.rows else 0):
        slot = t if save else 0
        current, following = (0, 0) if rolling else (t, t + 1)
        if rolling and t > 0 and x_moves:
            inputs[0, ..., layout.input_slot] = to_rows(input[t])
        preact = _convolution.apply(inputs[current], packed_weight, map_bias, out=gates[slot])
        pointwise.gates_forward(
            layout,
            preact,
            gate_bias,
            packed_peephole,
            cells[slot],
            activation=activation,
            gates=gates[slot] if save else None,
            c=cells[slot + 1] if save else cells[slot],
            h=output[t],
            h_next=inputs[following, ..., layout.hidden_slot] if t + 1 < steps else h_n,
        )
    c_n = cells[-1].clone() if save else cells[0]
    return output, h_n, c_n, Saved(inputs, cells, gates) if save else None


def backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    saved: Saved,
    weight: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    layout: Layout,
    *,
    activation: str,
    pointwise: ModuleType,
    needs: Needs,
) -> list[Tensor]:
    """The wanted gradients, in the order of `Needs`, in the public layout.

    grad_output (T, B, C, *spatial), grad_h_n and grad_c_n (B, C, *spatial): any strides, None for zero.
    """
    inputs, cells, gates = saved
    dtype = weight.dtype
    packed_weight = pack_weight(weight, layout)
    packed_peephole = None if peephole is None else pack_peephole(peephole)
    # Where X needs no gradient, only the hidden columns of W are transposed.
    adjoint = _convolution.adjoint_weight(packed_weight, slice(None) if needs.input else layout.hidden_slot)
    grad_row = weight.new_empty(layout.step_shape(adjoint.shape[0]))  # [dH_{t-1} | dX_t | 0]
    grad_h = _copy_or_zeros(grad_h_n, layout, dtype, like=weight)
    grad_c = _copy_or_zeros(grad_c_n, layout, cell_dtype(dtype), like=weight)

    grad_input = weight.new_empty(layout.sequence_shape(layout.in_channels)) if needs.input else None
    grad_weight = None
    sums = None
    if needs.bias or needs.peephole:
        pixels = packed_peephole.shape[1] if needs.peephole else 0
        sums = pointwise.ParameterGrads(
            layout, like=grad_c, bias=needs.bias, peephole_pixels=pixels, itemsize=gates.element_size()
        )

    together = needs.weight or sums is not None
    chunks = _chunks(saved, together) if layout.rows else []
    buffer = gates.new_empty((max((last - first for first, last in chunks), default=0), *gates.shape[1:]))
    for first, last in chunks:
        grad_preact = buffer[: last - first]
        for t in reversed(range(first, last)):
            pointwise.gates_backward(
                layout,
                gates[t],
                packed_peephole,
                cells[t],
                activation=activation,
                grad_output=None if grad_output is None else to_rows(grad_output[t]),
                grad_h=grad_h,
                grad_c=grad_c,
                grad_preact=grad_preact[t - first],
            )
            if t > 0 or needs.input or needs.h0:
                grad_row = _convolution.apply(grad_preact[t - first], adjoint, out=grad_row)
                grad_h = grad_row[..., layout.hidden_slot]
            if grad_input is not None:
                grad_input[t] = grad_row[..., layout.input_slot]
        if needs.weight:
            rows, grad = inputs[first:last].flatten(0, 1), grad_preact.flatten(0, 1)
            if grad_weight is None:
                # Of the packed weight only the shape is needed from here on: the gradient takes its place.
                packed_weight = _convolution.weight_grad(rows, grad, packed_weight)
                grad_weight = packed_weight.to(cell_dtype(dtype))
            else:
                grad_weight += _convolution.weight_grad(rows, grad, packed_weight)
        if sums is not None:
            sums.add(grad_preact, c_prev=cells[first:last], c=cells[first + 1 : last + 1])

    grad_bias, grad_peephole = (None, None) if sums is None else sums.result()
    grads = []
    if needs.input:
        grads.append(from_rows(grad_input, channel_dim=2))
    if needs.h0:
        grads.append(from_rows(grad_h.contiguous()))
    if needs.c0:
        grads.append(from_rows(grad_c))
    if needs.weight:
        if grad_weight is None:
            grad_weight = torch.zeros_like(packed_weight)
        grads.append(unpack_weight_grad(grad_weight, weight, layout))
    if needs.bias:
        grads.append(grad_bias.to(bias.dtype))
    if needs.peephole:
        grads.append(unpack_peephole_grad(grad_peephole, peephole))
    return grads


def _copy_or_zeros(grad: Tensor | None, layout: Layout, dtype: torch.dtype, like: Tensor) -> Tensor:
    """A final state's gradient as dense rows that may be overwritten."""
    rows = like.new_zeros(layout.step_shape(layout.channels), dtype=dtype)
    return rows if grad is None else rows.copy_(to_rows(grad))


def _chunks(saved: Saved, together: bool) -> list[tuple[int, int]]:
    """Ranges of steps (first, last), the latest first, whose dA is kept at once: as few as CHUNK_FRACTION allows.

    One step each unless their gradients are used `together`.
    """
    steps = len(saved.gates)
    bound = sum(tensor.nbytes for tensor in saved) // CHUNK_FRACTION
    length = max(1, bound // saved.gates[0].nbytes) if together else 1
    length = math.ceil(steps / math.ceil(steps / length))
    return [(first, min(first + length, steps)) for first in reversed(range(0, steps, length))]
