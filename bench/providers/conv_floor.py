"""The convolutions of our layer alone, by PyTorch: the time of a layer whose gates, copies and launches cost nothing.

Of all layers, forward one convolution a step over a dense row [X | H], backward the data gradient of each step and one
weight gradient over all steps. All numbers are random and no step reads the result of another: only the work is the
same. A layer can still be faster: with other convolutions (minimal filtering, hoisted input), or with overlapping
layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import Problem
from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.random_layers import normal

from .protocol import Built

data_gradient, weight_gradient = [True, False, False], [False, True, False]
"""Masks of `convolution_backward`."""


def convolution_backward(grad: Tensor, rows: Tensor, weight: Tensor, mask: list[bool]) -> Tensor:
    """The gradient that `mask` chooses, of a convolution without a bias that keeps the images' size."""
    padding = [size // 2 for size in weight.shape[2:]]
    options = (None, [1, 1], padding, [1, 1], False, [0, 0], 1)
    return next(
        each for each in torch.ops.aten.convolution_backward(grad, rows, weight, *options, mask) if each is not None
    )


class Layer:
    """The images and weights of one layer: rows [X | H] and gradients dA of all steps."""

    def __init__(
        self, case: Case, index: int, dtype: torch.dtype, device: torch.device, memory_format: torch.memory_format
    ):
        in_channels, channels = case.layers[index]
        generator = torch.Generator(device).manual_seed(index)

        def images(*shape: int) -> Tensor:
            return normal(generator, *shape, dtype=dtype).contiguous(memory_format=memory_format)

        count, size, width = case.steps * case.batch, (case.height, case.width), in_channels + channels
        self.steps, self.first = case.steps, index == 0
        self.rows, self.grads = images(count, width, *size), images(count, 4 * channels, *size)
        self.weight = images(4 * channels, width, case.kernel, case.kernel)
        # The input of the first layer requires no gradient: only the hidden columns have a data gradient.
        own = slice(in_channels, None) if self.first else slice(None)
        self.columns, self.column_rows = (
            each[:, own].contiguous(memory_format=memory_format) for each in (self.weight, self.rows[: case.batch])
        )

    def forward(self) -> None:
        for rows in self.rows.chunk(self.steps):
            F.conv2d(rows, self.weight, padding=self.weight.shape[-1] // 2)

    def backward(self) -> None:
        # The first step of the first layer has no step before it and no layer below.
        for grad in self.grads.chunk(self.steps)[1 if self.first else 0 :]:
            convolution_backward(grad, self.column_rows, self.columns, data_gradient)
        convolution_backward(self.grads, self.rows, self.weight, weight_gradient)


def build(memory_format: torch.memory_format, problem: Problem) -> Built:
    like, count = problem.input, len(problem.layers)
    layers = [Layer(problem.case, index, like.dtype, like.device, memory_format) for index in range(count)]

    @torch.no_grad
    def infer(*_: Tensor) -> None:
        for layer in layers:
            layer.forward()

    @torch.no_grad
    def train(*_: Tensor) -> None:
        infer()
        for layer in reversed(layers):
            layer.backward()

    return Built(infer, train, results=None, gradients=None)
