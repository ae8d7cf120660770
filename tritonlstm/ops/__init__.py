"""The registered operators: schemas, implementations and fakes, batching rule, autograd, FLOP formulas.

A whole sequence is one opaque operator, so that a compiler sees neither the time loop nor its length.
"""

from . import flops
from .autograd import sequence

flops.register_when_counted()

__all__ = ["sequence"]
