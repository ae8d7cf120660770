"""One step's gates: pre-activations to h_t and c_t.

    i, f, g, o, c                         as in gates.py
    h = o ∘ ψ(c)                          ψ the output's activation, by default the candidate's

Each tensor is read once and written once. h is written to the output and, with HAS_H_NEXT, to a slot of the next
convolution's wider rows or, at the last step, to the final state.

With HAS_MARKS, samples that are held keep h and c, and those with RESET start from the reset state. What is written as
h is then what the next step reads; the output is written apart.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from .activations import activate
from .gates import apply_gates, load_four, store_four
from .marks import BLANK, HOLD, RESET, RESET_NEXT, load_marks
from .tiles import locate, peephole_offsets, row_pointer


# Sizes that change with batch and sequence must not compile anew, nor addresses that change with each step.
@triton.jit(
    do_not_specialize=["n_rows", "n_pixels"],
    do_not_specialize_on_alignment=[
        "preact_ptr",
        "addend_ptr",
        "c_prev_ptr",
        "gates_ptr",
        "c_ptr",
        "h_ptr",
        "h_next_ptr",
        "marks_ptr",
        "h_prev_ptr",
        "reset_h_ptr",
        "reset_c_ptr",
        "output_ptr",
    ],
)
def gates_forward_kernel(
    preact_ptr,  # (M, 4C)  A: i, f, g, o
    addend_ptr,  # (M, 4C)  a second part of A
    bias_ptr,  # (4C)
    peephole_ptr,  # (3, 1 or n_pixels, C)  w_ci, w_cf, w_co
    c_prev_ptr,  # (M, C)
    gates_ptr,  # (M, 4C)  out: i, f, g, o; may be preact_ptr
    c_ptr,  # (M, C)  out; may be c_prev_ptr
    h_ptr,  # (M, C)  out
    h_next_ptr,  # (M, C) in rows of stride_h_next_row  out
    marks_ptr,  # (B)
    h_prev_ptr,  # (M, C)  may be h_ptr
    reset_h_ptr,  # (M, C)
    reset_c_ptr,  # (M, C)
    output_ptr,  # (M, C)  out
    n_rows,  # M
    n_pixels,  # H·W
    C: tl.constexpr,
    stride_h_next_row: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PEEPHOLE: tl.constexpr,  # "none", "channel", "full"
    ACTIVATION: tl.constexpr,  # of g
    RECURRENT_ACTIVATION: tl.constexpr,  # of i, f and o
    OUTPUT_ACTIVATION: tl.constexpr,  # of c
    CELL_CLIP: tl.constexpr,  # the bound of c, or None
    SAVE_GATES: tl.constexpr,
    HAS_H_NEXT: tl.constexpr,
    HAS_MARKS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    ALIGNED: tl.constexpr,  # whether each pointer to rows is a multiple of what divides these, up to 16 bytes
    LAUNCH_PDL: tl.constexpr,  # whether its launch may begin before the end of the kernel before, for which it waits
    BLOCK: tl.constexpr,
):
    i_tile = tl.program_id(0)
    i_row, o_row, o_channel, mask = locate(i_tile, n_rows, C, BLOCK)
    o_state = o_row * C + o_channel
    o_gates = o_row * (4 * C) + o_channel
    if LAUNCH_PDL:
        gdc_wait()

    a_i, a_f, a_g, a_o = load_four(row_pointer(preact_ptr, i_row, 4 * C, ALIGNED) + o_gates, C, mask)
    if HAS_ADDEND:
        x_i, x_f, x_g, x_o = load_four(row_pointer(addend_ptr, i_row, 4 * C, ALIGNED) + o_gates, C, mask)
        a_i += x_i
        a_f += x_f
        a_g += x_g
        a_o += x_o
    b_c_prev = tl.load(row_pointer(c_prev_ptr, i_row, C, ALIGNED) + o_state, mask=mask, other=0.0).to(tl.float32)
    if HAS_MARKS:
        b_marks = load_marks(marks_ptr, i_row, o_row, n_pixels, mask)
        if HAS_RESETS:
            m_reset = (b_marks & RESET) != 0
            p_reset_c = row_pointer(reset_c_ptr, i_row, C, ALIGNED) + o_state
            b_reset_c = tl.load(p_reset_c, mask=mask & m_reset, other=0.0).to(tl.float32)
            b_c_prev = tl.where(m_reset, b_reset_c, b_c_prev)
    if PEEPHOLE != "none":
        p_peephole = peephole_ptr + peephole_offsets(i_tile, o_channel, n_pixels, PEEPHOLE, C, BLOCK)
        period = C if PEEPHOLE == "channel" else n_pixels.to(tl.int64) * C
    else:
        p_peephole, period = peephole_ptr, 0
    p_bias = bias_ptr + o_channel if HAS_BIAS else bias_ptr
    b_i, b_f, b_g, b_o, b_c = apply_gates(
        a_i, a_f, a_g, a_o, b_c_prev, p_bias, p_peephole, period, mask,
        C, HAS_BIAS, PEEPHOLE, ACTIVATION, RECURRENT_ACTIVATION, CELL_CLIP,
    )  # fmt: skip
    b_h = b_o * activate(b_c, OUTPUT_ACTIVATION)
    if HAS_MARKS:
        m_hold = (b_marks & HOLD) != 0
        p_h_prev = row_pointer(h_prev_ptr, i_row, C, ALIGNED) + o_state
        b_h_prev = tl.load(p_h_prev, mask=mask & m_hold, other=0.0).to(tl.float32)
        b_c = tl.where(m_hold, b_c_prev, b_c)
        b_h = tl.where(m_hold, b_h_prev, b_h)
        b_output = tl.where((b_marks & BLANK) != 0, 0.0, b_h)
        p_output = row_pointer(output_ptr, i_row, C, ALIGNED) + o_state
        tl.store(p_output, b_output.to(output_ptr.dtype.element_ty), mask=mask)
        if HAS_RESETS:
            m_next = (b_marks & RESET_NEXT) != 0
            p_reset_h = row_pointer(reset_h_ptr, i_row, C, ALIGNED) + o_state
            b_reset_h = tl.load(p_reset_h, mask=mask & m_next, other=0.0).to(tl.float32)
            b_h = tl.where(m_next, b_reset_h, b_h)

    tl.store(row_pointer(c_ptr, i_row, C, ALIGNED) + o_state, b_c.to(c_ptr.dtype.element_ty), mask=mask)
    tl.store(row_pointer(h_ptr, i_row, C, ALIGNED) + o_state, b_h.to(h_ptr.dtype.element_ty), mask=mask)
    if HAS_H_NEXT:
        p_h_next = row_pointer(h_next_ptr, i_row, stride_h_next_row, ALIGNED) + o_row * stride_h_next_row + o_channel
        tl.store(p_h_next, b_h.to(h_next_ptr.dtype.element_ty), mask=mask)
    if SAVE_GATES:
        store_four(row_pointer(gates_ptr, i_row, 4 * C, ALIGNED) + o_gates, C, mask, b_i, b_f, b_g, b_o)
