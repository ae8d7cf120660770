"""A ConvLSTM as one writes it well in eager PyTorch.

One convolution a step over [X_t ; H_{t-1}], the input taken apart by `unbind`, whose gradient is one stack, and plain
autograd. Between layers the steps stay a list: only the last layer's are stacked. Everything is stored in one memory
format, channels last or contiguous: which is faster depends on the machine and the kernel's size.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import Parameters, Problem

from .protocol import Built, Provider, State, of_stack


def layer(
    frames: Sequence[Tensor], parameters: Parameters, memory_format: torch.memory_format
) -> tuple[list[Tensor], State]:
    """T images (B, Cin, H, W), stored in that format → T of (B, C, H, W) and the last (h, c), stored alike."""
    weight, bias, peephole = parameters
    batch, _, height, width = frames[0].shape
    padding = tuple(size // 2 for size in weight.shape[2:])
    shape = batch, weight.shape[0] // 4, height, width
    h = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=memory_format).zero_()
    c = torch.zeros_like(h)
    output = []
    for x in frames:
        a_i, a_f, a_g, a_o = F.conv2d(torch.cat([x, h], 1), weight, bias, padding=padding).chunk(4, 1)
        if peephole is not None:
            w_ci, w_cf, w_co = peephole.unbind()
            a_i, a_f = torch.addcmul(a_i, w_ci, c), torch.addcmul(a_f, w_cf, c)
        c = torch.addcmul(torch.sigmoid(a_f) * c, torch.sigmoid(a_i), torch.tanh(a_g))
        if peephole is not None:
            a_o = torch.addcmul(a_o, w_co, c)
        h = torch.sigmoid(a_o) * torch.tanh(c)
        output.append(h)
    return output, (h, c)


def stack(
    input: Tensor, layers: tuple[Parameters, ...], memory_format: torch.memory_format = torch.channels_last
) -> tuple[Tensor, list[State]]:
    frames, states = input.unbind(), []
    for parameters in layers:
        frames, state = layer(frames, parameters, memory_format)
        states.append(state)
    return torch.stack(list(frames)), states


def build(memory_format: torch.memory_format, problem: Problem) -> Built:
    return of_stack(partial(stack, memory_format=memory_format), problem, memory_format)


EAGER = Provider("eager", partial(build, torch.channels_last))
EAGER_CONTIGUOUS = Provider("eager, contiguous", partial(build, torch.contiguous_format))
"""On a GPU only the last points of `make gpu-bench`, those in float32, have it: its time is short."""
