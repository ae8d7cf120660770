"""The registered operators: schemas, implementations and fakes, batching rule, autograd, FLOP formulas.

A whole sequence is one opaque operator, so that a compiler sees neither the time loop nor its length. The gates of one
step are another, for one step at a time and for pre-activations from elsewhere.
"""

from . import flops
from .gates import gates
from .sequence import copy, sequence

flops.register_when_counted()

__all__ = ["copy", "gates", "sequence"]
