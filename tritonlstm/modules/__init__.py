"""The layers: parameters, checks and docstrings. The computation is in `functional`."""

from .conv_lstm import (
    ConvLSTM1d,
    ConvLSTM1dCell,
    ConvLSTM2d,
    ConvLSTM2dCell,
    ConvLSTM3d,
    ConvLSTM3dCell,
)
from .peephole_lstm import PeepholeLSTM, PeepholeLSTMCell

__all__ = [
    "ConvLSTM1d",
    "ConvLSTM1dCell",
    "ConvLSTM2d",
    "ConvLSTM2dCell",
    "ConvLSTM3d",
    "ConvLSTM3dCell",
    "PeepholeLSTM",
    "PeepholeLSTMCell",
]
