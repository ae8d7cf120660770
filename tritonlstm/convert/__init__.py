"""Weights of other ConvLSTM and LSTM code in and out.

    layer = convert.from_state_dict(torch.load("theirs.pt", weights_only=True), "ndrplz")
    theirs = convert.to_state_dict(layer, "ndrplz")

A source is a name, one of `SOURCES`, or a description of keys and gate order: `Joint`, `Split`, `PerGate`, `Native`.
The gate order is always said: equal shapes hide different orders, and a wrong one raises no error anywhere.
"""

from .formats import DepthwiseSeparable, Format, Ignored, Joint, Native, PerGate, Split
from .hook import hook
from .sources import SOURCES
from .state_dict import from_state_dict, rename, to_state_dict

__all__ = [
    "SOURCES",
    "DepthwiseSeparable",
    "Format",
    "Ignored",
    "Joint",
    "Native",
    "PerGate",
    "Split",
    "from_state_dict",
    "hook",
    "rename",
    "to_state_dict",
]
