"""Launch configurations: which one a kernel gets, and the layers for which they are searched."""

from .cache import TuningCacheWarning
from .config import pick_config, pick_schedule
from .tables import Config

__all__ = ["Config", "TuningCacheWarning", "pick_config", "pick_schedule"]
