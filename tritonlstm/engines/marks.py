"""The marks of a sequence (see `core.marks`), step by step: what the cells read of them, forward and backward.

With marks, h as the steps read it is another tensor than the output: where a sample is reset, or past its length, they
differ.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cells import BackwardMarks, ForwardMarks
from ..core.arguments import Arguments
from ..core.dtypes import cell_dtype
from ..core.layout import Layout, from_rows, to_rows
from ..core.marks import RESET, has, with_next
from .order import Order


class Marked:
    """The marks of a layer's sequence, with what its steps carry beside their own tensors."""

    def __init__(self, arguments: Arguments, layout: Layout, order: Order):
        self._layout, self._order, self._like = layout, order, arguments.weight
        bits = with_next(arguments.marks, order.reverse)
        self._resets, self._bits = has(bits, RESET, len(layout.spatial) + 1), bits.unbind()
        resets = arguments.reset_h, arguments.reset_c
        self._reset_h, self._reset_c = (None if each is None else to_rows(each).contiguous() for each in resets)
        self.h0 = self._first(arguments.h0)
        self._grad_held = self._grad_reset_h = self._grad_reset_c = None

    def _first(self, h0: Tensor | None) -> Tensor | None:
        """The hidden state (B, C, *spatial) that the first step reads; None for zero."""
        if self._reset_h is None:
            return h0
        rows = 0 if h0 is None else to_rows(h0)
        return from_rows(torch.where(self._resets[self._order.start], self._reset_h, rows))

    def new_hidden(self, *, save: bool) -> Tensor:
        """h of each step as the step after reads it, or of one at a time: (T or 1, B, C, *spatial), uninitialised."""
        return self._layout.new_images(self._like, self._layout.channels, self._layout.steps if save else 1)

    def forward(self, t: int, hidden: Sequence[Tensor], output: Tensor) -> ForwardMarks:
        if t != self._order.start:
            h_prev = hidden[self._order.previous(t)]
        elif self.h0 is not None:
            h_prev = to_rows(self.h0).contiguous()
        else:
            h_prev = self._layout.new_step(self._like, self._layout.channels).zero_()
        return ForwardMarks(self._bits[t], h_prev, self._reset_h, self._reset_c, output)

    def start_backward(self, needs: Arguments) -> None:
        """Before the last step's gradients."""
        dtype = cell_dtype(self._like.dtype)
        wants_resets = needs.reset_h or needs.reset_c
        self._grad_held, self._grad_reset_h, self._grad_reset_c = (
            self._layout.new_step(self._like, self._layout.channels, dtype).zero_() if wanted else None
            for wanted in (True, wants_resets, wants_resets)
        )

    def backward(self, t: int) -> BackwardMarks:
        return BackwardMarks(self._bits[t], self._reset_c, self._grad_held, self._grad_reset_h, self._grad_reset_c)

    def grad_h0(self, grad_h: Tensor) -> Tensor:
        """The gradient of h0 (B, *spatial, C), from that of the convolution of the first step."""
        grad = self._grad_held + grad_h
        if self._reset_h is None:
            return grad
        reset = self._resets[self._order.start]
        if self._grad_reset_h is not None:
            self._grad_reset_h.add_(torch.where(reset, grad, 0))
        return grad.masked_fill_(reset, 0)

    def grad_resets(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the reset state's h and c, each (B, C, *spatial), after that of h0."""
        if self._grad_reset_h is None:
            return None, None
        return from_rows(self._grad_reset_h.to(self._like.dtype)), from_rows(self._grad_reset_c)

    def c_read(self, c: Tensor, first: int, last: int) -> Tensor:
        """c (steps, B, *spatial, C) as times first … last - 1 read it, from what the steps before them wrote."""
        return c if self._reset_c is None else torch.where(self._resets[first:last], self._reset_c, c)
