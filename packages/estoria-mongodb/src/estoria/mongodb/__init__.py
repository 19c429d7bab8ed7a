"""Event, snapshot and checkpoint stores on MongoDB."""

from estoria.mongodb._checkpoint_store import MongoCheckpointStore
from estoria.mongodb._errors import (
    BatchTooLargeError,
    PermissionMissingError,
    ReplicaSetRequiredError,
)
from estoria.mongodb._event_store import AppendHook, MongoEventStore
from estoria.mongodb._layout import Layout
from estoria.mongodb._snapshot_store import MongoSnapshotStore
from estoria.mongodb._transaction import MongoTransaction

__all__ = [
    "AppendHook",
    "BatchTooLargeError",
    "Layout",
    "MongoCheckpointStore",
    "MongoEventStore",
    "MongoSnapshotStore",
    "MongoTransaction",
    "PermissionMissingError",
    "ReplicaSetRequiredError",
]
