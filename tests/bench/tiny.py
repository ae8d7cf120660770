"""A case that takes no time: as deep and odd as the real ones, with few numbers."""

from tritonlstm.tuning.cases import SMALL

TINY = SMALL["paper"].but(batch=2, steps=3, in_channels=2, channels=(4, 3), height=5, width=6)

VECTORS = TINY.but(channels=(4,), kernel=1, height=1, width=1)
"""Vectors, in one layer."""
