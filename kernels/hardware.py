"""eˣ, a / b and tanh by the instructions that NVIDIA's GPUs have for 2ˣ, 1/x and tanh.

Triton's own exp and division keep subnormal numbers and round better, in eight instructions more. AMD's GPUs and the
interpreter do as Triton does.
"""

import triton
import triton.language as tl


def is_nvidia(_semantic=None) -> bool:
    """Whether a kernel is compiled for one of NVIDIA's GPUs; the interpreter, unlike a compiler, gives no `_semantic`.

    What is compiled for, not which device is there: kernels are also compiled ahead of time.
    """
    return _semantic is not None and _semantic.builder.options.backend_name == "cuda"


is_nvidia.__triton_builtin__ = True  # the compiler calls such functions, and passes them `_semantic`


@triton.jit
def exp(x, FACTOR: tl.constexpr):
    """e to the power of FACTOR · x, within 2 ulp and the rounding of the exponent; what is subnormal is zero."""
    if is_nvidia():
        power = x * (FACTOR * 1.4426950408889634)
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [power], tl.float32, True, 1)
    else:
        return tl.exp(FACTOR * x)


@triton.jit
def divide(a, b):
    """a / b, within 1 ulp of 1 / b and the rounding of the product; zero for b beyond 2¹²⁶."""
    if is_nvidia():
        return a * tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [b], tl.float32, True, 1)
    else:
        return a / b
