"""Models built from the layers."""

from .encoder_forecaster import EncoderForecaster

__all__ = ["EncoderForecaster"]
