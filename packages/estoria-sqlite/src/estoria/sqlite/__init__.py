"""Event, snapshot and checkpoint stores on SQLite: durable, and no server."""

from estoria.sqlite._checkpoint_store import SQLiteCheckpointStore
from estoria.sqlite._database import SQLiteDatabase
from estoria.sqlite._event_store import SQLiteEventStore
from estoria.sqlite._snapshot_store import SQLiteSnapshotStore
from estoria.sqlite._transaction import SQLiteTransaction

__all__ = [
    "SQLiteCheckpointStore",
    "SQLiteDatabase",
    "SQLiteEventStore",
    "SQLiteSnapshotStore",
    "SQLiteTransaction",
]
