"""The gates and their gradients in ATen calls: for the CPU, and for float64 anywhere.

They compute in c's dtype, write into preallocated tensors, and accept inputs with any strides. The symbols are those of
kernels/DERIVATION.md. Saved gates are (T, 4, B, *spatial, C), each of the four dense: slices of (…, 4C) rows
are slower to compute on.

Rows need not be NHWC in memory: a step's tensors keep the order of the dimensions that its pre-activations have.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.dtypes import cell_dtype
from ..core.layout import Layout, to_rows
from ..core.spec import Spec
from .marks import backward_marked, forward_marked
from .step import BackwardStep, ForwardStep

aten = torch.ops.aten


class Activation(NamedTuple):
    """`apply(x, out=)` may work in place; `backward(grad, value)` writes to `grad`, from the activation's value."""

    apply: Callable[..., Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


_FEW = 8192
"""Elements up to which one call of torch.tanh takes less time than the five of `_tanh` (bench/NOTES.md)."""


def _tanh(x: Tensor, *, out: Tensor) -> Tensor:
    """tanh(x) = u / (u + 2), u = expm1(2x), within 2 ulp; no slower than torch.tanh (bench/NOTES.md)."""
    if x.numel() <= _FEW:
        return torch.tanh(x, out=out)
    torch.mul(x, 2, out=out).clamp_(max=40).expm1_()
    return out.div_(out + 2)


def _hard_sigmoid(scale: float) -> Activation:
    """clip(scale · x + 0.5, 0, 1), whose slope is zero where the value is 0 or 1."""

    def apply(x: Tensor, *, out: Tensor) -> Tensor:
        return torch.mul(x, scale, out=out).add_(0.5).clamp_(0, 1)

    def backward(grad: Tensor, value: Tensor) -> Tensor:
        return grad.mul_(((value > 0) & (value < 1)).to(grad.dtype).mul_(scale))

    return Activation(apply, backward)


ACTIVATIONS = {
    "tanh": Activation(_tanh, lambda grad, value: aten.tanh_backward.grad_input(grad, value, grad_input=grad)),
    "relu": Activation(
        lambda x, *, out: torch.clamp_min(x, 0, out=out),
        lambda grad, value: aten.threshold_backward.grad_input(grad, value, 0, grad_input=grad),
    ),
    "leaky_relu": Activation(
        lambda x, *, out: aten.leaky_relu.out(x, 0.01, out=out),
        lambda grad, value: aten.leaky_relu_backward.grad_input(grad, value, 0.01, True, grad_input=grad),
    ),
    "identity": Activation(lambda x, *, out: out.copy_(x), lambda grad, value: grad),
    "sigmoid": Activation(
        torch.sigmoid, lambda grad, value: aten.sigmoid_backward.grad_input(grad, value, grad_input=grad)
    ),
    "hard_sigmoid": _hard_sigmoid(1 / 6),
    "hard_sigmoid_keras2": _hard_sigmoid(0.2),
}


def _widen(x: Tensor, out: Tensor) -> Tensor:
    """x in the dtype of `out`, which may be overwritten."""
    return x if x.dtype == out.dtype else out.copy_(x)


class AtenCell:
    def __init__(self, layout: Layout, spec: Spec, like: Tensor, bias: Tensor | None, peephole: Tensor | None):
        self._layout, self._recomputes = layout, spec.recomputes
        self._activation, self._squash = ACTIVATIONS[spec.activation], ACTIVATIONS[spec.activation_of_c]
        self._recurrent_activation = ACTIVATIONS[spec.recurrent_activation]
        self._clip = spec.cell_clip
        # A convolution adds the bias at no cost; here it would take a pass over 4C channels.
        self.bias = None if bias is None else bias.to(like.dtype).contiguous()
        self._peephole, self._peepholes = None, (None,) * 3
        if peephole is not None:
            self._peephole = peephole.to(cell_dtype(like.dtype))
            self._peepholes = self._peephole.unbind()

    @staticmethod
    def rows(images: Tensor) -> Tensor:
        return to_rows(images)

    @staticmethod
    def new_gates(like: Tensor, steps: int) -> Tensor:
        size = like.numel()
        return like.new_empty_strided((steps, 4, *like.shape), (4 * size, size, *like.stride()))

    def preact_buffers(self, gates: Tensor) -> list[Tensor | None]:
        return [None] * self._layout.steps

    def forward(self, step: ForwardStep) -> None:
        if step.marks is not None:
            forward_marked(self.forward, step)
            return
        activate, c, c_prev = self._activation.apply, step.c, step.c_prev
        preact = step.preact if step.preact.dtype == c.dtype else step.preact.to(c.dtype)
        if step.addend is not None:
            preact += step.addend
        a_i, a_f, a_g, a_o = preact.chunk(4, dim=-1)
        w_ci, w_cf, w_co = self._peepholes
        scratch, gates = torch.empty_like(c), None
        if step.gates is None:
            other = torch.empty_like(c)
            i, f, g, o = scratch, other, other, scratch
        else:
            gates = step.gates if step.gates.dtype == c.dtype else torch.empty_like(step.gates, dtype=c.dtype)
            other = scratch
            i, f, g, o = gates.unbind()
        self._gate(a_i, w_ci, c_prev, out=i)
        i_g = torch.mul(i, activate(a_g, out=g), out=scratch)
        self._gate(a_f, w_cf, c_prev, out=f)
        torch.addcmul(i_g, f, c_prev, out=c)
        if self._clip is not None:
            c.clamp_(-self._clip, self._clip)
        self._gate(a_o, w_co, c, out=o)
        squashed = self._squash.apply(c, out=other)
        if step.h_next is None:
            torch.mul(o, squashed, out=step.h)
        else:
            step.h.copy_(torch.mul(o, squashed, out=step.h_next))
        if gates is not step.gates:
            step.gates.copy_(gates)

    def _gate(self, preact: Tensor, peephole: Tensor | None, c: Tensor, *, out: Tensor) -> Tensor:
        """σ(preact + peephole ∘ c), σ the recurrent activation."""
        preact = _widen(preact, out) if peephole is None else torch.addcmul(preact, peephole, c, out=out)
        return self._recurrent_activation.apply(preact, out=out)

    def backward(self, step: BackwardStep) -> None:
        if step.marks is not None:
            backward_marked(self.backward, step)
            return
        # Of pre-activations one gate is recomputed at a time, since its gradient may overwrite them.
        activate, slope = self._activation
        gate_slope = self._recurrent_activation.backward
        c, c_prev, grad_c = step.c, step.c_prev, step.grad_c
        dtype, recomputes = grad_c.dtype, self._recomputes
        w_ci, w_cf, w_co = self._peepholes
        a_i, a_f, a_g, a_o = step.gates.chunk(4, dim=-1) if recomputes else step.gates.unbind()
        da_i, da_f, da_g, da_o = step.grad_preact.chunk(4, dim=-1)
        recomputed = torch.empty_like(c) if recomputes else None

        def gate(a: Tensor, w: Tensor | None, cell: Tensor) -> Tensor:
            return self._gate(a, w, cell, out=recomputed) if recomputes else a.to(dtype)

        dh, squashed, through = (torch.empty_like(c) for _ in range(3))
        if step.grad_output is None:
            dh.copy_(step.grad_h)
        else:
            torch.add(step.grad_h.to(dtype), step.grad_output, out=dh)
        self._squash.apply(c, out=squashed)
        o = gate(a_o, w_co, c)
        torch.mul(dh, o, out=through)
        of_o = gate_slope(dh.mul_(squashed), o)
        da_o.copy_(of_o)
        grad_c.add_(self._squash.backward(through, squashed))
        if w_co is not None:
            grad_c.addcmul_(of_o, w_co)
        if self._clip is not None:
            aten.hardtanh_backward.grad_input(grad_c, c, -self._clip, self._clip, grad_input=grad_c)

        i = gate(a_i, w_ci, c_prev)
        g = activate(_widen(a_g, squashed), out=squashed) if recomputes else a_g.to(dtype)
        of_i = gate_slope(torch.mul(grad_c, g, out=dh), i)
        da_i.copy_(of_i)
        da_g.copy_(slope(torch.mul(grad_c, i, out=through), g))

        f = gate(a_f, w_cf, c_prev)
        of_f = gate_slope(torch.mul(grad_c, c_prev, out=through), f)
        da_f.copy_(of_f)
        grad_c.mul_(f)
        if w_ci is not None:
            grad_c.addcmul_(of_i, w_ci).addcmul_(of_f, w_cf)

    def parameter_grads(self, like: Tensor, *, bias: bool, peephole: bool) -> "AtenParameterGrads":
        return AtenParameterGrads(
            like.new_zeros(4 * self._layout.channels) if bias else None,
            torch.zeros_like(self._peephole) if peephole else None,
        )


class AtenParameterGrads:
    """`bias` (4C) and `peephole` (3, *spatial or ones, C), None where they are not wanted, hold the sums."""

    def __init__(self, bias: Tensor | None, peephole: Tensor | None):
        self._bias, self._peephole = bias, peephole

    def add(self, grad_preact: Tensor, c_prev: Tensor, c: Tensor) -> None:
        if self._bias is not None:
            self._bias += grad_preact.sum(list(range(grad_preact.dim() - 1)), dtype=self._bias.dtype)
        if self._peephole is not None:
            da_i, da_f, _, da_o = grad_preact.chunk(4, dim=-1)
            for total, da, cell in zip(self._peephole, (da_i, da_f, da_o), (c_prev, c_prev, c)):
                total += torch.mul(da, cell).sum_to_size(total.shape)

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        return self._bias, self._peephole
