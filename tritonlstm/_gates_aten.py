"""The gates and their gradients in ATen calls: for the CPU, and for float64 anywhere.

The same operations as `_launch`, with the same arguments (what `pack_peephole` and `new_gates` return is each module's
own), so that `_sequence` need not know which it calls. They compute in the dtype of c, write where they are told and
read every tensor through its strides. The symbols are those of kernels/DERIVATION.md.
"""

import torch
from torch import Tensor

from . import _devices
from ._dtypes import cell_dtype
from ._layout import Layout, to_rows

BIAS_IN_CONVOLUTION = True
"""The convolution adds the bias for nothing; here it would cost a pass over 4C channels."""

SLOTS = 1
"""One slot serves every step: X is copied step by step, which costs little here, and less memory is
touched."""

ACTIVATES_IN_PLACE = False
"""Gates lie apart from their pre-activations, which nobody keeps."""

SKIPS_EMPTY_STATE = True
"""Where there is no state, the first step may convolve the input alone."""

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def _relu(preact: Tensor, *, out: Tensor) -> Tensor:
    return torch.clamp_min(preact, 0, out=out)


def _relu_backward(grad: Tensor, output: Tensor, *, grad_input: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward.grad_input(grad, output, 0, grad_input=grad_input)


def _tanh_by_expm1(preact: Tensor, *, out: Tensor) -> Tensor:
    """tanh(x) = u / (u + 2), u = expm1(2x): within 2 ulp.

    In 0.4 to 0.5 of torch.tanh's time where vectors have 512 bits (Zen 5), but no faster with 256 (an EPYC of AVX2).
    """
    torch.mul(preact, 2, out=out).clamp_(max=40).expm1_()
    return out.div_(out + 2)


_HAS_AVX512 = _devices.CPU_CAPABILITY == "AVX512"

_ACTIVATIONS = {
    "tanh": (_tanh_by_expm1 if _HAS_AVX512 else torch.tanh, torch.ops.aten.tanh_backward.grad_input),
    "relu": (_relu, _relu_backward),
}


def _split(rows: Tensor) -> tuple[Tensor, ...]:
    """(B, *spatial, 4C) as four views (B, *spatial, C): of i, f, g, o."""
    return rows.chunk(4, dim=-1)


def new_gates(layout: Layout, like: Tensor, steps: int) -> Tensor:
    """Uninitialised gates (T, 4, B, *spatial, C) of so many steps: each of the four dense, not side by side in rows."""
    return layout.new_gates(like, steps)


def pack_peephole(layout: Layout, peephole: Tensor) -> tuple[Tensor, ...]:
    """peephole (3, C, *spatial or ones) as the rows (*spatial or ones, C) of each gate, in the dtype of c."""
    return layout.dense(to_rows(peephole.to(cell_dtype(peephole.dtype)))).unbind()


def gates_forward(
    layout: Layout,
    preact: Tensor,
    addend: Tensor | None,
    bias: Tensor | None,
    peephole: tuple[Tensor, ...] | None,
    c_prev: Tensor | None,
    *,
    activation: str,
    gates: Tensor | None,
    c: Tensor,
    h: Tensor,
    h_next: Tensor | None,
) -> None:
    """One step's gates; see `_launch.gates_forward` for the shapes, but gates are (4, B, *spatial, C).

    `preact` may be overwritten.
    """
    assert bias is None, "the convolution has added it"
    activate, _ = _ACTIVATIONS[activation]
    if preact.dtype != c.dtype:
        preact = preact.to(c.dtype)
    if addend is not None:
        preact += addend
    a_i, a_f, a_g, a_o = _split(preact)
    w_ci, w_cf, w_co = (None,) * 3 if peephole is None else peephole
    # In dense tensors: over rows the four gates of a pixel lie side by side, and what computes on a slice of them is
    # slower (sigmoid and tanh of 64 to 8 channels 1.1 to 3.5 times, on two threads of an EPYC).
    scratch, whole = torch.empty_like(c), None
    if gates is None:
        other = torch.empty_like(c)
        i, f, g, o = scratch, other, other, scratch
    else:
        whole = gates if gates.dtype == c.dtype else torch.empty_like(gates, dtype=c.dtype)
        other = scratch
        i, f, g, o = whole.unbind()
    _sigmoid(a_i, w_ci, c_prev, out=i)
    activate(g.copy_(a_g), out=g)
    i_g = torch.mul(i, g, out=scratch)
    if c_prev is None:
        assert gates is None, "f would not be kept"
        c.copy_(i_g)
    else:
        _sigmoid(a_f, w_cf, c_prev, out=f)
        torch.addcmul(i_g, f, c_prev, out=c)
    _sigmoid(a_o, w_co, c, out=o)
    squashed = activate(c, out=other)
    if h_next is None:
        torch.mul(o, squashed, out=h)
    else:
        h.copy_(torch.mul(o, squashed, out=h_next))
    if whole is not gates:
        gates.copy_(whole)


def _sigmoid(preact: Tensor, peephole: Tensor | None, c: Tensor | None, *, out: Tensor) -> Tensor:
    """σ(preact + peephole ∘ c)."""
    if peephole is None or c is None:
        out.copy_(preact)
    else:
        torch.addcmul(preact, peephole, c, out=out)
    return out.sigmoid_()


def gates_backward(
    layout: Layout,
    gates: Tensor,
    bias: Tensor | None,
    peephole: tuple[Tensor, ...] | None,
    c_prev: Tensor,
    c: Tensor,
    *,
    activated: bool,
    activation: str,
    grad_output: Tensor | None,
    grad_h: Tensor,
    grad_c: Tensor,
    grad_preact: Tensor,
) -> None:
    """One step's gate gradients; see `_launch.gates_backward` for the shapes. `grad_c` becomes dC_{t-1}.

    Activated gates are (4, B, *spatial, C), pre-activations rows (B, *spatial, 4C). From these one gate is made at a
    time, since its gradient may overwrite its pre-activation.
    """
    assert bias is None, "the convolution has added it"
    activate, activation_backward = _ACTIVATIONS[activation]
    dtype = grad_c.dtype
    w_ci, w_cf, w_co = (None,) * 3 if peephole is None else peephole
    i, f, g, o = gates.unbind() if activated else _split(gates)
    da_i, da_f, da_g, da_o = _split(grad_preact)

    def sigmoid(gate: Tensor, w: Tensor | None, cell: Tensor) -> Tensor:
        return gate.to(dtype) if activated else _sigmoid(gate, w, cell, out=made_again)

    made_again = None if activated else torch.empty_like(c)
    dh, squashed, through = (torch.empty_like(c) for _ in range(3))
    if grad_output is None:
        dh.copy_(grad_h)
    else:
        torch.add(grad_h.to(dtype), grad_output, out=dh)
    activate(c, out=squashed)
    o = sigmoid(o, w_co, c)
    torch.mul(dh, o, out=through)
    of_o = _sigmoid_backward(dh.mul_(squashed), o, grad_input=dh)
    da_o.copy_(of_o)
    grad_c.add_(activation_backward(through, squashed, grad_input=through))
    if peephole is not None:
        grad_c.addcmul_(of_o, w_co)

    i = sigmoid(i, w_ci, c_prev)
    g = g.to(dtype) if activated else activate(squashed.copy_(g), out=squashed)
    of_i = torch.mul(grad_c, g, out=dh)
    da_i.copy_(_sigmoid_backward(of_i, i, grad_input=of_i))
    of_g = torch.mul(grad_c, i, out=through)
    da_g.copy_(activation_backward(of_g, g, grad_input=of_g))

    f = sigmoid(f, w_cf, c_prev)
    of_f = torch.mul(grad_c, c_prev, out=through)
    da_f.copy_(_sigmoid_backward(of_f, f, grad_input=of_f))
    grad_c.mul_(f)
    if peephole is not None:
        grad_c.addcmul_(of_i, w_ci).addcmul_(of_f, w_cf)


class ParameterGrads:
    """Sums of dA and dA∘C over a sequence that arrives in chunks of time; see `_launch.ParameterGrads`."""

    def __init__(self, layout: Layout, like: Tensor, *, bias: bool, peephole_pixels: int, itemsize: int):
        self._layout = layout
        self._bias = like.new_zeros(4 * layout.channels) if bias else None
        self._peephole = like.new_zeros(3, peephole_pixels, layout.channels) if peephole_pixels else None

    def add(self, grad_preact: Tensor, c_prev: Tensor, c: Tensor) -> None:
        *all_but_channels, _ = range(grad_preact.dim())
        if self._bias is not None:
            self._bias += grad_preact.sum(all_but_channels, dtype=self._bias.dtype)
        if self._peephole is None:
            return
        pixels = self._peephole.shape[1]
        repeated = [0, 1] if pixels == self._layout.pixels else all_but_channels
        da_i, da_f, _, da_o = _split(grad_preact)
        for index, (da, cell) in enumerate(((da_i, c_prev), (da_f, c_prev), (da_o, c))):
            products = torch.mul(da, cell)
            self._peephole[index] += products.sum(repeated).view(pixels, -1)

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        return self._bias, self._peephole
