"""The convolutions of our layer alone: what no gate kernel, copy or launch can be faster than in this design.

Forward one convolution a step over a dense row [H | X | 0], backward one a step over dA, of all layers, and one weight
gradient a layer over all steps at once. Every number is random and no step reads what the one before it wrote: only the
work is the same. Within `tritonlstm.tuning.timing.best_plans` each is the fastest of cuDNN's plans. A schedule with
other convolutions, or layers that overlap, may come out below it.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.cases import Problem
from tritonlstm import _convolution
from tritonlstm._layout import GPU_MULTIPLE

from .protocol import Built, Provider


@dataclass(frozen=True)
class _Layer:
    weight: Tensor  # (4C, k, k, width)
    adjoint: Tensor  # (width or C, k, k, 4C)
    rows: Tensor  # (T, B, H, W, width)
    preact: Tensor  # (T, B, H, W, 4C)  where a convolution may write
    grad_preact: Tensor  # (T, B, H, W, 4C)
    grad_rows: Tensor  # (B, H, W, width or C)  where a backward convolution may write


def _layers(problem: Problem) -> list[_Layer]:
    case, like = problem.case, problem.input
    image = (case.batch, case.height, case.width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=like.device).to(like.dtype)

    layers = []
    for index, (in_channels, channels) in enumerate(case.layers):
        multiple = GPU_MULTIPLE if like.is_cuda else 1
        width = -(-(in_channels + channels) // multiple) * multiple
        weight = normal(4 * channels, case.kernel, case.kernel, width)
        # The first layer's input wants no gradient: only the hidden columns are transposed.
        adjoint = _convolution.adjoint_weight(weight, slice(None) if index else slice(0, channels))
        gates = (case.steps, *image, 4 * channels)
        layers.append(
            _Layer(
                weight,
                adjoint,
                rows=normal(case.steps, *image, width),
                preact=like.new_empty(gates),
                grad_preact=normal(*gates),
                grad_rows=like.new_empty(*image, len(adjoint)),
            )
        )
    return layers


def _forward(layers: list[_Layer]) -> None:
    for layer in layers:
        for rows, preact in zip(layer.rows, layer.preact):
            _convolution.apply(rows, layer.weight, out=preact)


def _backward(layers: list[_Layer]) -> None:
    for index, layer in reversed(list(enumerate(layers))):
        # The first layer's first step has nothing below it or before it.
        for grad in layer.grad_preact[0 if index else 1 :]:
            _convolution.apply(grad, layer.adjoint, out=layer.grad_rows)
        _convolution.weight_grad(layer.rows.flatten(0, 1), layer.grad_preact.flatten(0, 1), layer.weight)


@torch.no_grad
def _run(layers: list[_Layer], *arguments: Tensor) -> None:
    _forward(layers)
    if len(arguments) == 2:  # an input and a cotangent: a training step
        _backward(layers)


def build(problem: Problem) -> Built:
    run = partial(_run, _layers(problem))
    return Built(run, run, results=None, gradients=None)


CONV_FLOOR = Provider("conv floor", build, peephole=False)
