"""The gates and their gradients in ATen calls: for the CPU, and for float64 anywhere.

The same operations as `_launch`, with the same arguments (what `pack_peephole` returns is each module's own), so that
`_sequence` need not know which it calls. They compute in the dtype of c, write where they are told and read every
tensor through its strides. The symbols are those of kernels/DERIVATION.md.
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

SKIPS_EMPTY_STATE = True
"""Where there is no state, the first step convolves the input alone."""

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


def _split(gates: Tensor) -> tuple[Tensor, ...]:
    """(B, *spatial, 4C) as four views (B, *spatial, C): i, f, g, o."""
    return gates.chunk(4, dim=-1)


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
    """One step's gates; see `_launch.gates_forward` for the shapes. `preact` may be overwritten."""
    assert bias is None, "the convolution has added it"
    if preact.dtype != c.dtype:
        preact = preact.to(c.dtype)
    if addend is not None:
        preact += addend
    o, squashed = _activate(preact, peephole, c_prev, activation=activation, gates=gates, c=c)
    if h_next is None:
        torch.mul(o, squashed, out=h)
    else:
        h.copy_(torch.mul(o, squashed, out=h_next))


def _activate(
    preact: Tensor,
    peephole: tuple[Tensor, ...] | None,
    c_prev: Tensor | None,
    *,
    activation: str,
    gates: Tensor | None,
    c: Tensor,
) -> tuple[Tensor, Tensor]:
    """Pre-activations to c, which may be c_prev, and to gates, which may be `preact`.

    Returns o and the squashed c, dense. c_prev is None for zero, where no gates are kept. Each gate is computed in a
    dense tensor and copied to where it is kept: over rows the four gates of a pixel lie side by side, and what computes
    on a slice of them is slower (sigmoid and tanh of 64 to 8 channels 1.1 to 3.5 times, on two threads of an EPYC).
    """
    activate, _ = _ACTIVATIONS[activation]
    a_i, a_f, a_g, a_o = _split(preact)
    kept_i, kept_f, kept_g, kept_o = (None,) * 4 if gates is None else _split(gates)
    w_ci, w_cf, w_co = (None,) * 3 if peephole is None else peephole
    first, second = torch.empty_like(c), torch.empty_like(c)
    i = _sigmoid(a_i, w_ci, c_prev, out=first, kept=kept_i)
    g = activate(second.copy_(a_g), out=second)
    if kept_g is not None:
        kept_g.copy_(g)
    i_g = i.mul_(g)
    if c_prev is None:
        assert gates is None, "f would not be kept"
        c.copy_(i_g)
    else:
        torch.addcmul(i_g, _sigmoid(a_f, w_cf, c_prev, out=second, kept=kept_f), c_prev, out=c)
    return _sigmoid(a_o, w_co, c, out=first, kept=kept_o), activate(c, out=second)


def _sigmoid(preact: Tensor, peephole: Tensor | None, c: Tensor | None, *, out: Tensor, kept: Tensor | None) -> Tensor:
    """σ(preact + peephole ∘ c), in `out` and, where it is to be kept, once more."""
    if peephole is None or c is None:
        out.copy_(preact)
    else:
        torch.addcmul(preact, peephole, c, out=out)
    out.sigmoid_()
    if kept is not None:
        kept.copy_(out)
    return out


def gates_backward(
    layout: Layout,
    gates: Tensor,
    bias: Tensor | None,
    peephole: tuple[Tensor, ...] | None,
    c_prev: Tensor,
    *,
    activated: bool,
    activation: str,
    grad_output: Tensor | None,
    grad_h: Tensor,
    grad_c: Tensor,
    grad_preact: Tensor,
) -> None:
    """One step's gate gradients; see `_launch.gates_backward` for the shapes. `grad_c` becomes dC_{t-1}.

    Pre-activations are overwritten. The order is one in which each dA may lie where its gate did.
    """
    assert bias is None, "the convolution has added it"
    activate, activation_backward = _ACTIVATIONS[activation]
    dtype = grad_c.dtype
    if gates.dtype != dtype:
        gates = gates.to(dtype)
    c = torch.empty_like(grad_c)
    if activated:
        i, f, g, _ = _split(gates)
        squashed = activate(torch.mul(f, c_prev, out=c).addcmul_(i, g), out=c)
    else:
        _, squashed = _activate(gates, peephole, c_prev, activation=activation, gates=gates, c=c)
    i, f, g, o = _split(gates)
    result = grad_preact if grad_preact.dtype == dtype else gates
    da_i, da_f, da_g, da_o = _split(result)

    dh = grad_h if grad_h.dtype == dtype else grad_h.to(dtype)
    if grad_output is not None:
        dh = dh + grad_output
    through_c = torch.mul(dh, o)
    _sigmoid_backward(torch.mul(dh, squashed), o, grad_input=da_o)
    grad_c.add_(activation_backward(through_c, squashed, grad_input=through_c))
    w_ci, w_cf, w_co = (None,) * 3 if peephole is None else peephole
    if peephole is not None:
        grad_c.addcmul_(da_o, w_co)
    through_g = torch.mul(grad_c, i, out=through_c)
    scratch = torch.mul(grad_c, g, out=squashed)
    _sigmoid_backward(scratch, i, grad_input=da_i)
    activation_backward(through_g, g, grad_input=da_g)
    torch.mul(grad_c, c_prev, out=scratch)
    grad_c.mul_(f)
    _sigmoid_backward(scratch, f, grad_input=da_f)
    if peephole is not None:
        grad_c.addcmul_(da_i, w_ci).addcmul_(da_f, w_cf)
    if result is not grad_preact:
        grad_preact.copy_(result)


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
