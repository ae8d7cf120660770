"""The contenders, one file for each family."""

from .compiled import COMPILED, MAX_AUTOTUNE
from .conv_floor import CONV_FLOOR
from .eager import EAGER
from .flax_cell import FLAX
from .fused_cell import FUSED_CELL
from .keras_layer import KERAS
from .ours import OURS, OURS_WITHOUT_PEEPHOLE, VARIANTS
from .protocol import Built, Provider, Results

ALL = [OURS, CONV_FLOOR, EAGER, OURS_WITHOUT_PEEPHOLE, FUSED_CELL, *VARIANTS, COMPILED, MAX_AUTOTUNE, FLAX, KERAS]

__all__ = [
    "ALL",
    "COMPILED",
    "CONV_FLOOR",
    "EAGER",
    "FLAX",
    "FUSED_CELL",
    "KERAS",
    "MAX_AUTOTUNE",
    "OURS",
    "OURS_WITHOUT_PEEPHOLE",
    "VARIANTS",
    "Built",
    "Provider",
    "Results",
]
