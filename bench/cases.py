"""The layers that are timed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tritonlstm import ConvLSTM2d


@dataclass(frozen=True)
class Case:
    """One ConvLSTM layer with an odd square kernel over a batch of square images."""

    batch: int
    steps: int
    in_channels: int
    channels: int
    kernel: int
    size: int

    def __str__(self) -> str:
        return (
            f"B{self.batch} T{self.steps} {self.in_channels}→{self.channels}"
            f" {self.kernel}×{self.kernel} {self.size}×{self.size}"
        )

    def layer(self) -> ConvLSTM2d:
        """The layer, every parameter of it random: peepholes start at zero, which would hide an error in them."""
        layer = ConvLSTM2d(self.in_channels, self.channels, self.kernel, peephole="channel")
        for cell in layer.layers:
            torch.nn.init.normal_(cell.bias, std=0.5)
            torch.nn.init.normal_(cell.peephole, std=0.5)
        return layer

    def sequence(self, channels: int) -> Tensor:
        """Random images (T, B, channels, H, W), stored channels last."""
        return torch.randn(self.steps, self.batch, self.size, self.size, channels).movedim(-1, 2)


CASES = {
    "paper": Case(batch=8, steps=10, in_channels=64, channels=64, kernel=5, size=16),
    "large": Case(batch=4, steps=10, in_channels=32, channels=32, kernel=3, size=64),
    "grey": Case(batch=8, steps=10, in_channels=1, channels=32, kernel=3, size=32),
    "latency": Case(batch=1, steps=16, in_channels=32, channels=32, kernel=3, size=64),
}
"""By the use they stand for: a layer of the paper's Moving MNIST network, a large image, one grey or radar channel at
the bottom of a stack, and one sequence alone."""
