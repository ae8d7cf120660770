"""Tiles of the flattened (M, C) rows.

A program handles BLOCK consecutive elements of an (M, C) tensor, across row ends, so that no lane idles whatever C is.
Tensors with other rows, (M, 4C) gates or a slot of wider rows, are addressed from the element's row and channel. What
belongs to the whole tile is a 64-bit scalar; what belongs to a lane is a 32-bit offset from it.

An access may be as wide as what divides all rows of a tensor, 16 bytes at most. Whether the first row allows that is
told by ALIGNED, and not by Triton's own look at each pointer, which asks for 16 bytes whatever the rows allow: steps of
a sequence that lie behind one another would differ in it, and a kernel be compiled for each way in which they do.
"""

import triton
import triton.language as tl


@triton.jit
def locate(i_tile, n_rows, C: tl.constexpr, BLOCK: tl.constexpr):
    """The tile's first row (64 bits), and for each lane its row counted from there, its channel and its mask."""
    start = i_tile.to(tl.int64) * BLOCK
    i_row = start // C
    # Not start % C: Triton's alignment analysis forgets what divides a scalar remainder.
    o_lane = (start - i_row * C).to(tl.int32) + tl.arange(0, BLOCK)
    o_row = o_lane // C
    o_channel = o_lane % C
    remaining = tl.minimum(n_rows.to(tl.int64) * C - start, BLOCK).to(tl.int32)
    return i_row, o_row, o_channel, tl.arange(0, BLOCK) < remaining


@triton.jit
def row_pointer(ptr, i_row, stride: tl.constexpr, ALIGNED: tl.constexpr):
    """The address of row `i_row` (64 bits) of those that begin at `ptr`, `stride` elements apart."""
    p_row = ptr + i_row * stride
    if ALIGNED:
        nbytes: tl.constexpr = stride * (ptr.dtype.element_ty.primitive_bitwidth // 8)
        p_row = tl.multiple_of(p_row, 16 if nbytes % 16 == 0 else nbytes & -nbytes)
    return p_row


@triton.jit
def peephole_offsets(i_tile, o_channel, n_pixels, PEEPHOLE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    """Each lane's offset in one of the three packed peepholes: (C) if "channel", (n_pixels, C) if "full"."""
    if PEEPHOLE == "channel":
        return o_channel
    else:
        tl.static_assert(PEEPHOLE == "full")
        # One image's H·W·C fits 32 bits: `functional.layer` checks it.
        period = (n_pixels * C).to(tl.int32)
        start = i_tile.to(tl.int64) * BLOCK
        first = (start - start // period * period).to(tl.int32)
        return (first + tl.arange(0, BLOCK)) % period
