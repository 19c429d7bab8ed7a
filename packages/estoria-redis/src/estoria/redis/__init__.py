"""Estoria on Redis: an aggregate cache that processes share, and a snapshot store."""

from estoria.redis._aggregate_cache import RedisAggregateCache
from estoria.redis._snapshot_store import RedisSnapshotStore

__all__ = ["RedisAggregateCache", "RedisSnapshotStore"]
