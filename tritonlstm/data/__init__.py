"""Data that the demo and the examples make on the spot."""

from .moving_mnist import moving_mnist

__all__ = ["moving_mnist"]
