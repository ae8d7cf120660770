"""A ConvLSTM as one writes it well in eager PyTorch.

Channels last throughout, one convolution a step over [X_t ; H_{t-1}], the input taken apart by `unbind`, whose gradient
is one stack, and plain autograd. Between layers the steps stay a list: only the last layer's are stacked.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import Parameters

from .protocol import Provider, State, of_stack


def layer(frames: Sequence[Tensor], parameters: Parameters) -> tuple[list[Tensor], State]:
    """T images (B, Cin, H, W), stored channels last → T of (B, C, H, W) and the last (h, c)."""
    weight, bias, peephole = parameters
    batch, _, height, width = frames[0].shape
    padding = tuple(size // 2 for size in weight.shape[2:])
    h = weight.new_zeros(batch, height, width, weight.shape[0] // 4).movedim(-1, 1)
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


def stack(input: Tensor, layers: tuple[Parameters, ...]) -> tuple[Tensor, list[State]]:
    frames, states = input.unbind(), []
    for parameters in layers:
        frames, state = layer(frames, parameters)
        states.append(state)
    return torch.stack(list(frames)), states


EAGER = Provider("eager", partial(of_stack, stack))
