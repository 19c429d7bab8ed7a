"""Aggregate caches in the memory of the process."""

from estoria.memcache._lru import LRUAggregateCache
from estoria.memcache._sized import SizedAggregateCache
from estoria.memcache._stats import CacheStats
from estoria.memcache._ttl import TTLAggregateCache

__all__ = ["CacheStats", "LRUAggregateCache", "SizedAggregateCache", "TTLAggregateCache"]
