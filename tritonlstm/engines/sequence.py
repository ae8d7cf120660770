"""A whole sequence of one layer in a loop over time, forward and backward.

Forward, two kernels a step: a convolution, and the cell, which writes h_t where the next step reads it. Backward, at
most three a step: the cell's gradient, the gradient of the convolution's argument and, with "concat", the copy of dX
where the input wants it; then, for each chunk of time, a weight gradient and one parameter reduction.
"""

from torch import Tensor

from ..cells import BackwardStep, ForwardStep, cell_type
from ..core.arguments import Arguments, Results, Saved
from ..core.dtypes import cell_dtype
from ..core.layout import Layout, from_rows, to_rows, unpack_peephole
from ..core.spec import Spec
from . import concat, hoisted, precomputed
from .chunks import chunks
from .marks import Marked
from .order import Order

PREACTIVATIONS = {"concat": concat, "hoisted": hoisted}
"""Where the pre-activations come from, by the schedule; or `precomputed`, where the input's do not come from a
convolution here. Each has a `Forward` and a `Backward` with the same methods."""


class Sequence:
    """The engine of a layer: its static options, its parameters, and its sizes."""

    def __init__(self, arguments: Arguments, layout: Layout, spec: Spec):
        self._order, self._marked = Order(layout.steps, spec.reverse), None
        if arguments.marks is not None:
            self._marked = Marked(arguments, layout, self._order)
            arguments = arguments._replace(h0=self._marked.h0)
        self._arguments, self._layout, self._spec = arguments, layout, spec
        self._preactivations = precomputed if arguments.is_precomputed else PREACTIVATIONS[spec.schedule]
        peephole = None if arguments.peephole is None else to_rows(arguments.peephole).contiguous()
        self._cell = cell_type(spec)(layout, spec, arguments.weight, arguments.bias, peephole)

    def forward(self, *, save: bool) -> tuple[Results, Saved | None]:
        """The results, each a tensor of its own and no view, and with `save` what the backward pass needs."""
        layout, cell, order, spec, marked = self._layout, self._cell, self._order, self._spec, self._marked
        weight, c0 = self._arguments.weight, self._arguments.c0
        results = layout.new_results(weight, spec, save=save and marked is None)
        h_n, outputs = to_rows(results.h_n), self._by_step(results.output)
        hidden = results.output if marked is None else marked.new_hidden(save=save)
        h_of = outputs if marked is None else self._by_step(hidden)
        source = self._preactivations.Forward(self._arguments, cell.bias, h_of, layout, spec)

        every_c = to_rows(results.c_n, channel_dim=2) if spec.returns == "cells" else None
        if save:
            cells = layout.new_sequence(results.c_n, layout.channels, layout.steps + 1)
            cells_of = cells.unbind()
        elif every_c is None:  # c is updated in place
            cells_of = [to_rows(results.c_n)] * (layout.steps + 1)
        else:
            cells_of = list(every_c.unbind())
            cells_of.insert(order.before(order.start), layout.new_step(results.c_n, layout.channels))
        _copy_or_zeros(c0, cells_of[order.before(order.start)])
        saves_gates = save and not spec.recomputes
        gates = cell.new_gates(h_n, layout.steps if saves_gates else 0)
        gates_of = gates.unbind() if saves_gates else [None] * layout.steps
        buffers = cell.preact_buffers(gates)
        for t in order.times() if layout.rows else ():
            preact, addend = source.preact(t, buffers[t])
            step = ForwardStep(
                preact=preact,
                addend=addend,
                c_prev=cells_of[order.before(t)],
                gates=gates_of[t],
                c=cells_of[order.after(t)],
                h=h_of[t],
                h_next=h_n if t == order.end else source.next_slot(t),
                marks=None if marked is None else marked.forward(t, h_of, outputs[t]),
            )
            cell.forward(step)
        if not save:
            return results, None
        if every_c is None:
            to_rows(results.c_n).copy_(cells_of[order.after(order.end)])
        else:
            every_c.copy_(cells[order.after(0) : order.after(0) + layout.steps])
        return results, Saved(hidden, cells, gates)

    def _by_step(self, images: Tensor) -> tuple[Tensor, ...]:
        """Each step's rows of a sequence; where it has one step, each takes the place of the one before."""
        rows = to_rows(images, channel_dim=2).unbind()
        return rows if len(rows) == self._layout.steps else rows * self._layout.steps

    def backward(self, grads: Results, saved: Saved, needs: Arguments) -> Arguments:
        """The gradients of the arguments that `needs` names, None for the others.

        grads: any strides, None for zero.
        """
        layout, cell, spec, order, marked = self._layout, self._cell, self._spec, self._order, self._marked
        weight, bias, peephole = self._arguments.weight, self._arguments.bias, self._arguments.peephole
        source = self._preactivations.Backward(self._arguments, cell.bias, saved, layout, needs, spec)
        grad_h = _copy_or_zeros(grads.h_n, source.new_grad_h())
        grad_c, grad_cells = layout.new_step(weight, layout.channels, cell_dtype(weight.dtype)), None
        if spec.returns == "cells" and grads.c_n is not None:
            grad_cells = to_rows(grads.c_n, channel_dim=2).unbind()
        grad_c = _copy_or_zeros(grads.c_n if grad_cells is None else None, grad_c)
        sums, needs_first_h = None, needs.h0
        if marked is not None:
            marked.start_backward(needs)
            needs_first_h = needs.h0 or needs.reset_h
        if needs.bias or needs.peephole:
            sums = cell.parameter_grads(grad_c, bias=needs.bias, peephole=needs.peephole)

        ranges = chunks(saved, layout, source.chunk_width)[:: -1 if spec.reverse else 1]
        longest = max((last - first for first, last in ranges), default=0)
        buffer = layout.new_sequence(weight, 4 * layout.channels, 0 if spec.recomputes else longest)
        gates_of, cells_of = saved.gates.unbind(), saved.cells.unbind()
        grad_outputs = [None] * layout.steps
        if grads.output is not None:
            given = to_rows(grads.output, channel_dim=2).unbind()
            if len(given) == layout.steps:
                grad_outputs = given
            else:  # of the output of inference that returns the last step alone
                (grad_outputs[order.end],) = given
        for first, last in ranges:
            grad_preact = grad_of = None  # the chunk before is freed
            # Where gates are recomputed, each step's gradient takes the place of its pre-activations.
            grad_preact = source.preact(first, last) if spec.recomputes else buffer[: last - first]
            grad_of = grad_preact.unbind()
            for t in reversed(order.times(first, last)):
                if grad_cells is not None:
                    grad_c.add_(grad_cells[t])
                step = BackwardStep(
                    gates=grad_of[t - first] if spec.recomputes else gates_of[t],
                    c_prev=cells_of[order.before(t)],
                    c=cells_of[order.after(t)],
                    grad_output=grad_outputs[t],
                    grad_h=grad_h,
                    grad_c=grad_c,
                    grad_preact=grad_of[t - first],
                    marks=None if marked is None else marked.backward(t),
                )
                cell.backward(step)
                if t != order.start or needs_first_h or source.input_by_step:
                    grad_h = source.step(t, grad_of[t - first])
            source.chunk(first, last, grad_preact)
            if sums is not None:
                c_prev, c = (saved.cells[at(first) : at(last)] for at in (order.before, order.after))
                c_prev = c_prev if marked is None else marked.c_read(c_prev, first, last)
                sums.add(grad_preact, c_prev, c)

        grad_input, grad_weight, grad_input_weight = source.result()
        grad_bias, grad_peephole = (None, None) if sums is None else sums.result()
        grad_reset_h = grad_reset_c = None
        if marked is not None:
            grad_h = marked.grad_h0(grad_h) if needs_first_h else grad_h
            grad_reset_h, grad_reset_c = marked.grad_resets()
        return Arguments(
            input=grad_input,
            h0=from_rows(layout.new_step(weight, layout.channels).copy_(grad_h)) if needs.h0 else None,
            c0=from_rows(grad_c) if needs.c0 else None,
            weight=grad_weight,
            input_weight=grad_input_weight,
            bias=grad_bias.to(bias.dtype) if needs.bias else None,
            peephole=unpack_peephole(grad_peephole, peephole) if needs.peephole else None,
            reset_h=grad_reset_h if needs.reset_h else None,
            reset_c=grad_reset_c if needs.reset_c else None,
        )


def _copy_or_zeros(images: Tensor | None, rows: Tensor) -> Tensor:
    """A state, or its gradient, in `rows`, which may be overwritten."""
    return rows.zero_() if images is None else rows.copy_(to_rows(images))
