"""Synthetic data for the demo."""

from .moving_mnist import moving_mnist

__all__ = ["moving_mnist"]
