"""One step's gates: pre-activations to h_t and c_t.

    i = σ(A_i + b_i + w_ci ∘ c_prev)
    f = σ(A_f + b_f + w_cf ∘ c_prev)
    g = φ(A_g + b_g)                      φ = tanh or relu
    c = f ∘ c_prev + i ∘ g
    o = σ(A_o + b_o + w_co ∘ c)           the new cell state
    h = o ∘ φ(c)

Each tensor is read once and written once. h goes to two places: the sequence's output, and the slot of the next step's
convolution input, whose rows are wider.
"""

import triton
import triton.language as tl

from .activations import activate, sigmoid
from .tiles import locate, peephole_offsets


# Sizes that change with batch and sequence must not compile anew.
@triton.jit(do_not_specialize=["n_rows", "n_pixels"])
def gates_forward_kernel(
    preact_ptr,  # (M, 4C)  A: i, f, g, o
    bias_ptr,  # (4C)
    peephole_ptr,  # (3, 1 or n_pixels, C)  w_ci, w_cf, w_co
    c_prev_ptr,  # (M, C)
    gates_ptr,  # (M, 4C)  out: i, f, g, o; may be preact_ptr
    c_ptr,  # (M, C)  out; may be c_prev_ptr
    h_ptr,  # (M, C)  out
    h_next_ptr,  # (M, C) in rows of stride_h_next_row  out
    n_rows,  # M
    n_pixels,  # H·W
    C: tl.constexpr,
    stride_h_next_row: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PEEPHOLE: tl.constexpr,  # "none", "channel", "full"
    ACTIVATION: tl.constexpr,  # "tanh", "relu"
    SAVE_GATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_tile = tl.program_id(0)
    i_row, o_row, o_channel, mask = locate(i_tile, n_rows, C, BLOCK)
    o_state = o_row * C + o_channel
    o_gates = o_row * (4 * C) + o_channel

    p_preact = preact_ptr + i_row * (4 * C) + o_gates
    a_i = tl.load(p_preact, mask=mask, other=0.0).to(tl.float32)
    a_f = tl.load(p_preact + C, mask=mask, other=0.0).to(tl.float32)
    a_g = tl.load(p_preact + 2 * C, mask=mask, other=0.0).to(tl.float32)
    a_o = tl.load(p_preact + 3 * C, mask=mask, other=0.0).to(tl.float32)
    b_c_prev = tl.load(c_prev_ptr + i_row * C + o_state, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        p_bias = bias_ptr + o_channel
        a_i += tl.load(p_bias, mask=mask, other=0.0).to(tl.float32)
        a_f += tl.load(p_bias + C, mask=mask, other=0.0).to(tl.float32)
        a_g += tl.load(p_bias + 2 * C, mask=mask, other=0.0).to(tl.float32)
        a_o += tl.load(p_bias + 3 * C, mask=mask, other=0.0).to(tl.float32)
    if PEEPHOLE != "none":
        p_peephole = peephole_ptr + peephole_offsets(i_tile, o_channel, n_pixels, PEEPHOLE, C, BLOCK)
        period = C if PEEPHOLE == "channel" else n_pixels.to(tl.int64) * C
        a_i += tl.load(p_peephole, mask=mask, other=0.0).to(tl.float32) * b_c_prev
        a_f += tl.load(p_peephole + period, mask=mask, other=0.0).to(tl.float32) * b_c_prev

    b_i = sigmoid(a_i)
    b_f = sigmoid(a_f)
    b_g = activate(a_g, ACTIVATION)
    b_c = b_f * b_c_prev + b_i * b_g
    if PEEPHOLE != "none":
        a_o += tl.load(p_peephole + 2 * period, mask=mask, other=0.0).to(tl.float32) * b_c
    b_o = sigmoid(a_o)
    b_h = b_o * activate(b_c, ACTIVATION)

    tl.store(c_ptr + i_row * C + o_state, b_c.to(c_ptr.dtype.element_ty), mask=mask)
    tl.store(h_ptr + i_row * C + o_state, b_h.to(h_ptr.dtype.element_ty), mask=mask)
    p_h_next = h_next_ptr + i_row * stride_h_next_row + o_row * stride_h_next_row + o_channel
    tl.store(p_h_next, b_h.to(h_next_ptr.dtype.element_ty), mask=mask)
    if SAVE_GATES:
        p_gates = gates_ptr + i_row * (4 * C) + o_gates
        tl.store(p_gates, b_i.to(gates_ptr.dtype.element_ty), mask=mask)
        tl.store(p_gates + C, b_f.to(gates_ptr.dtype.element_ty), mask=mask)
        tl.store(p_gates + 2 * C, b_g.to(gates_ptr.dtype.element_ty), mask=mask)
        tl.store(p_gates + 3 * C, b_o.to(gates_ptr.dtype.element_ty), mask=mask)
