"""The checkpoint store on SQLite."""

import sqlite3

from estoria.core import Checkpoint, ProjectionID
from estoria.core.backends import check_position, check_projection_id
from estoria.sqlite import _schema
from estoria.sqlite._database import SQLiteDatabase
from estoria.sqlite._streams import EPOCH, MICROSECOND, microseconds_now


class SQLiteCheckpointStore:
    """Keeps checkpoints in a table of a SQLite file."""

    def __init__(self, database: SQLiteDatabase) -> None:
        """Takes an open database, and never closes it."""
        self._database = database
        self._checked = False

    async def setup(self) -> None:
        """Create or migrate the table; safe to repeat and to run in several processes."""
        where = self._database.where
        await self._database.write(lambda c: _schema.set_up(c, _schema.CHECKPOINTS, where))
        self._checked = True

    async def load(self, projection_id: ProjectionID) -> Checkpoint | None:
        """See `CheckpointStore.load`."""
        check_projection_id(projection_id)

        def load(connection: sqlite3.Connection) -> Checkpoint | None:
            self._check_schema(connection)
            key = projection_id.name, projection_id.version
            row = connection.execute(_schema.LOAD_CHECKPOINT, key).fetchone()
            return row and Checkpoint(row[0], EPOCH + row[1] * MICROSECOND)

        return await self._database.read(load)

    async def save(self, projection_id: ProjectionID, position: int) -> None:
        """See `CheckpointStore.save`."""
        check_projection_id(projection_id)
        now = microseconds_now()
        row = (projection_id.name, projection_id.version, check_position(position), now)

        def save(connection: sqlite3.Connection) -> None:
            self._check_schema(connection)
            connection.execute(_schema.SAVE_CHECKPOINT, row)

        await self._database.write(save)

    async def delete(self, projection_id: ProjectionID) -> None:
        """See `CheckpointStore.delete`."""
        check_projection_id(projection_id)

        def delete(connection: sqlite3.Connection) -> None:
            self._check_schema(connection)
            key = projection_id.name, projection_id.version
            connection.execute(_schema.DELETE_CHECKPOINT, key)

        await self._database.write(delete)

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        if not self._checked:
            _schema.check(connection, _schema.CHECKPOINTS, self._database.where)
            self._checked = True
