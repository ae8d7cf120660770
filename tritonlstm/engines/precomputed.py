"""Pre-activations from those that the caller computed of the input, and the hidden state's convolution step by step.

    A_t = X_t + W * H_{t-1} + b        X_t (B, *spatial, 4C)

X goes to the cell as an addend, and its gradient is dA. H_{t-1} is read from the output, where step t-1 wrote it.
"""

from collections.abc import Sequence

from torch import Tensor

from ..core.arguments import Arguments, Saved
from ..core.layout import Layout, to_rows
from ..core.spec import Spec
from ..linear import linear_map
from .columns import unpack
from .order import Order


def _first_hidden(arguments: Arguments, layout: Layout) -> Tensor:
    """H_{-1} as dense rows (B, *spatial, C)."""
    if arguments.h0 is not None:
        return to_rows(arguments.h0).contiguous()
    return layout.new_step(arguments.weight, layout.channels).zero_()


class Forward:
    """The pre-activations of each step, in two parts. `bias` is what the cell leaves to the convolution."""

    def __init__(
        self, arguments: Arguments, bias: Tensor | None, outputs: Sequence[Tensor], layout: Layout, spec: Spec
    ):
        self._order, self._outputs = Order(layout.steps, spec.reverse), outputs
        self._map = linear_map(layout, arguments.weight, bias, spec)
        self._frames = to_rows(arguments.input, channel_dim=2).unbind()
        self._h0 = _first_hidden(arguments, layout)

    def preact(self, t: int, out: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Two parts of A_t (B, *spatial, 4C), the first in `out` where that needs no copy."""
        h = self._h0 if t == self._order.start else self._outputs[self._order.previous(t)]
        return self._map.forward(h, out), self._frames[t].contiguous()

    def next_slot(self, t: int) -> Tensor | None:
        """The step after t reads h_t from the output."""
        return None


class Backward:
    """The gradients of X, hidden state and weight from those of the pre-activations.

    `input_by_step`: dX comes with each chunk, not with each `step`. `chunk_width`: channels of a row that are kept for
    each step of a chunk, dA and H_{t-1}.
    """

    input_by_step = False

    def __init__(
        self, arguments: Arguments, bias: Tensor | None, saved: Saved, layout: Layout, needs: Arguments, spec: Spec
    ):
        self._arguments, self._layout, self._order = arguments, layout, Order(layout.steps, spec.reverse)
        self._map = linear_map(layout, arguments.weight, bias, spec)
        self._frames = to_rows(arguments.input, channel_dim=2)
        self._h0, self._output = _first_hidden(arguments, layout), to_rows(saved.output, channel_dim=2)
        self._grad_weight = self._map.weight_grad() if needs.weight else None
        self._grad_input = None
        if needs.input:
            self._grad_input = layout.new_images(arguments.weight, layout.in_channels, layout.steps)
        self.chunk_width = 5 * layout.channels

    def _hidden(self, first: int, last: int) -> Tensor:
        """H_{t-1} of times first … last - 1 as dense rows (steps · B, *spatial, C)."""
        times, sources = self._order.carried(first, last)
        if times == slice(first, last):
            return self._output[sources].contiguous().flatten(0, 1)
        rows = self._layout.new_sequence(self._output, self._layout.channels, last - first)
        rows[self._order.start - first] = self._h0
        rows[times.start - first : times.stop - first] = self._output[sources]
        return rows.flatten(0, 1)

    def preact(self, first: int, last: int) -> Tensor:
        """The pre-activations (steps, B, *spatial, 4C) of steps first … last - 1, recomputed."""
        return self._map.forward(self._hidden(first, last)).unflatten(0, (last - first, -1)) + self._frames[first:last]

    def new_grad_h(self) -> Tensor:
        """Uninitialised dH (B, *spatial, C), in rows as wide as those of `step`."""
        return self._layout.new_step(self._output, self._layout.channels)

    def step(self, t: int, grad_preact: Tensor) -> Tensor:
        """dH_{t-1} (B, *spatial, C), from dA_t (B, *spatial, 4C)."""
        return self._map.input_grad(grad_preact)

    def chunk(self, first: int, last: int, grad_preact: Tensor) -> None:
        """dX of steps first … last - 1, and what they give to the weight; grad_preact (steps, B, *spatial, 4C)."""
        if self._grad_input is not None:
            to_rows(self._grad_input, channel_dim=2)[first:last] = grad_preact
        if self._grad_weight is not None:
            self._grad_weight.add(self._hidden(first, last), grad_preact.flatten(0, 1))

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of X, weight and input_weight that are wanted; there is no input_weight."""
        if self._grad_weight is None:
            return self._grad_input, None, None
        return self._grad_input, unpack(self._arguments.weight, self._grad_weight.result()), None
