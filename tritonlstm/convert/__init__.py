"""Weights of other ConvLSTM and LSTM code in and out.

    layer = convert.from_state_dict(torch.load("theirs.pt", weights_only=True), "ndrplz")
    theirs = convert.to_state_dict(layer, "ndrplz")
    layer = convert.load("theirs.pt", "ndrplz")  # or a live layer of Keras, Flax or PyTorch

A source is a name, one of `SOURCES`, or a description of keys and gate order: `Joint`, `Split`, `PerGate`, `Native`.
The gate order is always said: equal shapes hide different orders, and a wrong one raises no error anywhere.
"""

from .files import save
from .formats import DepthwiseSeparable, Format, Ignored, Joint, Native, PerGate, Split
from .hook import hook
from .load import fits, load
from .norms import BatchNorm, GroupNorm
from .sources import SOURCES
from .state_dict import from_state_dict, rename, to_state_dict

__all__ = [
    "SOURCES",
    "BatchNorm",
    "DepthwiseSeparable",
    "Format",
    "GroupNorm",
    "Ignored",
    "Joint",
    "Native",
    "PerGate",
    "Split",
    "fits",
    "from_state_dict",
    "hook",
    "load",
    "rename",
    "save",
    "to_state_dict",
]
