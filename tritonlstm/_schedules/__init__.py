"""The two ways to compute W * [X_t ; H_{t-1}] over a sequence, and their gradients.

`concat` runs one convolution a step over hidden state and input, which lie side by side in memory. `hoisted` convolves
the input of many steps at once and the hidden state step by step; the gates add the two. For the backward pass both
keep input and output themselves.

Each has a `Forward` and a `Backward` with the same arguments and methods, though neither uses all of them, so that
`_sequence` has one time loop for both.
"""

from types import ModuleType

from . import concat, hoisted
from .operands import Needs, Saved, Weights


def schedule(is_hoisted: bool) -> ModuleType:
    return hoisted if is_hoisted else concat


__all__ = ["Needs", "Saved", "Weights", "schedule"]
