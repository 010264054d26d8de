"""A strategy for kvmaff: each guest within one L3 cache, L3 caches loaded evenly."""

from kvmaff_cache_aware.strategy import CacheAwareOptions, kvmaff_strategies, place

__all__ = ["CacheAwareOptions", "kvmaff_strategies", "place"]
