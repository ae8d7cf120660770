"""The convolutions of our layer alone, by PyTorch: what no gate kernel, copy or launch can be faster than beside them.

Forward one convolution a step over a dense row [H | X | 0], backward one a step over dA, of all layers, and one weight
gradient a layer over all steps at once. Every number is random and no step reads what the one before it wrote: only
the work is the same. Within `tritonlstm.tuning.timing.best_plans` each is the fastest of cuDNN's plans; on a CPU they
run in the layout in which PyTorch's are fastest. A schedule with other convolutions, or layers that overlap, may come
out below it; so may our layer on a CPU, whose first step convolves the input alone, and whose convolutions, where that
is faster, are minimal filtering.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.cases import Problem
from tritonlstm._layout import Layout
from tritonlstm._maps import adjoint_weight
from tritonlstm._maps.convolution import Map, WeightGrad
from tritonlstm._maps.planes import convolves_faster_in_planes

from .protocol import Built, Provider


@dataclass(frozen=True)
class _Layer:
    """Everything dense, in the layout in which PyTorch convolves fastest."""

    layout: Layout
    weight: Tensor  # (4C, k, k, width)
    map: Map
    adjoint: Map  # of all columns or, in the first layer, of the hidden ones
    rows: Tensor  # (T, B, H, W, width)
    preact: Tensor  # (T, B, H, W, 4C)  where a convolution may write
    grad_preact: Tensor  # (T, B, H, W, 4C)
    grad_rows: Tensor  # (B, H, W, width or C)  where a backward convolution may write


def _layer(problem: Problem, index: int) -> _Layer:
    case, like, public = problem.case, problem.input, problem.layers[index].weight
    spatial, planar = (case.height, case.width), convolves_faster_in_planes(public)
    layout = Layout.of(public, None, case.steps, case.batch, spatial, triton=like.is_cuda, planar=planar)

    def normal(*shape: int) -> Tensor:
        return layout.dense(torch.randn(shape, device=like.device).to(like.dtype))

    gates = 4 * layout.channels
    weight = normal(gates, case.kernel, case.kernel, layout.width)
    # The first layer's input wants no gradient: only the hidden columns are transposed.
    adjoint = adjoint_weight(layout, weight, slice(None) if index else layout.hidden_slot)
    return _Layer(
        layout,
        weight,
        Map(layout, weight),
        Map(layout, adjoint),
        rows=normal(*layout.sequence_shape(layout.width)),
        preact=layout.new_sequence(like, gates),
        grad_preact=normal(*layout.sequence_shape(gates)),
        grad_rows=layout.new_step(like, len(adjoint)),
    )


def _forward(layers: list[_Layer]) -> None:
    for layer in layers:
        for rows, preact in zip(layer.rows, layer.preact):
            layer.map(rows, out=preact)


def _backward(layers: list[_Layer]) -> None:
    for index, layer in reversed(list(enumerate(layers))):
        # The first layer's first step has nothing below it or before it.
        for grad in layer.grad_preact[0 if index else 1 :]:
            layer.adjoint(grad, out=layer.grad_rows)
        WeightGrad(layer.layout, layer.weight).add(layer.rows.flatten(0, 1), layer.grad_preact.flatten(0, 1))


@torch.no_grad
def _run(layers: list[_Layer], *arguments: Tensor) -> None:
    _forward(layers)
    if len(arguments) == 2:  # an input and a cotangent: a training step
        _backward(layers)


def build(problem: Problem) -> Built:
    run = partial(_run, [_layer(problem, index) for index in range(len(problem.layers))])
    return Built(run, run, results=None, gradients=None)


CONV_FLOOR = Provider("conv floor", build, peephole=False)
