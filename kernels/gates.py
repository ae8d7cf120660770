"""From pre-activations to gates and cell state: for the forward pass, and for a backward pass without saved gates.

i = σ(A_i + b_i + w_ci ∘ c_prev)      σ the recurrent activation, by default the logistic function
f = σ(A_f + b_f + w_cf ∘ c_prev)
g = φ(A_g + b_g)                      φ the activation, by default tanh
c = f ∘ c_prev + i ∘ g                within ±CELL_CLIP, where there is one
o = σ(A_o + b_o + w_co ∘ c)           the new cell state
"""

import triton
import triton.language as tl

from .activations import activate, clip


@triton.jit
def load_four(p_first, C: tl.constexpr, mask):
    """What belongs to i, f, g and o, C elements apart, in float32."""
    b_i = tl.load(p_first, mask=mask, other=0.0).to(tl.float32)
    b_f = tl.load(p_first + C, mask=mask, other=0.0).to(tl.float32)
    b_g = tl.load(p_first + 2 * C, mask=mask, other=0.0).to(tl.float32)
    b_o = tl.load(p_first + 3 * C, mask=mask, other=0.0).to(tl.float32)
    return b_i, b_f, b_g, b_o


@triton.jit
def store_four(p_first, C: tl.constexpr, mask, b_i, b_f, b_g, b_o):
    """The reverse of `load_four`, in the pointer's dtype."""
    dtype: tl.constexpr = p_first.dtype.element_ty
    tl.store(p_first, b_i.to(dtype), mask=mask)
    tl.store(p_first + C, b_f.to(dtype), mask=mask)
    tl.store(p_first + 2 * C, b_g.to(dtype), mask=mask)
    tl.store(p_first + 3 * C, b_o.to(dtype), mask=mask)


@triton.jit
def apply_gates(
    a_i,  # (BLOCK), as all blocks here, float32
    a_f,
    a_g,
    a_o,
    b_c_prev,
    p_bias,  # of b_i, whose gates lie C elements apart
    p_peephole,  # of w_ci, whose gates lie `period` elements apart
    period,
    mask,
    C: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PEEPHOLE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RECURRENT_ACTIVATION: tl.constexpr,
    CELL_CLIP: tl.constexpr,
):
    """The blocks of i, f, g, o and c, from those of A."""
    if HAS_BIAS:
        bias_i, bias_f, bias_g, bias_o = load_four(p_bias, C, mask)
        a_i += bias_i
        a_f += bias_f
        a_g += bias_g
        a_o += bias_o
    if PEEPHOLE != "none":
        a_i += tl.load(p_peephole, mask=mask, other=0.0).to(tl.float32) * b_c_prev
        a_f += tl.load(p_peephole + period, mask=mask, other=0.0).to(tl.float32) * b_c_prev
    b_i = activate(a_i, RECURRENT_ACTIVATION)
    b_f = activate(a_f, RECURRENT_ACTIVATION)
    b_g = activate(a_g, ACTIVATION)
    b_c = clip(b_f * b_c_prev + b_i * b_g, CELL_CLIP)
    if PEEPHOLE != "none":
        a_o += tl.load(p_peephole + 2 * period, mask=mask, other=0.0).to(tl.float32) * b_c
    return b_i, b_f, b_g, activate(a_o, RECURRENT_ACTIVATION), b_c
