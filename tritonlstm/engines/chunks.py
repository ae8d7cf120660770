"""The memory bound of the backward pass: in how many chunks of time it runs."""

import math

from ..core.arguments import Saved
from ..core.layout import Layout

CHUNK_FRACTION = 8
"""The tensors kept per step of a chunk take at most 1/CHUNK_FRACTION of what the layer saves in any case: output, c and
gates. Chosen for memory: six to eight chunks of a long sequence where Cin ≤ C, more where the gates are
recomputed. Not measured on a GPU."""

CHUNK_BYTES = 2**21
"""A chunk may always take this much: per-chunk overhead dominates short steps."""


def chunks(saved: Saved, layout: Layout, width: int) -> list[tuple[int, int]]:
    """Ranges of steps (first, last), the latest first. `width` channels of a row are kept for each of their steps."""
    if not layout.rows:
        return []
    held = saved.output.nbytes + saved.cells.nbytes + saved.gates.nbytes
    length = chunk_length(layout.steps, held, layout.rows * width * saved.gates.element_size())
    return [(first, min(first + length, layout.steps)) for first in reversed(range(0, layout.steps, length))]


def chunk_length(steps: int, held: int, step: int) -> int:
    """Steps of a chunk: as few chunks as the bounds allow, all about as long, of one step at least.

    The layer itself holds `held` bytes, each step of a chunk takes `step`.
    """
    length = max(1, max(held // CHUNK_FRACTION, CHUNK_BYTES) // step)
    return math.ceil(steps / math.ceil(steps / length))
