"""Kernels of one activation each, in a module that the process which compiles can import."""

import triton
import triton.language as tl
from tritonlstm.kernels import activations


@triton.jit
def apply_kernel(
    x_ptr,  # (N)
    y_ptr,  # (N)  out
    FUNCTION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + offsets, activations.activate(tl.load(x_ptr + offsets), FUNCTION))


@triton.jit
def slope_kernel(
    grad_ptr,  # (N)
    value_ptr,  # (N)
    result_ptr,  # (N)  out
    FUNCTION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    grad, value = tl.load(grad_ptr + offsets), tl.load(value_ptr + offsets)
    tl.store(result_ptr + offsets, activations.apply_slope(grad, value, FUNCTION))
