"""Estoria on Valkey: an aggregate cache that processes share, and a snapshot store."""

from estoria.valkey._aggregate_cache import ValkeyAggregateCache
from estoria.valkey._snapshot_store import ValkeySnapshotStore

__all__ = ["ValkeyAggregateCache", "ValkeySnapshotStore"]
