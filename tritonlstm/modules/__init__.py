"""The layers: parameters, checks and docstrings. The computation is in `functional`."""

from .conv_lstm import ConvLSTM2d, ConvLSTM2dCell
from .peephole_lstm import PeepholeLSTM, PeepholeLSTMCell

__all__ = ["ConvLSTM2d", "ConvLSTM2dCell", "PeepholeLSTM", "PeepholeLSTMCell"]
