"""Which launch configuration a kernel gets, and which schedule a layer: nothing but reading tables."""

from .cache import TuningCacheWarning
from .config import pick_config, pick_schedule
from .tables import Config

__all__ = ["Config", "TuningCacheWarning", "pick_config", "pick_schedule"]
