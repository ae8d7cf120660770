"""What is timed: our layer and its variants, its convolutions alone, and the baselines."""

from .conv_floor import CONV_FLOOR, CONV_FLOOR_CONTIGUOUS
from .eager import (
    COMPILED,
    COMPILED_FUSED_CELL,
    EAGER,
    EAGER_CONTIGUOUS,
    FUSED_CELL,
    MAX_AUTOTUNE,
    MAX_AUTOTUNE_FUSED_CELL,
)
from .jax_layers import FLAX, KERAS
from .ours import OURS, OURS_COMPILED, OURS_WITHOUT_PEEPHOLE, VARIANTS

COMPILERS = [COMPILED, COMPILED_FUSED_CELL, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL]
FLOORS = [CONV_FLOOR, CONV_FLOOR_CONTIGUOUS]
EAGER_FORMATS = [EAGER, EAGER_CONTIGUOUS]
"""One baseline in two memory formats: the better one counts. Likewise the convolutions alone."""
ALL = [
    *(OURS, *FLOORS, *EAGER_FORMATS, OURS_WITHOUT_PEEPHOLE, FUSED_CELL),
    *(*VARIANTS, OURS_COMPILED, *COMPILERS, FLAX, KERAS),
]
