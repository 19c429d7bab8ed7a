"""The checkpoint store on PostgreSQL."""

from typing import Any

from psycopg.types.numeric import Int8

from estoria.core import Checkpoint, ProjectionID
from estoria.core.backends import check_position, check_projection_id
from estoria.postgres import _schema, _statements
from estoria.postgres._connections import Connection, Connections, Pool, fetch
from estoria.postgres._streams import EPOCH, MICROSECOND, microseconds_now


class PostgresCheckpointStore:
    """Keeps checkpoints in a table of a PostgreSQL database; one round trip for each call."""

    def __init__(self, pool: Pool, *, schema: str = _schema.DEFAULT_SCHEMA) -> None:
        """Takes an open pool, and never closes it; `schema` is that of `PostgresEventStore`.

        Nothing is prepared, so any pooler will do.
        """
        self._connections = Connections(pool, _schema.CHECKPOINTS, schema=schema)
        self._statements = _statements.statements(schema)

    async def setup(self) -> None:
        """Create or migrate the table; safe to repeat and to run in several processes."""
        await self._connections.setup()

    async def load(self, projection_id: ProjectionID) -> Checkpoint | None:
        """See `CheckpointStore.load`."""
        rows = await self._run(self._statements.load_checkpoint, _key(projection_id))
        if not rows:
            return None
        position, updated_at = rows[0]
        return Checkpoint(position, EPOCH + updated_at * MICROSECOND)

    async def save(self, projection_id: ProjectionID, position: int) -> None:
        """See `CheckpointStore.save`."""
        parameters = {
            **_key(projection_id),
            "position": Int8(check_position(position)),
            "updated_at": Int8(microseconds_now()),
        }
        await self._run(self._statements.save_checkpoint, parameters)

    async def delete(self, projection_id: ProjectionID) -> None:
        """See `CheckpointStore.delete`."""
        await self._run(self._statements.delete_checkpoint, _key(projection_id))

    async def _run(self, statement: bytes, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        async def run(connection: Connection) -> list[tuple[Any, ...]]:
            return await fetch(connection, statement, parameters, prepare=False)

        return await self._connections.run(run)


def _key(projection_id: ProjectionID) -> dict[str, object]:
    check_projection_id(projection_id)
    return {"projection": projection_id.name, "version": Int8(projection_id.version)}
