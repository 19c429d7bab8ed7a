"""The snapshot store on SQLite."""

import sqlite3

from estoria.core import Snapshot, TypeID
from estoria.core.backends import MAX_VERSION, check_bound, check_keep_newest, check_stream_id
from estoria.sqlite import _schema
from estoria.sqlite._database import SQLiteDatabase
from estoria.sqlite._streams import EPOCH, MICROSECOND


class SQLiteSnapshotStore:
    """Keeps snapshots in a table of a SQLite file."""

    def __init__(self, database: SQLiteDatabase, *, keep_newest: int | None = 1) -> None:
        """Takes an open database, and never closes it.

        `keep_newest` snapshots of each aggregate stay, one by default, or all when it is None.
        """
        self.keep_newest = check_keep_newest(keep_newest)
        self._database = database
        self._checked = False

    async def setup(self) -> None:
        """Create or migrate the table; safe to repeat and to run in several processes."""
        where = self._database.where
        await self._database.write(lambda c: _schema.set_up(c, _schema.SNAPSHOTS, where))
        self._checked = True

    async def read_snapshot(
        self, aggregate_id: TypeID, *, max_version: int | None = None
    ) -> Snapshot | None:
        """See `SnapshotStore.read_snapshot`."""
        check_stream_id(aggregate_id)
        bound = MAX_VERSION if max_version is None else check_bound("max_version", max_version)
        key = aggregate_id.type, aggregate_id.uuid.bytes

        def read(connection: sqlite3.Connection) -> Snapshot | None:
            self._check_schema(connection)
            row = connection.execute(_schema.READ_SNAPSHOT, (*key, bound)).fetchone()
            if row is None:
                return None
            version, timestamp, data, content_type = row
            moment = EPOCH + timestamp * MICROSECOND
            return Snapshot(aggregate_id, version, moment, data, content_type)

        return await self._database.read(read)

    async def write_snapshot(self, snapshot: Snapshot) -> None:
        """See `SnapshotStore.write_snapshot`."""
        key = snapshot.aggregate_id.type, snapshot.aggregate_id.uuid.bytes
        row = (
            *key,
            snapshot.aggregate_version,
            (snapshot.timestamp - EPOCH) // MICROSECOND,
            snapshot.data,
            snapshot.data_content_type,
        )

        def write(connection: sqlite3.Connection) -> None:
            self._check_schema(connection)
            connection.execute(_schema.WRITE_SNAPSHOT, row)
            if self.keep_newest is not None:
                parameters = {"type": key[0], "uuid": key[1], "keep": self.keep_newest}
                connection.execute(_schema.PRUNE_SNAPSHOTS, parameters)

        await self._database.write(write)

    async def delete_snapshots(self, aggregate_id: TypeID) -> None:
        """See `SnapshotStore.delete_snapshots`."""
        check_stream_id(aggregate_id)
        key = aggregate_id.type, aggregate_id.uuid.bytes

        def delete(connection: sqlite3.Connection) -> None:
            self._check_schema(connection)
            connection.execute(_schema.DELETE_SNAPSHOTS, key)

        await self._database.write(delete)

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        if not self._checked:
            _schema.check(connection, _schema.SNAPSHOTS, self._database.where)
            self._checked = True
