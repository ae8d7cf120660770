"""The two models, a ConvLSTM and its baseline, a peephole FC-LSTM: from frames to logits of the frames that follow."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritonlstm import PeepholeLSTM
from tritonlstm.models import EncoderForecaster

from .task import SIZE

MEAN, SCALE = 0.05, 0.2
"""Approximate mean and standard deviation of a pixel. The models normalise their input with them."""

DARK = -3.0
"""Initial bias of the output logits: most pixels are black."""


class ConvLSTMForecaster(nn.Module):
    """The encoder–forecaster of Shi et al. 2015. Each patch of pixels becomes one pixel with patch² channels."""

    def __init__(self, patch: int = 2, hidden_channels: tuple[int, ...] = (32, 32), kernel_size: int = 3):
        super().__init__()
        self.patch = patch
        self.model = EncoderForecaster(patch**2, list(hidden_channels), kernel_size)
        nn.init.constant_(self.model.head.bias, DARK)

    def forward(self, frames: Tensor, steps: int) -> Tensor:
        """frames (T, B, 1, H, W) in [0, 1] → logits (steps, B, 1, H, W)."""
        patches = F.pixel_unshuffle(_normalised(frames).flatten(0, 1), self.patch).unflatten(0, frames.shape[:2])
        logits = self.model(patches, steps)
        return F.pixel_shuffle(logits.flatten(0, 1), self.patch).unflatten(0, logits.shape[:2])


class FCLSTMForecaster(nn.Module):
    """The baseline: the same with peephole LSTMs, each frame a vector; the FC-LSTM of Shi et al. 2015."""

    def __init__(self, hidden_size: int = 128):
        super().__init__()
        self.encoder = PeepholeLSTM(SIZE**2, hidden_size, num_layers=2)
        self.forecaster = PeepholeLSTM(0, hidden_size, num_layers=2)
        self.head = nn.Linear(hidden_size, SIZE**2)
        nn.init.constant_(self.head.bias, DARK)

    def forward(self, frames: Tensor, steps: int) -> Tensor:
        """frames (T, B, 1, H, W) in [0, 1] → logits (steps, B, 1, H, W)."""
        _, state = self.encoder(_normalised(frames).flatten(2))
        output, _ = self.forecaster(None, state, steps=steps)
        return self.head(output).unflatten(2, frames.shape[2:])


def _normalised(frames: Tensor) -> Tensor:
    return (frames - MEAN) / SCALE


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def build(device: torch.device, seed: int) -> dict[str, nn.Module]:
    """Both models by name. The first has no more parameters than the second."""
    torch.manual_seed(seed)
    models = {"ConvLSTM": ConvLSTMForecaster(), "FC-LSTM": FCLSTMForecaster()}
    return {name: model.to(device) for name, model in models.items()}
