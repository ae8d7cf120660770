"""How a layer runs over time. An engine computes a sequence forward and backward; today there is one."""

from typing import Protocol

from ..core.arguments import Arguments, Results, Saved
from ..core.layout import Layout
from ..core.spec import Spec
from .sequence import Sequence


class Engine(Protocol):
    def forward(self, *, save: bool) -> tuple[Results, Saved | None]:
        """The results and, with `save`, what the backward pass reads."""

    def backward(self, grads: Results, saved: Saved, needs: Arguments) -> Arguments:
        """The gradients of the arguments that `needs` names, None for the others."""


def engine(arguments: Arguments, layout: Layout, spec: Spec) -> Engine:
    """The engine for a layer with a resolved backend and schedule."""
    return Sequence(arguments, layout, spec)


__all__ = ["Engine", "engine"]
