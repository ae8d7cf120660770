"""The algorithm: a whole sequence of one layer, forward and backward.

Forward, two kernels a step: the linear map of the hidden state (and, concatenated, of the input), and the gates, which
write h_t where the next step reads it. Backward, at most three a step: the gates' gradient, the adjoint map, and,
concatenated, the copy of dX where the input needs it; then, for each chunk of time, a weight gradient, over what is
packed for it, and one parameter reduction. The linear maps come from `_schedules`, the gates from `_launch` (Triton) or
`_gates_aten`.
"""

import math
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from ._dtypes import cell_dtype
from ._layout import Layout, from_rows, to_rows, unpack_peephole_grad
from ._schedules import Needs, Saved, Weights

CHUNK_FRACTION = 4
"""dA, and what a schedule packs for it, is kept for at most this part of output, c and gates, which the layer itself
holds: three or four chunks of a long sequence where Cin ≤ C, five to twelve where the gates are not saved. On CPU the
weight gradient of ten steps at once was at most 9% faster than ten of one (float32, Zen 5), and now goes by two steps;
so the bound is chosen for memory; not measured on a GPU. Where a weight's gradient gains nothing from several steps, a
chunk is one, unless a schedule that makes the gates again gains."""

CHUNK_BYTES = 2**21
"""Yet a chunk may always take this much: what is done once a chunk outweighs small steps. Layers of 8 to 16 channels,
five steps of 64×32 pixels, trained 1.00 to 1.11 times as fast in one to three chunks (two threads of an EPYC)."""


class Results(NamedTuple):
    """What a layer returns, in the public layout."""

    output: Tensor  # (T, B, C, *spatial)
    h_n: Tensor  # (B, C, *spatial)
    c_n: Tensor  # (B, C, *spatial)

    @classmethod
    def new(cls, weight: Tensor, layout: Layout) -> "Results":
        """Uninitialised tensors for it."""
        return cls(
            layout.new_images(weight, layout.channels, layout.steps),
            layout.new_images(weight, layout.channels),
            layout.new_images(weight, layout.channels, dtype=cell_dtype(weight.dtype)),
        )


def forward(
    input: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Weights,
    bias: Tensor | None,
    peephole: Tensor | None,
    layout: Layout,
    *,
    activation: str,
    pointwise: ModuleType,
    schedule: ModuleType,
    save: bool,
    recompute: bool,
) -> tuple[Results, Saved | None]:
    """output (T, B, C, *spatial), h_n and c_n (B, C, *spatial), and with `save` what the backward pass needs.

    All in the public layout, but what is saved. Every result is a tensor of its own and no view; the output is among
    what is saved. A state that is None is zero. With `recompute` the gates are not among what is saved.
    """
    channels, steps, weight = layout.channels, layout.steps, weights.weight
    packed_peephole = None if peephole is None else pointwise.pack_peephole(layout, peephole)
    map_bias, gate_bias = _split_bias(bias, weight, pointwise)
    results = Results.new(weight, layout)
    output, h_n, c_n = to_rows(results.output, channel_dim=2), to_rows(results.h_n), to_rows(results.c_n)
    maps = schedule.Forward(
        input,
        h0,
        output,
        weights,
        map_bias,
        layout,
        slots=pointwise.SLOTS,
        skips_empty_state=pointwise.SKIPS_EMPTY_STATE,
    )

    # Without `save`, c is updated in place.
    cells = layout.new_sequence(c_n, channels, steps + 1) if save else c_n[None]
    starts_empty = c0 is None and not save
    if not starts_empty:
        cells[0] = 0 if c0 is None else to_rows(c0)
    save_gates = save and not recompute
    gates = pointwise.new_gates(layout, weight, steps if save_gates else 0)
    gates_of = gates.unbind() if save_gates else (None,) * steps
    preact_of = gates_of if pointwise.ACTIVATES_IN_PLACE else (None,) * steps
    if pointwise.ACTIVATES_IN_PLACE and not save_gates:
        preact_of = (layout.new_step(weight, 4 * channels),) * steps  # one for all

    outputs, cells_of = output.unbind(), cells.unbind()
    for t in range(steps if layout.rows else 0):
        preact, addend = maps.preact(t, out=preact_of[t])
        pointwise.gates_forward(
            layout,
            preact,
            addend,
            gate_bias,
            packed_peephole,
            None if starts_empty and t == 0 else cells_of[t if save else 0],
            activation=activation,
            gates=gates_of[t],
            c=cells_of[t + 1 if save else 0],
            h=outputs[t],
            h_next=maps.next_slot(t) if t + 1 < steps else h_n,
        )
    if not save:
        return results, None
    c_n.copy_(cells[-1])
    return results, Saved(input, h0, results.output, cells, gates)


def backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    saved: Saved,
    weights: Weights,
    bias: Tensor | None,
    peephole: Tensor | None,
    layout: Layout,
    *,
    activation: str,
    pointwise: ModuleType,
    schedule: ModuleType,
    recompute: bool,
    needs: Needs,
) -> list[Tensor]:
    """The wanted gradients in the order of `Needs`, in the public layout.

    grad_output (T, B, C, *spatial), grad_h_n and grad_c_n (B, C, *spatial): any strides, None for zero.
    """
    cells, gates, weight = saved.cells, saved.gates, weights.weight
    dtype = weight.dtype
    packed_peephole = None if peephole is None else pointwise.pack_peephole(layout, peephole)
    map_bias, gate_bias = _split_bias(bias, weight, pointwise)
    maps = schedule.Backward(
        saved,
        weights,
        map_bias,
        layout,
        needs,
        recompute=recompute,
        skips_empty_state=pointwise.SKIPS_EMPTY_STATE,
    )
    grad_h = _copy_or_zeros(grad_h_n, layout, dtype, like=weight)
    grad_c = _copy_or_zeros(grad_c_n, layout, cell_dtype(dtype), like=weight)

    sums = None
    if needs.bias or needs.peephole:
        pixels = math.prod(peephole.shape[2:]) if needs.peephole else 0
        sums = pointwise.ParameterGrads(
            layout, like=grad_c, bias=needs.bias, peephole_pixels=pixels, itemsize=weight.element_size()
        )

    together = needs.weight or needs.input_weight or sums is not None or recompute
    chunks = []
    if layout.rows:
        longest = maps.longest_chunk if together else 1
        chunks = _chunks(saved, layout, maps.chunk_width, longest, maps.chunk_bytes, first_alone=maps.first_alone)
    buffered = 0 if recompute else max((last - first for first, last in chunks), default=0)
    buffer = layout.new_sequence(weight, 4 * layout.channels, buffered)
    gates_of, cells_of = gates.unbind(), cells.unbind()
    grad_outputs = (None,) * layout.steps if grad_output is None else to_rows(grad_output, channel_dim=2).unbind()
    for first, last in chunks:
        grad_preact = grad_of = None  # the chunk before is freed
        # With `recompute`, each step's gradient takes the place of its pre-activations.
        grad_preact = maps.preact(first, last) if recompute else buffer[: last - first]
        grad_of = grad_preact.unbind()
        for t in reversed(range(first, last)):
            pointwise.gates_backward(
                layout,
                grad_of[t - first] if recompute else gates_of[t],
                gate_bias,
                packed_peephole,
                cells_of[t],
                cells_of[t + 1],
                activated=not recompute,
                activation=activation,
                grad_output=grad_outputs[t],
                grad_h=grad_h,
                grad_c=grad_c,
                grad_preact=grad_of[t - first],
            )
            if t > 0 or needs.h0 or maps.input_by_step:
                grad_h = maps.step(t, grad_of[t - first])
        maps.chunk(first, last, grad_preact)
        if sums is not None:
            sums.add(grad_preact, c_prev=cells[first:last], c=cells[first + 1 : last + 1])

    grad_weight, grad_input_weight = maps.grad_weights()
    grad_bias, grad_peephole = (None, None) if sums is None else sums.result()
    makers = Needs(
        input=lambda: from_rows(maps.grad_input, channel_dim=2),
        h0=lambda: from_rows(layout.new_step(grad_h, layout.channels).copy_(grad_h)),
        c0=lambda: from_rows(grad_c),
        weight=lambda: grad_weight,
        input_weight=lambda: grad_input_weight,
        bias=lambda: grad_bias.to(bias.dtype),
        peephole=lambda: unpack_peephole_grad(grad_peephole, peephole),
    )
    return [make() for make, needed in zip(makers, needs, strict=True) if needed]


def _split_bias(bias: Tensor | None, weight: Tensor, pointwise: ModuleType) -> tuple[Tensor | None, Tensor | None]:
    """The bias for the linear map, and for the gates: one of them has it."""
    if bias is None:
        return None, None
    if pointwise.BIAS_IN_CONVOLUTION:
        return bias.to(weight.dtype).contiguous(), None
    return None, bias.contiguous()


def _copy_or_zeros(grad: Tensor | None, layout: Layout, dtype: torch.dtype, like: Tensor) -> Tensor:
    """A final state's gradient as dense rows that may be overwritten."""
    rows = layout.new_step(like, layout.channels, dtype)
    return rows.zero_() if grad is None else rows.copy_(to_rows(grad))


def _chunks(
    saved: Saved, layout: Layout, width: int, longest: int, allowed: int, *, first_alone: bool
) -> list[tuple[int, int]]:
    """Ranges of steps (first, last), the latest first, whose dA is kept at once.

    `width` channels of a row are kept for each step, and no more than `longest` steps. A chunk may always take
    `allowed` bytes.
    """
    steps, itemsize = layout.steps, saved.gates.element_size()
    held = saved.output.nbytes + saved.cells.nbytes + saved.gates.nbytes
    alone = [(0, 1)] if first_alone else []
    start = len(alone)
    if steps == start:
        return alone
    length = chunk_length(steps - start, held, layout.rows * width * itemsize, longest, allowed)
    return [(first, min(first + length, steps)) for first in reversed(range(start, steps, length))] + alone


def chunk_length(steps: int, held: int, step: int, longest: int, allowed: int = 0) -> int:
    """Steps of a chunk: as few chunks as the bounds allow, all about as long, of one step at the least.

    The layer itself holds `held` bytes, each step of a chunk takes `step`.
    """
    length = min(longest, max(1, max(held // CHUNK_FRACTION, CHUNK_BYTES, allowed) // step))
    return math.ceil(steps / math.ceil(steps / length))
