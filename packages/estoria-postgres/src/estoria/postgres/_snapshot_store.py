"""The snapshot store on PostgreSQL."""

from typing import Any

from psycopg.types.numeric import Int8

from estoria.core import Snapshot, TypeID
from estoria.core.backends import MAX_VERSION, check_bound, check_keep_newest, check_stream_id
from estoria.postgres import _schema, _statements
from estoria.postgres._connections import Connection, Connections, Pool, fetch
from estoria.postgres._streams import EPOCH, MICROSECOND, stream_key


class PostgresSnapshotStore:
    """Keeps snapshots in a table of a PostgreSQL database; one round trip for each call."""

    def __init__(
        self,
        pool: Pool,
        *,
        schema: str = _schema.DEFAULT_SCHEMA,
        keep_newest: int | None = 1,
    ) -> None:
        """Takes an open pool, and never closes it.

        `keep_newest` snapshots of each aggregate stay, one by default, or all when it is None.
        `schema` is that of `PostgresEventStore`. Nothing is prepared, so any pooler will do.
        """
        self.keep_newest = check_keep_newest(keep_newest)
        self._connections = Connections(pool, _schema.SNAPSHOTS, schema=schema)
        self._statements = _statements.statements(schema)

    async def setup(self) -> None:
        """Create or migrate the table; safe to repeat and to run in several processes."""
        await self._connections.setup()

    async def read_snapshot(
        self, aggregate_id: TypeID, *, max_version: int | None = None
    ) -> Snapshot | None:
        """See `SnapshotStore.read_snapshot`."""
        check_stream_id(aggregate_id)
        bound = MAX_VERSION if max_version is None else check_bound("max_version", max_version)
        parameters = {**stream_key(aggregate_id), "max_version": Int8(bound)}
        rows = await self._run(self._statements.read_snapshot, parameters)
        if not rows:
            return None
        version, timestamp, data, content_type = rows[0]
        moment = EPOCH + timestamp * MICROSECOND
        return Snapshot(aggregate_id, version, moment, data, content_type)

    async def write_snapshot(self, snapshot: Snapshot) -> None:
        """See `SnapshotStore.write_snapshot`."""
        parameters = {
            **stream_key(snapshot.aggregate_id),
            "version": Int8(snapshot.aggregate_version),
            "timestamp": Int8((snapshot.timestamp - EPOCH) // MICROSECOND),
            "content_type": snapshot.data_content_type,
            "data": snapshot.data,
        }
        if self.keep_newest is None:
            await self._run(self._statements.write_snapshot, parameters)
        else:
            parameters["keep"] = Int8(self.keep_newest)
            await self._run(self._statements.write_and_prune_snapshots, parameters)

    async def delete_snapshots(self, aggregate_id: TypeID) -> None:
        """See `SnapshotStore.delete_snapshots`."""
        check_stream_id(aggregate_id)
        await self._run(self._statements.delete_snapshots, stream_key(aggregate_id))

    async def _run(self, statement: bytes, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        async def run(connection: Connection) -> list[tuple[Any, ...]]:
            # Planned anew each time: a plan made while the table was small passes its index by.
            return await fetch(connection, statement, parameters, prepare=False)

        return await self._connections.run(run)
