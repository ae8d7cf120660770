"""Launch configurations: which one a kernel gets, and the layers for which they are searched."""

from .config import Config, pick_config

__all__ = ["Config", "pick_config"]
