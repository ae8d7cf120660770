"""The operators of one step's gates: schemas, implementations, fakes, gradients.

They run the same cells as a sequence does. The results have the memory format of the pre-activations, channels last or
contiguous, so that nothing need be copied between a convolution and its gates; a cell that reads rows alone returns
channels last.
"""

import torch
from torch import Tensor

from ..cells import BackwardStep, ForwardStep, cell_type
from ..core.dtypes import without_autocast
from ..core.layout import Layout, to_rows, unpack_peephole
from ..core.spec import Spec
from .autograd import Differentiable
from .registration import define
from .vmap import batching_rule

_TENSORS = "Tensor preact, Tensor c, Tensor? bias, Tensor? peephole"
_KEPT = "Tensor c, Tensor? bias, Tensor? peephole, Tensor c_next, Tensor gates"

SCHEMAS = {
    "gates_inference": f"({_TENSORS}, str spec) -> (Tensor h, Tensor c_next)",
    "gates_training": f"({_TENSORS}, str spec) -> (Tensor h, Tensor c_next, Tensor gates)",
    "gates_backward": f"(Tensor? grad_h, Tensor? grad_c, {_KEPT}, str spec, bool[] needs) -> Tensor[]",
}


def _layout(c: Tensor) -> Layout:
    batch, channels, *spatial = c.shape
    return Layout(1, batch, tuple(spatial), 0, channels, multiple=1)


def _new(layout: Layout, channels: int, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Uninitialised (B, channels, *spatial): channels last where `rows` (B, *spatial, …) are dense, else contiguous."""
    if layout.spatial and rows.is_contiguous():
        return layout.new_images(rows, channels, dtype=dtype)
    return rows.new_empty(layout.batch, channels, *layout.spatial, dtype=dtype)


def _new_results(layout: Layout, preact: Tensor, c: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Uninitialised h and c_next."""
    return _new(layout, layout.channels, rows, preact.dtype), _new(layout, layout.channels, rows, c.dtype)


def _forward(args: tuple, *, save: bool) -> tuple[Tensor, ...]:
    preact, c, bias, peephole, text = args
    spec, layout = Spec.decode(text), _layout(c)
    cell_class = cell_type(spec)
    rows, c_prev = cell_class.rows(preact), cell_class.rows(c)
    h, c_next = _new_results(layout, preact, c, rows)
    h_rows = to_rows(h)
    gates = cell_class.new_gates(h_rows, 1) if save else None
    with without_autocast(preact), torch.cuda.device_of(preact):
        cell = cell_class(layout, spec, preact, bias, None if peephole is None else cell_class.rows(peephole))
        if layout.rows:
            cell.forward(
                ForwardStep(
                    preact=rows if cell.bias is None else rows + cell.bias,
                    addend=None,
                    c_prev=c_prev,
                    gates=gates[0] if save else None,
                    c=to_rows(c_next),
                    h=h_rows,
                    h_next=None,
                )
            )
    return (h, c_next, gates) if save else (h, c_next)


def _inference(*args):
    return _forward(args, save=False)


def _training(*args):
    return _forward(args, save=True)


def _backward(grad_h, grad_c, c, bias, peephole, c_next, gates, text, needs):
    spec, layout = Spec.decode(text), _layout(c)
    cell_class = cell_type(spec)
    c_rows, c_prev = cell_class.rows(c_next), cell_class.rows(c)
    grad_preact = _new(layout, 4 * layout.channels, c_rows, gates.dtype)
    through_c = _new(layout, layout.channels, c_rows, c.dtype)
    through_c.zero_() if grad_c is None else through_c.copy_(grad_c)
    needs_preact, needs_c, needs_bias, needs_peephole = needs
    if spec.backend == "triton":
        gates = gates.contiguous()  # copies only slices from vmap
    with without_autocast(c), torch.cuda.device_of(c):
        cell = cell_class(layout, spec, gates, bias, None if peephole is None else cell_class.rows(peephole))
        rows = to_rows(grad_preact)
        if layout.rows:
            cell.backward(
                BackwardStep(
                    gates=gates[0],
                    c_prev=c_prev,
                    c=c_rows,
                    grad_output=None,
                    grad_h=cell_class.rows(torch.zeros_like(c, dtype=gates.dtype) if grad_h is None else grad_h),
                    grad_c=to_rows(through_c),
                    grad_preact=rows,
                )
            )
        grad_bias = grad_peephole = None
        if needs_bias or needs_peephole:
            sums = cell.parameter_grads(through_c, bias=needs_bias, peephole=needs_peephole)
            if layout.rows:
                sums.add(rows[None], c_prev[None], c_rows[None])
            grad_bias, grad_peephole = sums.result()
    return [
        *([grad_preact] if needs_preact else []),
        *([through_c] if needs_c else []),
        *([grad_bias.to(bias.dtype)] if needs_bias else []),
        *([unpack_peephole(grad_peephole, peephole)] if needs_peephole else []),
    ]


def _fake_inference(preact, c, bias, peephole, text):
    return _new_results(_layout(c), preact, c, cell_type(Spec.decode(text)).rows(preact))


def _fake_training(preact, c, bias, peephole, text):
    h, c_next = _fake_inference(preact, c, bias, peephole, text)
    return h, c_next, cell_type(Spec.decode(text)).new_gates(to_rows(h), 1)


def _fake_backward(grad_h, grad_c, c, bias, peephole, c_next, gates, text, needs):
    layout, rows = _layout(c), cell_type(Spec.decode(text)).rows(c_next)
    grads = (
        lambda: _new(layout, 4 * layout.channels, rows, gates.dtype),
        lambda: _new(layout, layout.channels, rows, c.dtype),
        lambda: torch.empty_like(bias),
        lambda: torch.empty_like(peephole),
    )
    return [grad() for grad, needed in zip(grads, needs, strict=True) if needed]


for _name, _implementation, _fake in (
    ("gates_inference", _inference, _fake_inference),
    ("gates_training", _training, _fake_training),
    ("gates_backward", _backward, _fake_backward),
):
    define(_name, SCHEMAS[_name], _implementation, _fake, batching_rule(_name))


def _keep(tensors, outputs):
    _, *parameters = tensors
    _, c_next, gates = outputs
    return *parameters, c_next, gates


_differentiable = Differentiable("gates_", results=2, keep=_keep)


def gates(preact: Tensor, c: Tensor, bias: Tensor | None, peephole: Tensor | None, spec: str) -> tuple[Tensor, Tensor]:
    """h and the next c of one step, differentiable once. Checks nothing.

    preact (B, 4C, *spatial), c (B, C, *spatial) in its cell dtype, bias (4C), peephole (3, C, *spatial or ones); spec,
    encoded, has a resolved backend and memory="save".
    """
    h, c_next, *_ = _differentiable((preact, c, bias, peephole), (spec,))
    return h, c_next
