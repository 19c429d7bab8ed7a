"""Stores in the process's memory: the reference for all others, and what tests use."""

from estoria.core.memory._aggregate_cache import MemoryAggregateCache
from estoria.core.memory._checkpoint_store import MemoryCheckpointStore
from estoria.core.memory._connect import connect
from estoria.core.memory._event_store import MemoryEventStore
from estoria.core.memory._snapshot_store import MemorySnapshotStore

__all__ = [
    "MemoryAggregateCache",
    "MemoryCheckpointStore",
    "MemoryEventStore",
    "MemorySnapshotStore",
    "connect",
]
