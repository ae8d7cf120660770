from tests.support.cache import cache_folder

__all__ = ["cache_folder"]
