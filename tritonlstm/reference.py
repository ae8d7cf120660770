"""The oracle: the equations of Shi et al. 2015 (arXiv 1506.04214) in plain PyTorch.

`*` is convolution, `∘` the elementwise product, σ the recurrent activation (the logistic function), φ the activation
(tanh) and ψ that of the output (φ); the gates come in the order i, f, g, o:

    A_t = W * [X_t ; H_{t-1}] + b
    i_t = σ(A_i + w_ci ∘ C_{t-1})
    f_t = σ(A_f + w_cf ∘ C_{t-1})
    g_t = φ(A_g)
    C_t = f_t ∘ C_{t-1} + i_t ∘ g_t      within ±cell_clip, where there is one
    o_t = σ(A_o + w_co ∘ C_t)
    H_t = o_t ∘ ψ(C_t)

Any dtype, any device, differentiable as often as PyTorch is: this is also what `backend="torch"` runs. The backward
pass that the kernels implement stands here a second time by hand, so that it can be held against autograd on its own.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .core.arguments import Arguments
from .core.geometry import Geometry
from .core.marks import BLANK, HOLD, RESET, has
from .core.spec import Spec

DEFAULT = Spec()

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONVOLUTION_GRADS = {
    1: (torch.nn.grad.conv1d_input, torch.nn.grad.conv1d_weight),
    2: (torch.nn.grad.conv2d_input, torch.nn.grad.conv2d_weight),
    3: (torch.nn.grad.conv3d_input, torch.nn.grad.conv3d_weight),
}


class Activation(NamedTuple):
    """An activation, and its derivative as a function of its value."""

    apply: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _inside(value: Tensor) -> Tensor:
    """1 where a value lies between 0 and 1, else 0."""
    return ((value > 0) & (value < 1)).to(value.dtype)


ACTIVATIONS = {
    "tanh": Activation(torch.tanh, lambda value: 1 - value**2),
    "relu": Activation(torch.relu, lambda value: (value > 0).to(value.dtype)),
    "leaky_relu": Activation(F.leaky_relu, lambda value: torch.where(value > 0, torch.ones_like(value), 0.01)),
    "identity": Activation(lambda x: x, torch.ones_like),
    "sigmoid": Activation(torch.sigmoid, lambda value: value * (1 - value)),
    # Not F.hardsigmoid, whose gradient in float64 has a slope of 1/6 in float32.
    "hard_sigmoid": Activation(lambda x: F.relu6(x + 3) / 6, lambda value: _inside(value) / 6),
    "hard_sigmoid_keras2": Activation(lambda x: (0.2 * x + 0.5).clamp(0, 1), lambda value: 0.2 * _inside(value)),
}


class Gates(NamedTuple):
    """The gates of one step, each (B, C, *spatial), after their activations; or gradients of their pre-activations."""

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor


def cell(
    preacts: Sequence[Tensor],
    c: Tensor,
    peepholes: Sequence[Tensor] | None,
    spec: Spec,
    activations: Mapping[str, Activation] = ACTIVATIONS,
) -> tuple[Tensor, Tensor, Gates]:
    """The pointwise part of a step, from A_i, A_f, A_g, A_o and C_{t-1}: H_t, C_t and the gates.

    Tensors in any layout that broadcasts; peepholes w_ci, w_cf, w_co, or None; what the names of the spec's activations
    mean.
    """
    activate, gate = activations[spec.activation].apply, activations[spec.recurrent_activation].apply
    a_i, a_f, a_g, a_o = preacts
    if peepholes is not None:
        w_ci, w_cf, w_co = peepholes
        a_i = torch.addcmul(a_i, w_ci, c)
        a_f = torch.addcmul(a_f, w_cf, c)
    i, f, g = gate(a_i), gate(a_f), activate(a_g)
    c = torch.addcmul(f * c, i, g)
    if spec.cell_clip is not None:
        c = F.hardtanh(c, -spec.cell_clip, spec.cell_clip)  # whose gradient is zero at the bounds, unlike clamp's
    if peepholes is not None:
        a_o = torch.addcmul(a_o, w_co, c)
    o = gate(a_o)
    return o * activations[spec.activation_of_c].apply(c), c, Gates(i, f, g, o)


def cell_backward(
    dh: Tensor,
    dc: Tensor,
    gates: Gates,
    c_prev: Tensor,
    c: Tensor,
    peepholes: Sequence[Tensor] | None,
    spec: Spec,
    activations: Mapping[str, Activation] = ACTIVATIONS,
) -> tuple[Gates, Tensor]:
    """The gradients of `cell` by hand, from those of H_t and C_t: of A_i, A_f, A_g, A_o, and of C_{t-1}."""
    slope, gate_slope = activations[spec.activation].slope, activations[spec.recurrent_activation].slope
    squash = activations[spec.activation_of_c]
    i, f, g, o = gates
    squashed = squash.apply(c)
    da_o = dh * squashed * gate_slope(o)
    dc = dc + dh * o * squash.slope(squashed)
    if peepholes is not None:
        w_ci, w_cf, w_co = peepholes
        dc = dc + da_o * w_co
    if spec.cell_clip is not None:
        dc = dc.masked_fill(c.abs() >= spec.cell_clip, 0)
    da_i = dc * g * gate_slope(i)
    da_f = dc * c_prev * gate_slope(f)
    da_g = dc * i * slope(g)
    dc = dc * f
    if peepholes is not None:
        dc = dc + da_i * w_ci + da_f * w_cf
    return Gates(da_i, da_f, da_g, da_o), dc


def linear_map(x: Tensor, weight: Tensor, bias: Tensor | None, spec: Spec = DEFAULT) -> Tensor:
    """W * x + b: a convolution that keeps the image's size; a product where `weight` has no kernel dimensions."""
    return convolution_for(weight, spec)(x, weight, bias)


def convolution_for(weight: Tensor, spec: Spec) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """`linear_map` of (x, weight, bias), for weights of that shape."""
    if weight.dim() == 2:
        return F.linear
    convolution, geometry = _CONVOLUTIONS[weight.dim() - 2], Geometry.of(weight, spec)
    convolution = partial(convolution, padding=geometry.zeros, dilation=geometry.dilation)
    if not geometry.filled:
        return convolution

    def of_filled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        for dim, size, mode in geometry.filled:
            x = F.pad(x, _around(x, dim, size), mode)
        return convolution(x, weight, bias)

    return of_filled


def _around(x: Tensor, dim: int, size: int) -> list[int]:
    """What `F.pad` takes for `size` pixels on each side of one spatial dimension of x (B, C, *spatial)."""
    sizes = [0] * (2 * (x.dim() - 2))
    last_first = 2 * (x.dim() - 3 - dim)
    sizes[last_first : last_first + 2] = size, size
    return sizes


def step(
    x: Tensor | None,
    h: Tensor,
    c: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    *,
    input_weight: Tensor | None = None,
    spec: Spec = DEFAULT,
) -> tuple[Tensor, Tensor, Gates]:
    """One time step.

    x (B, Cin, *spatial) or None where Cin = 0; h and c (B, C, *spatial); weight (4C, Cin + C, *kernel), input channels
    first; bias (4C); peephole (3, C, *spatial or ones), in the order i, f, o. With input_weight (4C, Cin,
    *input_kernel), weight is (4C, C, *kernel), of the hidden state alone; x may then be (B, 4C, *spatial), its part of
    the pre-activations, in place of an input_weight. Returns H_t, C_t and the gates. The gates are
    computed in the dtype of c, which is float32 where h has a half type.
    """
    if bias is not None:
        bias = bias.to(weight.dtype)
    if input_weight is not None:
        preact = linear_map(x, input_weight, bias, spec) + linear_map(h, weight, None, spec)
    elif x is not None and weight.shape[1] == h.shape[1]:
        preact = x + linear_map(h, weight, bias, spec)
    else:
        preact = linear_map(h if x is None else torch.cat([x, h], 1), weight, bias, spec)
    if peephole is not None:
        peephole = peephole.to(c.dtype)
    new_h, c, values = gates(preact.to(c.dtype), c, peephole, spec=spec)
    return new_h.to(h.dtype), c, values


def gates(
    preact: Tensor, c: Tensor, peephole: Tensor | None = None, *, spec: Spec = DEFAULT
) -> tuple[Tensor, Tensor, Gates]:
    """The gates of one step, all of one dtype: preact (B, 4C, *spatial) and C_{t-1} to H_t, C_t and the gates."""
    return cell(preact.chunk(4, 1), c, None if peephole is None else peephole.unbind(), spec)


def sequence(
    input: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    *,
    input_weight: Tensor | None = None,
    marks: Tensor | None = None,
    reset_h: Tensor | None = None,
    reset_c: Tensor | None = None,
    steps: int | None = None,
    spec: Spec = DEFAULT,
) -> tuple[Tensor, Tensor, Tensor]:
    """A whole sequence of one layer: input (T, B, Cin, *spatial), (T, B, 4C, *spatial), or None with `steps`.

    Returns output (T, B, C, *spatial), h_n and c_n (B, C, *spatial). The other shapes are those of `step`. With
    spec.reverse the steps go from the last time to the first. With spec.returns "last" the output is that of the last
    step, (B, C, *spatial); with "cells" c_n is c at every step, (T, B, C, *spatial). marks (T, B), of `core.marks`: a
    sample with RESET starts its step from reset_h and reset_c, one with HOLD keeps its state, and the output of one
    with BLANK is zero.
    """
    frames = [None] * steps if input is None else input.unbind(0)
    h, c = h0, c0
    output, cells = [None] * len(frames), [None] * len(frames)
    for t in _times(len(frames), spec):
        if reset_h is not None:
            h, c = _reset(marks[t], h, c, reset_h, reset_c)
        new_h, new_c, _ = step(frames[t], h, c, weight, bias, peephole, input_weight=input_weight, spec=spec)
        if marks is not None:
            hold, blank = (has(marks[t], mark, h.dim() - 1) for mark in (HOLD, BLANK))
            new_h, new_c = torch.where(hold, h, new_h), torch.where(hold, c, new_c)
        h, c = new_h, new_c
        output[t], cells[t] = h if marks is None else torch.where(blank, 0, h), c
    if spec.returns == "last":
        return h.clone(), h, c
    return torch.stack(output), h, torch.stack(cells) if spec.returns == "cells" else c


def _reset(marks: Tensor, h: Tensor, c: Tensor, reset_h: Tensor, reset_c: Tensor) -> tuple[Tensor, Tensor]:
    """The state with which a step begins, from that after the step before."""
    reset = has(marks, RESET, h.dim() - 1)
    return torch.where(reset, reset_h, h), torch.where(reset, reset_c, c)


def _times(steps: int, spec: Spec) -> range:
    """The times of the steps, in their order."""
    return range(steps)[:: -1 if spec.reverse else 1]


def sequence_backward(
    grad_output: Tensor,
    grad_h_n: Tensor,
    grad_c_n: Tensor,
    input: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    *,
    input_weight: Tensor | None = None,
    marks: Tensor | None = None,
    reset_h: Tensor | None = None,
    reset_c: Tensor | None = None,
    steps: int | None = None,
    spec: Spec = DEFAULT,
) -> Arguments:
    """The backward pass by hand (kernels/DERIVATION.md): backpropagation through time, one step after another.

    The first three arguments are the gradients of `sequence`'s results, the others its arguments. Returns the gradients
    of a scalar loss with respect to the latter; None for absent arguments.
    """
    frames = [None] * steps if input is None else list(input.unbind(0))
    hs, cs, gates, before, times = [h0], [c0], [], [], _times(len(frames), spec)
    for t in times:
        state = hs[-1], cs[-1]
        if reset_h is not None:
            state = _reset(marks[t], *state, reset_h, reset_c)
        h, c, gate = step(frames[t], *state, weight, bias, peephole, input_weight=input_weight, spec=spec)
        if marks is not None:
            hold = has(marks[t], HOLD, h.dim() - 1)
            h, c = torch.where(hold, state[0], h), torch.where(hold, state[1], c)
        before.append(state)
        hs.append(h)
        cs.append(c)
        gates.append(gate)

    in_channels = weight.shape[1] - h0.shape[1]
    grad_weight = torch.zeros_like(weight)
    grad_input_weight = None if input_weight is None else torch.zeros_like(input_weight)
    grad_bias = None if bias is None else torch.zeros_like(bias)
    grad_peephole = None if peephole is None else torch.zeros_like(peephole)
    grad_reset_h, grad_reset_c = (None if each is None else torch.zeros_like(each) for each in (reset_h, reset_c))
    grad_frames = [None] * len(frames)
    dh = grad_h_n + grad_output if spec.returns == "last" else grad_h_n
    dc = torch.zeros_like(c0) if spec.returns == "cells" else grad_c_n
    for index, t in reversed(list(enumerate(times))):
        (h_prev, c_prev), c = before[index], cs[index + 1]
        if spec.returns == "cells":
            dc = dc + grad_c_n[t]
        if spec.returns != "last":
            dh = dh + (grad_output[t] if marks is None else _where_not(marks[t], BLANK, grad_output[t]))
        held_h, held_c = dh, dc
        da_gates, dc = cell_backward(dh, dc, gates[index], c_prev, c, peephole, spec)
        if marks is not None:
            da_gates = Gates(*(_where_not(marks[t], HOLD, each) for each in da_gates))
        da = torch.cat(da_gates, 1)
        if input_weight is None and input is not None and in_channels == 0:
            dx = da
            dh, dw = _linear_map_backward(da, h_prev, weight, spec)
        elif input_weight is None:
            z = h_prev if frames[t] is None else torch.cat([frames[t], h_prev], 1)
            dz, dw = _linear_map_backward(da, z, weight, spec)
            dx, dh = dz.split([in_channels, h0.shape[1]], 1)
        else:
            dx, dw_x = _linear_map_backward(da, frames[t], input_weight, spec)
            dh, dw = _linear_map_backward(da, h_prev, weight, spec)
            grad_input_weight += dw_x
        if marks is not None:
            hold = has(marks[t], HOLD, dh.dim() - 1)
            dh, dc = dh + torch.where(hold, held_h, 0), torch.where(hold, held_c, dc)
        if reset_h is not None:
            kept = [_where_not(marks[t], RESET, each) for each in (dh, dc)]
            grad_reset_h += dh - kept[0]
            grad_reset_c += dc - kept[1]
            dh, dc = kept
        grad_frames[t] = dx
        grad_weight += dw
        if grad_bias is not None:
            grad_bias += da.transpose(0, 1).flatten(1).sum(1)
        if grad_peephole is not None:
            products = torch.stack([da_gates.i * c_prev, da_gates.f * c_prev, da_gates.o * c])
            grad_peephole += products.sum(1).sum_to_size(peephole.shape)
    grad_input = None if input is None else torch.stack(grad_frames)
    grads = Arguments(grad_input, dh, dc, grad_weight, grad_input_weight, grad_bias, grad_peephole)
    return grads._replace(reset_h=grad_reset_h, reset_c=grad_reset_c)


def _where_not(marks: Tensor, mark: int, tensor: Tensor) -> Tensor:
    """The tensor (B, …), zero for the samples that have the mark."""
    return tensor.masked_fill(has(marks, mark, tensor.dim() - 1), 0)


def _linear_map_backward(grad: Tensor, x: Tensor, weight: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """The gradients of `linear_map` with respect to x and weight."""
    if weight.dim() == 2:
        return grad @ weight, grad.t() @ x
    geometry = Geometry.of(weight, spec)
    sources = []  # of each padded pixel along a dimension, the pixel that it repeats
    for dim, size, mode in geometry.filled:
        pixels = torch.arange(x.shape[2 + dim], device=x.device, dtype=torch.float64)
        sources.append((2 + dim, F.pad(pixels.view(1, 1, -1), (size, size), mode).flatten().long()))
        x = x.index_select(*sources[-1])
    of_input, of_weight = _CONVOLUTION_GRADS[x.dim() - 2]
    options = {"padding": geometry.zeros, "dilation": geometry.dilation}
    grad_x, grad_weight = of_input(x.shape, weight, grad, **options), of_weight(x, weight.shape, grad, **options)
    for dim, source in reversed(sources):
        shape = list(grad_x.shape)
        shape[dim] = int(source.max()) + 1
        grad_x = grad_x.new_zeros(shape).index_add_(dim, source, grad_x)
    return grad_x, grad_weight
