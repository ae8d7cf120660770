"""What of its arguments a kernel writes, and which it does not read."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from tritonlstm.core.marks import RESET, RESET_NEXT

from .fault import Unsupported


def parts_written(function: Callable, arguments: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    """The parts of each tensor that a kernel must write whole, and beside which it may write nothing.

    The comments of its source say which tensors it writes. All of one that is `# (M, C)  out; may be c_prev_ptr` or
    `# (M, C)  in: …; out: …`; of one that is `# (splits, 7, n_columns)  in and out: …`, sums, what SUMS says.
    """
    written = {}
    for name, comment in _outputs(function).items():
        tensor, adds = arguments[name], "in and out" in comment
        if isinstance(tensor, Tensor):
            if adds and name not in SUMS:
                raise Unsupported(f"{name} is in and out, and nothing says which parts of it are written")
            written[name] = SUMS[name](tensor, arguments) if adds else [tensor]
    return written


def only_written(function: Callable) -> set[str]:
    """The pointers to what a kernel writes and does not read: before it does, anything may be there."""
    return {name for name, comment in _outputs(function).items() if not re.search(r"\bin( and|:)", comment)}


@functools.cache
def _outputs(function: Callable) -> dict[str, str]:
    """The pointers that a kernel writes, with their comments."""
    comments = re.findall(r"(\w+_ptr),\s*# (.*)", inspect.getsource(function))
    return {name: comment for name, comment in comments if re.search(r"\bout\b", comment)}


def _of_parameters(sums: Tensor, arguments: Mapping[str, Any]) -> list[Tensor]:
    """Four rows of the bias and three of the peepholes, in each split."""
    first, last = 0 if arguments["HAS_BIAS"] else 4, 7 if arguments["HAS_PEEPHOLE"] else 4
    return [sums[:, first:last]]


def _of_samples(mark: int) -> Callable[[Tensor, Mapping[str, Any]], list[Tensor]]:
    """The rows of the samples that have the mark."""
    return lambda sums, arguments: [rows for rows, bits in zip(sums, arguments["marks_ptr"].tolist()) if bits & mark]


SUMS = {
    "sums_ptr": _of_parameters,
    "grad_reset_h_ptr": _of_samples(RESET_NEXT),
    "grad_reset_c_ptr": _of_samples(RESET),
}
"""The parts of sums that a launch with these arguments adds to, by the pointer's name."""
