"""The gradients of bias and peepholes: sums over images, pixels and a chunk of time.

    db    = Σ da
    dw_ci = Σ da_i ∘ c_prev
    dw_cf = Σ da_f ∘ c_prev
    dw_co = Σ da_o ∘ c

The chunk is seen as `n_repeats` repeats of a period of n_columns = C elements, or H·W·C where the peephole is full:
every column has sums of its own. The repeats are divided among splits. Each program owns the sums of one split and one
block of columns and adds the chunk to them, so no atomics are needed and every run gives the same bits. The splits are
summed at the end.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from .tiles import row_pointer


# Sizes that change with batch and sequence must not compile anew, nor addresses that change with each chunk.
@triton.jit(
    do_not_specialize=["n_repeats", "n_pixels", "repeats_per_split"],
    do_not_specialize_on_alignment=["grad_preact_ptr", "c_prev_ptr", "c_ptr"],
)
def parameter_grads_kernel(
    grad_preact_ptr,  # (n_repeats, n_columns / C, 4C)  da: i, f, g, o
    c_prev_ptr,  # (n_repeats, n_columns)
    c_ptr,  # (n_repeats, n_columns)
    sums_ptr,  # (splits, 7, n_columns)  in and out: db_i, db_f, db_g, db_o, dw_ci, dw_cf, dw_co
    n_repeats,
    n_pixels,  # n_columns / C
    repeats_per_split,
    C: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_PEEPHOLE: tl.constexpr,
    ALIGNED: tl.constexpr,  # whether each pointer to rows is a multiple of what divides these, up to 16 bytes
    LAUNCH_PDL: tl.constexpr,  # whether its launch may begin before the end of the kernel before, for which it waits
    BLOCK_REPEATS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    i_columns, i_split = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    n_columns = n_pixels.to(tl.int64) * C
    o_column = i_columns * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    m_column = o_column < n_columns
    o_gates = (o_column // C) * (4 * C) + o_column % C

    s_i = tl.zeros([BLOCK_REPEATS, BLOCK_COLUMNS], tl.float32)
    s_f = tl.zeros([BLOCK_REPEATS, BLOCK_COLUMNS], tl.float32)
    s_g = tl.zeros([BLOCK_REPEATS, BLOCK_COLUMNS], tl.float32)
    s_o = tl.zeros([BLOCK_REPEATS, BLOCK_COLUMNS], tl.float32)
    s_ci = tl.zeros([BLOCK_REPEATS, BLOCK_COLUMNS], tl.float32)
    s_cf = tl.zeros([BLOCK_REPEATS, BLOCK_COLUMNS], tl.float32)
    s_co = tl.zeros([BLOCK_REPEATS, BLOCK_COLUMNS], tl.float32)
    if LAUNCH_PDL:
        gdc_wait()
    first = i_split * repeats_per_split
    i_row = first * n_pixels
    p_first_grad = row_pointer(grad_preact_ptr, i_row, 4 * C, ALIGNED)
    if HAS_PEEPHOLE:
        p_first_c_prev, p_first_c = row_pointer(c_prev_ptr, i_row, C, ALIGNED), row_pointer(c_ptr, i_row, C, ALIGNED)
    n_mine = tl.minimum(repeats_per_split, n_repeats - first).to(tl.int32)  # one of some hundred splits'
    for i_repeat in range(0, n_mine, BLOCK_REPEATS):
        o_repeat = i_repeat + tl.arange(0, BLOCK_REPEATS)
        mask = (o_repeat < n_mine)[:, None] & m_column[None, :]
        p_grad = p_first_grad + o_repeat[:, None] * (4 * n_columns) + o_gates[None, :]
        b_da_i = tl.load(p_grad, mask=mask, other=0.0).to(tl.float32)
        b_da_f = tl.load(p_grad + C, mask=mask, other=0.0).to(tl.float32)
        b_da_o = tl.load(p_grad + 3 * C, mask=mask, other=0.0).to(tl.float32)
        if HAS_BIAS:
            b_da_g = tl.load(p_grad + 2 * C, mask=mask, other=0.0).to(tl.float32)
            s_i += b_da_i
            s_f += b_da_f
            s_g += b_da_g
            s_o += b_da_o
        if HAS_PEEPHOLE:
            o_state = o_repeat[:, None] * n_columns + o_column[None, :]
            b_c_prev = tl.load(p_first_c_prev + o_state, mask=mask, other=0.0).to(tl.float32)
            b_c = tl.load(p_first_c + o_state, mask=mask, other=0.0).to(tl.float32)
            s_ci += b_da_i * b_c_prev
            s_cf += b_da_f * b_c_prev
            s_co += b_da_o * b_c

    p_sums = sums_ptr + i_split * (7 * n_columns) + o_column
    if HAS_BIAS:
        add_to(p_sums, tl.sum(s_i, 0), m_column)
        add_to(p_sums + n_columns, tl.sum(s_f, 0), m_column)
        add_to(p_sums + 2 * n_columns, tl.sum(s_g, 0), m_column)
        add_to(p_sums + 3 * n_columns, tl.sum(s_o, 0), m_column)
    if HAS_PEEPHOLE:
        add_to(p_sums + 4 * n_columns, tl.sum(s_ci, 0), m_column)
        add_to(p_sums + 5 * n_columns, tl.sum(s_cf, 0), m_column)
        add_to(p_sums + 6 * n_columns, tl.sum(s_co, 0), m_column)


@triton.jit
def add_to(p_sums, b_value, mask):
    """Add to sums that this program alone owns."""
    b_sums = tl.load(p_sums, mask=mask, other=0.0)
    # Where the block has fewer columns than threads, several load one sum and one of them stores it.
    tl.debug_barrier()
    tl.store(p_sums, b_sums + b_value, mask=mask)
