"""ConvLSTM and peephole LSTM layers for PyTorch, their gates in Triton."""

from . import functional, models, modules, reference
from .core.spec import Spec
from .core.state import LSTMState
from .modules import (
    ConvLSTM1d,
    ConvLSTM1dCell,
    ConvLSTM2d,
    ConvLSTM2dCell,
    ConvLSTM3d,
    ConvLSTM3dCell,
    PeepholeLSTM,
    PeepholeLSTMCell,
)

__version__ = "0.1.0"

__all__ = [
    "ConvLSTM1d",
    "ConvLSTM1dCell",
    "ConvLSTM2d",
    "ConvLSTM2dCell",
    "ConvLSTM3d",
    "ConvLSTM3dCell",
    "LSTMState",
    "PeepholeLSTM",
    "PeepholeLSTMCell",
    "Spec",
    "functional",
    "models",
    "modules",
    "reference",
]


def __getattr__(name: str) -> object:
    """`convert` is imported when it is first used."""
    if name == "convert":
        import importlib

        return importlib.import_module(".convert", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
