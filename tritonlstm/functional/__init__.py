"""Functional forms of the layers, as functions of their parameters."""

from .gates import State, lstm_gates
from .sequence import conv_lstm, peephole_lstm

__all__ = ["State", "conv_lstm", "lstm_gates", "peephole_lstm"]
