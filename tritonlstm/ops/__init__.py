"""The registered operators: schemas, implementations and fakes, batching rule, autograd.

A whole sequence is one opaque operator, so that a compiler sees neither the time loop nor its length.
"""

from .autograd import sequence

__all__ = ["sequence"]
