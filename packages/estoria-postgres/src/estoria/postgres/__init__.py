"""Event, snapshot and checkpoint stores on PostgreSQL."""

from estoria.postgres._checkpoint_store import PostgresCheckpointStore
from estoria.postgres._errors import PermissionMissingError, ReadOnlyReplicaError
from estoria.postgres._event_store import AppendHook, PostgresEventStore
from estoria.postgres._schema import schema_sql
from estoria.postgres._snapshot_store import PostgresSnapshotStore
from estoria.postgres._transaction import PostgresTransaction

__all__ = [
    "AppendHook",
    "PermissionMissingError",
    "PostgresCheckpointStore",
    "PostgresEventStore",
    "PostgresSnapshotStore",
    "PostgresTransaction",
    "ReadOnlyReplicaError",
    "schema_sql",
]
