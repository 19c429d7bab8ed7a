"""PostgreSQL by hand, on the tables of `estoria.postgres`, through psycopg and its pool.

One prepared statement that the server commits by itself, since a round trip and a sync of the
disk cost more than all the rest; arrays for a batch, since a row of parameters each would need a
statement for every size; positions from a sequence under the shared lock that keeps them a stable
prefix. Nothing better is known. No checks of what is given, no values are built but tuples.

`AllocatorRow` is the same with positions from one row, which every writer locks until its commit.
"""

from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.numeric import Int8
from psycopg_pool import AsyncConnectionPool

Row = tuple[UUID, str, str, str, bytes]
"""Id, type, content type, metadata and data."""

_LOCK = (
    "pg_advisory_xact_lock_shared('estoria.positions'::regclass::oid::int, "
    "((SELECT last_value FROM estoria.positions WHERE moved.key IS NOT NULL) & 2147483647)::int)"
)
_COLUMNS = "position, stream, version, reserved, timestamp, id, type, content_type, metadata, data"
_MOVE = (
    "WITH moved AS (UPDATE estoria.streams SET version = version + %s WHERE type = %s "
    "AND uuid = %s AND alive AND version = %s RETURNING key, version), "
)
_CREATE = (
    "WITH moved AS (INSERT INTO estoria.streams "
    "(version, type, uuid, alive, first_version, origin, largest)"
    " VALUES (%s, %s, %s, true, 1, 0, 100) ON CONFLICT DO NOTHING RETURNING key, version), "
)
_HELD = f"held AS MATERIALIZED (SELECT moved.*, {_LOCK} FROM moved), "  # noqa: S608 - constants
_ONE = (
    f"written AS (INSERT INTO estoria.events ({_COLUMNS}) "  # noqa: S608 - constants
    "SELECT nextval('estoria.positions'), key, version, false, %s, %s, %s, %s, %s, %b FROM held "
    "RETURNING position) SELECT version, position FROM held, written"
)
_MANY = (
    f"written AS (INSERT INTO estoria.events ({_COLUMNS}) "  # noqa: S608 - constants
    "SELECT nextval('estoria.positions'), key, version - %s + number, false, %s, e.id, e.type, "
    "e.content_type, e.metadata, e.data FROM held CROSS JOIN unnest(%b, %b, %b, %b, %b) "
    "WITH ORDINALITY AS e (id, type, content_type, metadata, data, number) RETURNING position) "
    "SELECT version, (SELECT array_agg(position) FROM written) FROM held"
)
_ALLOCATED = (
    # One row for everybody: it stays locked until the commit.
    "held AS (UPDATE estoria.allocator SET position = position + 1 WHERE (SELECT key FROM moved) "  # noqa: S608 - constants
    "IS NOT NULL RETURNING position), "
    f"written AS (INSERT INTO estoria.events ({_COLUMNS}) "
    "SELECT position, key, version, false, %s, %s, %s, %s, %s, %b FROM held, moved "
    "RETURNING position) SELECT version, position FROM moved, written"
)
_NEW_ALLOCATOR = (
    "CREATE TABLE IF NOT EXISTS estoria.allocator (position bigint NOT NULL) WITH (fillfactor = 10)"
)


class RawPostgres:
    """Appends through a pool, whose owner closes it."""

    def __init__(self, pool: "AsyncConnectionPool[Any]") -> None:
        self._pool = pool

    async def append_one(
        self, type: str, uuid: UUID, version: int, timestamp: int, row: Row
    ) -> int:
        """Append one event at this exact version; its position."""
        statement = (_MOVE if version else _CREATE) + _HELD + _ONE
        return await self._append_one(statement, type, uuid, version, timestamp, row)

    async def append(
        self, type: str, uuid: UUID, version: int, timestamp: int, rows: list[Row]
    ) -> list[int]:
        """Append many events at this exact version; their positions."""
        count = Int8(len(rows))
        start: tuple[object, ...] = (count, type, uuid)
        statement = _CREATE
        if version:
            start, statement = (*start, Int8(version)), _MOVE
        columns = map(list, zip(*rows, strict=True))
        values = (*start, count, Int8(timestamp), *columns)
        _, positions = await self._run(statement + _HELD + _MANY, values)
        return list(positions)

    async def _append_one(
        self, statement: str, type: str, uuid: UUID, version: int, timestamp: int, row: Row
    ) -> int:
        start: tuple[object, ...] = (Int8(1), type, uuid)
        if version:
            start = (*start, Int8(version))
        _, position = await self._run(statement, (*start, Int8(timestamp), *row))
        return int(position)

    async def _run(self, statement: str, values: tuple[object, ...]) -> Any:
        async with self._pool.connection() as connection:
            cursor = psycopg.AsyncCursor(connection)
            await cursor.execute(statement.encode(), values, prepare=True, binary=True)
            return await cursor.fetchone()


class AllocatorRow(RawPostgres):
    """The stable prefix for free: every writer waits for the one before to commit."""

    async def setup(self) -> None:
        """Make the row."""
        async with self._pool.connection() as connection:
            await connection.execute(_NEW_ALLOCATOR)
            await connection.execute("INSERT INTO estoria.allocator VALUES (0)")

    async def append_one(
        self, type: str, uuid: UUID, version: int, timestamp: int, row: Row
    ) -> int:
        """Append one event at this exact version; its position."""
        statement = (_MOVE if version else _CREATE) + _ALLOCATED
        return await self._append_one(statement, type, uuid, version, timestamp, row)
