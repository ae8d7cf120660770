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

PREACTIVATIONS = {"concat": concat, "hoisted": hoisted}
"""Where the pre-activations come from, by the schedule; or `precomputed`, where the input's do not come from a
convolution here. Each has a `Forward` and a `Backward` with the same methods."""


class Sequence:
    """The engine of a layer: its static options, its parameters, and its sizes."""

    def __init__(self, arguments: Arguments, layout: Layout, spec: Spec):
        self._arguments, self._layout, self._spec = arguments, layout, spec
        self._preactivations = precomputed if arguments.is_precomputed else PREACTIVATIONS[spec.schedule]
        peephole = None if arguments.peephole is None else to_rows(arguments.peephole).contiguous()
        self._cell = cell_type(spec)(layout, spec, arguments.weight, arguments.bias, peephole)

    def forward(self, *, save: bool) -> tuple[Results, Saved | None]:
        """The results, each a tensor of its own and no view, and with `save` what the backward pass needs."""
        layout, cell, weight, c0 = self._layout, self._cell, self._arguments.weight, self._arguments.c0
        results = layout.new_results(weight)
        output, h_n, c_n = to_rows(results.output, channel_dim=2), to_rows(results.h_n), to_rows(results.c_n)
        source = self._preactivations.Forward(self._arguments, cell.bias, output, layout, self._spec)

        # Without `save`, c is updated in place.
        cells = layout.new_sequence(c_n, layout.channels, layout.steps + 1) if save else c_n[None]
        cells[0] = 0 if c0 is None else to_rows(c0)
        saves_gates = save and not self._spec.recomputes
        gates = cell.new_gates(h_n, layout.steps if saves_gates else 0)
        gates_of = gates.unbind() if saves_gates else [None] * layout.steps
        buffers, outputs, cells_of = cell.preact_buffers(gates), output.unbind(), cells.unbind()
        for t in range(layout.steps if layout.rows else 0):
            preact, addend = source.preact(t, buffers[t])
            step = ForwardStep(
                preact=preact,
                addend=addend,
                c_prev=cells_of[t if save else 0],
                gates=gates_of[t],
                c=cells_of[t + 1 if save else 0],
                h=outputs[t],
                h_next=source.next_slot(t) if t + 1 < layout.steps else h_n,
            )
            cell.forward(step)
        if not save:
            return results, None
        c_n.copy_(cells[-1])
        return results, Saved(results.output, cells, gates)

    def backward(self, grads: Results, saved: Saved, needs: Arguments) -> Arguments:
        """The gradients of the arguments that `needs` names, None for the others.

        grads: any strides, None for zero.
        """
        layout, cell, spec = self._layout, self._cell, self._spec
        weight, bias, peephole = self._arguments.weight, self._arguments.bias, self._arguments.peephole
        source = self._preactivations.Backward(self._arguments, cell.bias, saved, layout, needs, spec)
        grad_h = _copy_or_zeros(grads.h_n, layout.new_step(weight, layout.channels))
        grad_c = _copy_or_zeros(grads.c_n, layout.new_step(weight, layout.channels, cell_dtype(weight.dtype)))
        sums = None
        if needs.bias or needs.peephole:
            sums = cell.parameter_grads(grad_c, bias=needs.bias, peephole=needs.peephole)

        ranges = chunks(saved, layout, source.chunk_width)
        longest = max((last - first for first, last in ranges), default=0)
        buffer = layout.new_sequence(weight, 4 * layout.channels, 0 if spec.recomputes else longest)
        gates_of, cells_of = saved.gates.unbind(), saved.cells.unbind()
        grad_outputs = [None] * layout.steps
        if grads.output is not None:
            grad_outputs = to_rows(grads.output, channel_dim=2).unbind()
        for first, last in ranges:
            grad_preact = grad_of = None  # the chunk before is freed
            # Where gates are recomputed, each step's gradient takes the place of its pre-activations.
            grad_preact = source.preact(first, last) if spec.recomputes else buffer[: last - first]
            grad_of = grad_preact.unbind()
            for t in reversed(range(first, last)):
                step = BackwardStep(
                    gates=grad_of[t - first] if spec.recomputes else gates_of[t],
                    c_prev=cells_of[t],
                    c=cells_of[t + 1],
                    grad_output=grad_outputs[t],
                    grad_h=grad_h,
                    grad_c=grad_c,
                    grad_preact=grad_of[t - first],
                )
                cell.backward(step)
                if t > 0 or needs.h0 or source.input_by_step:
                    grad_h = source.step(t, grad_of[t - first])
            source.chunk(first, last, grad_preact)
            if sums is not None:
                sums.add(grad_preact, saved.cells[first:last], saved.cells[first + 1 : last + 1])

        grad_input, grad_weight, grad_input_weight = source.result()
        grad_bias, grad_peephole = (None, None) if sums is None else sums.result()
        return Arguments(
            input=grad_input,
            h0=from_rows(layout.new_step(grad_h, layout.channels).copy_(grad_h)) if needs.h0 else None,
            c0=from_rows(grad_c) if needs.c0 else None,
            weight=grad_weight,
            input_weight=grad_input_weight,
            bias=grad_bias.to(bias.dtype) if needs.bias else None,
            peephole=unpack_peephole(grad_peephole, peephole) if needs.peephole else None,
        )


def _copy_or_zeros(grad: Tensor | None, rows: Tensor) -> Tensor:
    """A final state's gradient as `rows`, which may be overwritten."""
    return rows.zero_() if grad is None else rows.copy_(to_rows(grad))
