"""NVIDIA's approximate functions, with the errors that PTX's documentation allows them.

The machine computes them exactly and then shifts the result by a part of the allowed error: a kernel that is right for
every shift is right for whatever the hardware does within its bounds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .values import flushed

Shift = float | np.random.Generator
"""Part of the allowed error by which results are off, from -1 to 1; or a generator of such parts, for each number."""


@dataclass(frozen=True)
class Approximation:
    """`exact` takes and gives float64. `error`: the largest relative one of a normal result (PTX ISA, 9.7.3)."""

    sources: int
    exact: Callable[..., np.ndarray]
    error: float
    flushes: bool = False

    def __call__(self, shift: Shift, *sources: np.ndarray) -> np.ndarray:
        """float32 of float32."""
        if self.flushes:
            sources = [flushed(source) for source in sources]
        exact = self.exact(*(source.astype(np.float64) for source in sources))
        part = shift if isinstance(shift, float) else shift.uniform(-1.0, 1.0, np.shape(exact))
        # One rounding is part of the documented error.
        result = (exact * (1.0 + part * max(0.0, self.error - 2.0**-24))).astype(np.float32)
        result = np.where(np.isfinite(exact) & np.isinf(result), exact.astype(np.float32), result)
        return flushed(result) if self.flushes else result


def _divide_fast(dividend: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """div.approx: zero for divisors from 2¹²⁶ on, NaN if the dividend is infinite too."""
    huge = (np.abs(divisor) > 2.0**126) & np.isfinite(divisor)
    return np.where(huge, dividend * 0.0, dividend / np.where(huge, 1.0, divisor))


def _rsqrt(value: np.ndarray) -> np.ndarray:
    return 1.0 / np.sqrt(value)


# 2 ulp are at most 2⁻²² of the result, 1 ulp 2⁻²³.
APPROXIMATIONS = {
    "ex2.approx.f32": Approximation(1, np.exp2, 2.0**-22),
    "ex2.approx.ftz.f32": Approximation(1, np.exp2, 2.0**-22, flushes=True),
    "rcp.approx.ftz.f32": Approximation(1, np.reciprocal, 2.0**-23, flushes=True),
    "rsqrt.approx.ftz.f32": Approximation(1, _rsqrt, 2.0**-22.9, flushes=True),
    "div.full.f32": Approximation(2, np.divide, 2.0**-22),
    "div.full.ftz.f32": Approximation(2, np.divide, 2.0**-22, flushes=True),
    "div.approx.f32": Approximation(2, _divide_fast, 2.0**-22),
    "div.approx.ftz.f32": Approximation(2, _divide_fast, 2.0**-22, flushes=True),
    "tanh.approx.f32": Approximation(1, np.tanh, 2.0**-11),
}
