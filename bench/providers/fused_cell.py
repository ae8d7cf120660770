"""An eager ConvLSTM around ATen's fused LSTM cell, which runs on CUDA alone and has no peephole.

The cell adds two pre-activations, so the input's convolution can run for all steps at once, and nothing is
concatenated: a concatenated one would have to be given a tensor of zeros to add. A channels-last image is a matrix
(B·H·W, 4C) to it, without a copy. Gates come in the order i, f, g, o.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import Parameters, Problem

from .protocol import Built, Provider, State, of_stack

Cell = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def _rows(image: Tensor) -> Tensor:
    """(B, C, H, W), stored channels last, as (B·H·W, C)."""
    return image.movedim(1, -1).flatten(0, 2)


def _layer(cell: Cell, input: Tensor, parameters: Parameters) -> tuple[Tensor, State]:
    """(T, B, Cin, H, W), each image stored channels last → (T, B, C, H, W) and the last (h, c)."""
    weight, bias, _ = parameters
    steps, batch, in_channels, height, width = input.shape
    channels = weight.shape[0] // 4
    padding = tuple(size // 2 for size in weight.shape[2:])
    of_input, of_hidden = (
        part.contiguous(memory_format=torch.channels_last) for part in weight.split([in_channels, channels], 1)
    )
    preact = F.conv2d(input.flatten(0, 1), of_input, padding=padding).unflatten(0, (steps, batch))
    h = weight.new_zeros(batch, height, width, channels).movedim(-1, 1)
    c = _rows(torch.zeros_like(h))
    no_bias = torch.zeros_like(bias)
    output = []
    for from_input in preact.unbind():
        from_hidden = F.conv2d(h, of_hidden, padding=padding)
        h, c, *_ = cell(_rows(from_input), _rows(from_hidden), c, bias, no_bias)
        h = h.unflatten(0, (batch, height, width)).movedim(-1, 1)
        output.append(h)
    return torch.stack(output), (h, c.unflatten(0, (batch, height, width)).movedim(-1, 1))


def stack(cell: Cell, input: Tensor, layers: tuple[Parameters, ...]) -> tuple[Tensor, list[State]]:
    output, states = input, []
    for parameters in layers:
        output, state = _layer(cell, output, parameters)
        states.append(state)
    return output, states


def build(problem: Problem, cell: Cell = torch.ops.aten._thnn_fused_lstm_cell) -> Built:
    return of_stack(partial(stack, cell), problem)


def _why_absent(device: torch.device) -> str | None:
    return None if device.type == "cuda" else "ATen's fused LSTM cell runs on CUDA alone"


FUSED_CELL = Provider("eager, fused cell", build, _why_absent, peephole=False)
