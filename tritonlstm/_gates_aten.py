"""The gates and their gradients in ATen calls: for the CPU, and for float64 anywhere.

The same three operations as `_launch`, with the same arguments, so that `_sequence` need not know which it calls. They
compute in the dtype of c, write where they are told and read every tensor through its strides. The symbols are those of
kernels/DERIVATION.md.
"""

import torch
from torch import Tensor

from ._layout import Layout

BIAS_IN_CONVOLUTION = True
"""The convolution adds the bias for nothing; here it would cost a pass over 4C channels."""

INFERENCE_SLOTS = 1
"""One slot serves every step of inference: X is copied step by step, which costs little here, and less memory is
touched."""

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


_HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"

_ACTIVATIONS = {
    "tanh": (_tanh_by_expm1 if _HAS_AVX512 else torch.tanh, torch.ops.aten.tanh_backward.grad_input),
    "relu": (_relu, _relu_backward),
}


def _split(gates: Tensor) -> tuple[Tensor, ...]:
    """(B, *spatial, 4C) as four views (B, *spatial, C): i, f, g, o."""
    return gates.chunk(4, dim=-1)


def _peephole_rows(peephole: Tensor, layout: Layout) -> Tensor:
    """(3, pixels or 1, C) in the shape that broadcasts against (B, *spatial, C)."""
    spatial = layout.spatial if peephole.shape[1] == layout.pixels else (1,) * len(layout.spatial)
    return peephole.view(3, *spatial, layout.channels)


def gates_forward(
    layout: Layout,
    preact: Tensor,
    addend: Tensor | None,
    bias: Tensor | None,
    peephole: Tensor | None,
    c_prev: Tensor | None,
    *,
    activation: str,
    gates: Tensor | None,
    c: Tensor,
    h: Tensor,
    h_next: Tensor | None,
) -> None:
    """One step's gates; see `_launch.gates_forward` for the shapes. `preact` is overwritten."""
    assert bias is None, "the convolution has added it"
    activate, _ = _ACTIVATIONS[activation]
    preact = preact.to(c.dtype)
    if addend is not None:
        preact += addend
    in_place = gates is None or gates.dtype != c.dtype
    activated = preact if in_place else gates
    _activate(layout, preact, peephole, c_prev, activation=activation, gates=activated, c=c)
    squashed = activate(c, out=torch.empty_like(c))
    torch.mul(_split(activated)[3], squashed, out=h)
    if h_next is not None:
        h_next.copy_(h)
    if gates is not None and in_place:
        gates.copy_(activated)


def _activate(
    layout: Layout,
    preact: Tensor,
    peephole: Tensor | None,
    c_prev: Tensor | None,
    *,
    activation: str,
    gates: Tensor,
    c: Tensor,
) -> None:
    """Pre-activations to gates, which may be the same tensor, and c, which may be c_prev. `preact` is overwritten."""
    activate, _ = _ACTIVATIONS[activation]
    a_i, a_f, a_g, a_o = _split(preact)
    i, f, g, o = _split(gates)
    if peephole is not None:
        w_ci, w_cf, w_co = _peephole_rows(peephole.to(preact.dtype), layout)
        if c_prev is not None:
            a_i.addcmul_(w_ci, c_prev)
            a_f.addcmul_(w_cf, c_prev)
    channels = layout.channels
    torch.sigmoid(preact[..., : 2 * channels], out=gates[..., : 2 * channels])
    activate(a_g, out=g)
    if c_prev is None:
        torch.mul(i, g, out=c)
    else:
        torch.mul(f, c_prev, out=c)
        c.addcmul_(i, g)
    if peephole is not None:
        a_o.addcmul_(w_co, c)
    torch.sigmoid(a_o, out=o)


def gates_backward(
    layout: Layout,
    gates: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
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
    gates = gates.to(grad_c.dtype)
    c = torch.empty_like(grad_c)
    i, f, g, o = _split(gates)
    if activated:
        torch.mul(f, c_prev, out=c).addcmul_(i, g)
    else:
        _activate(layout, gates, peephole, c_prev, activation=activation, gates=gates, c=c)
    result = grad_preact if grad_preact.dtype == grad_c.dtype else gates
    da_i, da_f, da_g, da_o = _split(result)

    squashed = activate(c, out=c)
    dh = grad_h.to(grad_c.dtype)
    if grad_output is not None:
        dh = dh + grad_output
    through_c = torch.mul(dh, o)
    _sigmoid_backward(torch.mul(dh, squashed), o, grad_input=da_o)
    grad_c.add_(activation_backward(through_c, squashed, grad_input=through_c))
    if peephole is not None:
        w_ci, w_cf, w_co = _peephole_rows(peephole.to(grad_c.dtype), layout)
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
        rows = grad_preact.view(-1, 4 * self._layout.channels)
        if self._bias is not None:
            self._bias += rows.sum(0, dtype=self._bias.dtype)
        if self._peephole is None:
            return
        pixels = self._peephole.shape[1]
        da_i, da_f, _, da_o = _split(grad_preact)
        for index, (da, cell) in enumerate(((da_i, c_prev), (da_f, c_prev), (da_o, c))):
            products = torch.mul(da, cell)
            self._peephole[index] += products.view(-1, pixels, self._layout.channels).sum(0)

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        return self._bias, self._peephole
