"""The marks of one step's samples; their meaning stands in tritonlstm/core/marks.py, which has the same numbers."""

import triton
import triton.language as tl

RESET = tl.constexpr(1)
HOLD = tl.constexpr(2)
BLANK = tl.constexpr(4)
RESET_NEXT = tl.constexpr(8)


@triton.jit
def load_marks(marks_ptr, i_row, o_row, n_pixels, mask):
    """The marks of each lane's sample."""
    return tl.load(marks_ptr + (i_row + o_row) // n_pixels, mask=mask, other=0)


@triton.jit
def add_where(p_sums, b_value, mask):
    """Add to float32 sums that this lane alone owns, where `mask` is set."""
    tl.store(p_sums, tl.load(p_sums, mask=mask, other=0.0) + b_value, mask=mask)
