"""The contender: a ConvLSTM as one writes it well in eager PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritonlstm import ConvLSTM2dCell


class EagerConvLSTM2d(nn.Module):
    """One layer with the parameters of a `ConvLSTM2dCell`, each a copy, and the equations of `tritonlstm.reference`.

    Channels last throughout, one convolution a step over [X_t ; H_{t-1}], the input taken apart by `unbind`, whose
    gradient is one stack, and plain autograd.
    """

    def __init__(self, cell: ConvLSTM2dCell):
        super().__init__()
        self.weight = nn.Parameter(cell.weight.detach().clone(memory_format=torch.channels_last))
        self.bias = nn.Parameter(cell.bias.detach().clone())
        self.peephole = nn.Parameter(cell.peephole.detach().clone())
        self.padding = tuple(size // 2 for size in self.weight.shape[2:])

    def forward(self, input: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(T, B, Cin, H, W), each image stored channels last → output (T, B, C, H, W) and the last state (h, c)."""
        _, batch, _, height, width = input.shape
        h = input.new_zeros(batch, height, width, self.weight.shape[0] // 4).movedim(-1, 1)
        c = torch.zeros_like(h)
        w_ci, w_cf, w_co = self.peephole.unbind()
        output = []
        for x in input.unbind():
            preact = F.conv2d(torch.cat([x, h], 1), self.weight, self.bias, padding=self.padding)
            a_i, a_f, a_g, a_o = preact.chunk(4, 1)
            i = torch.sigmoid(torch.addcmul(a_i, w_ci, c))
            f = torch.sigmoid(torch.addcmul(a_f, w_cf, c))
            c = torch.addcmul(f * c, i, torch.tanh(a_g))
            o = torch.sigmoid(torch.addcmul(a_o, w_co, c))
            h = o * torch.tanh(c)
            output.append(h)
        return torch.stack(output), (h, c)
