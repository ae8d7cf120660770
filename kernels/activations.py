"""Activations in float32 that stay finite for any finite input, and their slopes as functions of their values; and the
clipping of the cell state with its gradient."""

import triton
import triton.language as tl

from . import hardware
from .hardware import divide, exp, is_nvidia


@triton.jit
def sigmoid(x):
    """σ(x) = 1 / (1 + e⁻ˣ); where e⁻ˣ overflows, 1 / ∞ = 0 is right."""
    return divide(1.0, 1.0 + exp(x, -1.0))


@triton.jit
def hard_sigmoid(x, SCALE: tl.constexpr):
    """clip(SCALE · x + 0.5, 0, 1), through which NaN passes."""
    line = x * SCALE + 0.5
    return tl.where(line <= 0.0, 0.0, tl.where(line >= 1.0, 1.0, line))


@triton.jit
def tanh(x):
    """tanh(|x|) = (1 - e) / (1 + e) with e = e⁻²|ˣ|, which cannot overflow.

    1 - e cancels near zero; there the odd Taylor series stands, to x⁹, whose next term is below 2⁻²⁶ of x.
    """
    magnitude = tl.abs(x)
    e = exp(magnitude, -2.0)
    far = divide(1.0 - e, 1.0 + e)
    square = x * x
    series = 1.0 + square * (-1.0 / 3 + square * (2.0 / 15 + square * (-17.0 / 315 + square * (62.0 / 2835))))
    # NaN fails the comparison and passes through `far`.
    return tl.where(magnitude < 0.25, x * series, tl.where(x < 0.0, -far, far))


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """The activation of this name, as in `tritonlstm.Spec`; NaN passes through each.

    "tanh_to_bfloat16" is tanh where no more than bfloat16's precision is needed: an eighth of its rounding error, 2⁻⁸,
    comes from NVIDIA's own instruction. The cell state, which is float32, has that error of g too. The slope is another
    matter: 1 - tanh² cancels where tanh saturates.
    """
    if ACTIVATION == "tanh":
        return tanh(x)
    elif ACTIVATION == "tanh_to_bfloat16":
        if is_nvidia():
            return hardware.tanh(x)
        else:
            return tanh(x)
    elif ACTIVATION == "sigmoid":
        return sigmoid(x)
    elif ACTIVATION == "relu":
        return tl.where(x <= 0.0, 0.0, x)
    elif ACTIVATION == "leaky_relu":
        return tl.where(x > 0.0, x, x * 0.01)
    elif ACTIVATION == "hard_sigmoid":
        return hard_sigmoid(x, 1.0 / 6.0)
    elif ACTIVATION == "hard_sigmoid_keras2":
        return hard_sigmoid(x, 0.2)
    else:
        tl.static_assert(ACTIVATION == "identity")
        return x


@triton.jit
def apply_slope(grad, value, ACTIVATION: tl.constexpr):
    """grad ∘ the slope of `activate`, given its value."""
    if ACTIVATION == "tanh":
        return grad * (1.0 - value * value)
    elif ACTIVATION == "sigmoid":
        return grad * (value * (1.0 - value))
    elif ACTIVATION == "relu":
        return tl.where(value <= 0.0, 0.0, grad)
    elif ACTIVATION == "leaky_relu":
        return tl.where(value > 0.0, grad, grad * 0.01)
    elif ACTIVATION == "hard_sigmoid":
        return tl.where((value <= 0.0) | (value >= 1.0), 0.0, grad * (1.0 / 6.0))
    elif ACTIVATION == "hard_sigmoid_keras2":
        return tl.where((value <= 0.0) | (value >= 1.0), 0.0, grad * 0.2)
    else:
        tl.static_assert(ACTIVATION == "identity")
        return grad


@triton.jit
def clip(x, BOUND: tl.constexpr):
    """x within ±BOUND, where there is a bound; NaN passes."""
    if BOUND is None:
        return x
    else:
        return tl.where(x <= -BOUND, -BOUND, tl.where(x >= BOUND, BOUND, x))


@triton.jit
def stop_at_bound(grad, value, BOUND: tl.constexpr):
    """The gradient through `clip`, given its value: zero at the bounds."""
    if BOUND is None:
        return grad
    else:
        return tl.where(tl.abs(value) >= BOUND, 0.0, grad)
