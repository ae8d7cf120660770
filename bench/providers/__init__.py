"""The contenders, one file for each family."""

from .compiled import COMPILED, COMPILED_FUSED_CELL, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL
from .conv_floor import CONV_FLOOR
from .eager import EAGER, EAGER_CONTIGUOUS
from .flax_cell import FLAX
from .fused_cell import FUSED_CELL
from .keras_layer import KERAS
from .ours import HOISTED, OURS, OURS_WITHOUT_PEEPHOLE, RECOMPUTE, VARIANTS
from .protocol import Built, Provider, Results

COMPILERS = [COMPILED, COMPILED_FUSED_CELL, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL]
ALL = [
    OURS,
    CONV_FLOOR,
    EAGER,
    EAGER_CONTIGUOUS,
    OURS_WITHOUT_PEEPHOLE,
    FUSED_CELL,
    *VARIANTS,
    *COMPILERS,
    FLAX,
    KERAS,
]

__all__ = [
    "ALL",
    "COMPILED",
    "COMPILED_FUSED_CELL",
    "COMPILERS",
    "CONV_FLOOR",
    "EAGER",
    "EAGER_CONTIGUOUS",
    "FLAX",
    "FUSED_CELL",
    "HOISTED",
    "KERAS",
    "MAX_AUTOTUNE",
    "MAX_AUTOTUNE_FUSED_CELL",
    "OURS",
    "OURS_WITHOUT_PEEPHOLE",
    "RECOMPUTE",
    "VARIANTS",
    "Built",
    "Provider",
    "Results",
]
