"""One step's gate gradients: dH_t and dC_t to dA_t and dC_{t-1}.

    dh   = grad_output + grad_h
    da_o = dh ∘ ψ(c) ∘ σ'(A_o)
    dc   = grad_c + dh ∘ o ∘ ψ'(c) + da_o ∘ w_co     0 where c was clipped
    da_i = dc ∘ g ∘ σ'(A_i)
    da_f = dc ∘ c_prev ∘ σ'(A_f)
    da_g = dc ∘ i ∘ φ'(A_g)
    dc_prev = dc ∘ f + da_i ∘ w_ci + da_f ∘ w_cf

The slopes are functions of the activations' values. c is recomputed rather than loaded, unless it is clipped: four
bytes an element less to read. Where the gates were not kept, they too are recomputed, from their pre-activations, as in
gates.py.

With HAS_MARKS, dH_t and dC_t of a sample that is held pass to the step before as they are, and those of one that is
reset end in the gradients of the reset state.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from .activations import activate, apply_slope, stop_at_bound
from .gates import apply_gates, load_four, store_four
from .marks import BLANK, HOLD, RESET, RESET_NEXT, add_where, load_marks
from .tiles import locate, peephole_offsets, row_pointer


# Sizes that change with batch and sequence must not compile anew, nor addresses that change with each step.
@triton.jit(
    do_not_specialize=[
        "n_rows",
        "n_pixels",
        "width",
        "stride_grad_output_b",
        "stride_grad_output_h",
        "stride_grad_output_w",
        "stride_grad_output_c",
    ],
    do_not_specialize_on_alignment=[
        "gates_ptr",
        "c_prev_ptr",
        "c_ptr",
        "grad_output_ptr",
        "grad_h_ptr",
        "grad_c_ptr",
        "grad_preact_ptr",
        "marks_ptr",
        "reset_c_ptr",
        "grad_held_ptr",
        "grad_reset_h_ptr",
        "grad_reset_c_ptr",
    ],
)
def gates_backward_kernel(
    gates_ptr,  # (M, 4C)  i, f, g, o, or their pre-activations
    bias_ptr,  # (4C)  for pre-activations
    peephole_ptr,  # (3, 1 or n_pixels, C)  w_ci, w_cf, w_co
    c_prev_ptr,  # (M, C)
    c_ptr,  # (M, C)  where it is clipped
    grad_output_ptr,  # (B, H, W, C) with its own strides
    grad_h_ptr,  # (M, C) in rows of stride_grad_h_row, from the step after
    grad_c_ptr,  # (M, C)  in: dC_t from the step after; out: dC_{t-1}
    grad_preact_ptr,  # (M, 4C)  out; may be gates_ptr
    marks_ptr,  # (B)
    reset_c_ptr,  # (M, C)
    grad_held_ptr,  # (M, C)  in: of dH_t, what bypassed the step after; out: of dH_{t-1}, what bypasses this one
    grad_reset_h_ptr,  # (M, C)  in and out: sums
    grad_reset_c_ptr,  # (M, C)  in and out: sums
    n_rows,  # M
    n_pixels,  # H·W
    width,  # W
    stride_grad_output_b,
    stride_grad_output_h,
    stride_grad_output_w,
    stride_grad_output_c,
    C: tl.constexpr,
    stride_grad_h_row: tl.constexpr,
    ACTIVATED: tl.constexpr,  # whether gates_ptr has gates
    HAS_BIAS: tl.constexpr,
    PEEPHOLE: tl.constexpr,  # "none", "channel", "full"
    ACTIVATION: tl.constexpr,  # of g
    RECURRENT_ACTIVATION: tl.constexpr,  # of i, f and o
    OUTPUT_ACTIVATION: tl.constexpr,  # of c
    CELL_CLIP: tl.constexpr,  # the bound of c, or None
    GRAD_OUTPUT: tl.constexpr,  # "none", "dense": as (M, C), "strided"
    HAS_MARKS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    GRAD_RESETS: tl.constexpr,  # whether the gradients of the reset state are summed
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

    p_grad_h = row_pointer(grad_h_ptr, i_row, stride_grad_h_row, ALIGNED) + o_row * stride_grad_h_row + o_channel
    b_dh = tl.load(p_grad_h, mask=mask, other=0.0).to(tl.float32)
    m_output = mask
    if HAS_MARKS:
        b_marks = load_marks(marks_ptr, i_row, o_row, n_pixels, mask)
        p_grad_held = row_pointer(grad_held_ptr, i_row, C, ALIGNED) + o_state
        b_dh += tl.load(p_grad_held, mask=mask, other=0.0)
        if HAS_RESETS:
            m_next = (b_marks & RESET_NEXT) != 0
            if GRAD_RESETS:
                add_where(row_pointer(grad_reset_h_ptr, i_row, C, ALIGNED) + o_state, b_dh, mask & m_next)
            b_dh = tl.where(m_next, 0.0, b_dh)
        m_output = mask & ((b_marks & BLANK) == 0)
    if GRAD_OUTPUT == "dense":
        p_grad_output = row_pointer(grad_output_ptr, i_row, C, ALIGNED) + o_state
        b_dh += tl.load(p_grad_output, mask=m_output, other=0.0).to(tl.float32)
    elif GRAD_OUTPUT == "strided":
        row = i_row + o_row
        image = row // n_pixels
        pixel = row % n_pixels
        p_grad_output = grad_output_ptr + image * stride_grad_output_b
        p_grad_output += o_channel.to(tl.int64) * stride_grad_output_c
        p_grad_output += (pixel // width) * stride_grad_output_h + (pixel % width) * stride_grad_output_w
        b_dh += tl.load(p_grad_output, mask=m_output, other=0.0).to(tl.float32)
    else:
        tl.static_assert(GRAD_OUTPUT == "none")

    p_gates = row_pointer(gates_ptr, i_row, 4 * C, ALIGNED) + o_gates
    if ACTIVATED:
        b_i, b_f, b_g, b_o = load_four(p_gates, C, mask)
    else:
        a_i, a_f, a_g, a_o = load_four(p_gates, C, mask)
    b_c_prev = tl.load(row_pointer(c_prev_ptr, i_row, C, ALIGNED) + o_state, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESETS:
        m_reset = (b_marks & RESET) != 0
        p_reset_c = row_pointer(reset_c_ptr, i_row, C, ALIGNED) + o_state
        b_reset_c = tl.load(p_reset_c, mask=mask & m_reset, other=0.0).to(tl.float32)
        b_c_prev = tl.where(m_reset, b_reset_c, b_c_prev)
    p_grad_c = row_pointer(grad_c_ptr, i_row, C, ALIGNED) + o_state
    b_dc = tl.load(p_grad_c, mask=mask, other=0.0).to(tl.float32)
    b_dc_next = b_dc
    if PEEPHOLE != "none":
        p_peephole = peephole_ptr + peephole_offsets(i_tile, o_channel, n_pixels, PEEPHOLE, C, BLOCK)
        period = C if PEEPHOLE == "channel" else n_pixels.to(tl.int64) * C
    else:
        p_peephole, period = peephole_ptr, 0
    if ACTIVATED:
        b_c = b_f * b_c_prev + b_i * b_g
    else:
        p_bias = bias_ptr + o_channel if HAS_BIAS else bias_ptr
        b_i, b_f, b_g, b_o, b_c = apply_gates(
            a_i, a_f, a_g, a_o, b_c_prev, p_bias, p_peephole, period, mask,
            C, HAS_BIAS, PEEPHOLE, ACTIVATION, RECURRENT_ACTIVATION, CELL_CLIP,
        )  # fmt: skip

    if CELL_CLIP is not None:  # recomputed from rounded gates, a c at its bound may be below it
        b_c = tl.load(row_pointer(c_ptr, i_row, C, ALIGNED) + o_state, mask=mask, other=0.0).to(tl.float32)
    b_squashed = activate(b_c, OUTPUT_ACTIVATION)
    b_da_o = apply_slope(b_dh * b_squashed, b_o, RECURRENT_ACTIVATION)
    b_dc += apply_slope(b_dh * b_o, b_squashed, OUTPUT_ACTIVATION)
    if PEEPHOLE != "none":
        b_dc += b_da_o * tl.load(p_peephole + 2 * period, mask=mask, other=0.0).to(tl.float32)
    b_dc = stop_at_bound(b_dc, b_c, CELL_CLIP)
    b_da_i = apply_slope(b_dc * b_g, b_i, RECURRENT_ACTIVATION)
    b_da_f = apply_slope(b_dc * b_c_prev, b_f, RECURRENT_ACTIVATION)
    b_da_g = apply_slope(b_dc * b_i, b_g, ACTIVATION)
    b_dc_prev = b_dc * b_f
    if PEEPHOLE != "none":
        b_dc_prev += b_da_i * tl.load(p_peephole, mask=mask, other=0.0).to(tl.float32)
        b_dc_prev += b_da_f * tl.load(p_peephole + period, mask=mask, other=0.0).to(tl.float32)

    if HAS_MARKS:
        m_hold = (b_marks & HOLD) != 0
        b_da_i = tl.where(m_hold, 0.0, b_da_i)
        b_da_f = tl.where(m_hold, 0.0, b_da_f)
        b_da_g = tl.where(m_hold, 0.0, b_da_g)
        b_da_o = tl.where(m_hold, 0.0, b_da_o)
        b_dc_prev = tl.where(m_hold, b_dc_next, b_dc_prev)
        tl.store(p_grad_held, tl.where(m_hold, b_dh, 0.0), mask=mask)
        if HAS_RESETS:
            if GRAD_RESETS:
                add_where(row_pointer(grad_reset_c_ptr, i_row, C, ALIGNED) + o_state, b_dc_prev, mask & m_reset)
            b_dc_prev = tl.where(m_reset, 0.0, b_dc_prev)

    p_grad_preact = row_pointer(grad_preact_ptr, i_row, 4 * C, ALIGNED) + o_gates
    store_four(p_grad_preact, C, mask, b_da_i, b_da_f, b_da_g, b_da_o)
    tl.store(p_grad_c, b_dc_prev.to(grad_c_ptr.dtype.element_ty), mask=mask)
