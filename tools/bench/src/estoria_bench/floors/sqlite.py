"""SQLite by hand, on the tables of `estoria.sqlite`, from an event loop.

One thread with one connection, since SQLite has one writer; a whole transaction crosses to it
and back once, since a crossing costs more than a statement; writers that wait share a
transaction, since its sync of the disk costs more than all the rest. Nothing better is known.
No checks of what is given, no values are built but tuples.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from uuid import UUID

Row = tuple[bytes, str, int, bytes, str, str]
"""Id, type, timestamp, data, content type and metadata."""

MOVE = (
    "UPDATE estoria_streams SET version = version + ? "
    "WHERE type = ? AND uuid = ? AND alive AND version = ? RETURNING key, first_version, origin"
)
CREATE = (
    "INSERT INTO estoria_streams (type, uuid, alive, version, first_version, origin) "
    "VALUES (?, ?, 1, ?, 1, 0) ON CONFLICT DO NOTHING RETURNING key, first_version, origin"
)
INSERT = (
    "INSERT INTO estoria_events (stream, version, id, type, timestamp, data, content_type, "
    "metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
ALL = (
    "SELECT e.version, e.position, e.id, e.type, e.timestamp, e.data, e.content_type, "
    "e.metadata, e.stream FROM estoria_events AS e WHERE e.position > ? AND e.position <= ? "
    "ORDER BY e.position LIMIT ?"
)
HEAD = "SELECT seq FROM sqlite_sequence WHERE name = 'estoria_events'"


class RawSQLite:
    """One connection, in one thread, behind a queue."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        while (job := self._jobs.get()) is not None:
            results: list[tuple[asyncio.Future[Any], Any]] = []
            connection.execute("BEGIN IMMEDIATE")
            while True:
                results.append((job[1], job[0](connection)))
                if len(results) == 256 or self._jobs.empty():
                    break
                if (job := self._jobs.get()) is None:
                    self._jobs.put(None)
                    break
            connection.execute("COMMIT")
            results[0][0].get_loop().call_soon_threadsafe(_settle, results)
        connection.close()

    async def _run(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._jobs.put((work, future))
        return await future

    async def append(self, type: str, uuid: UUID, version: int, rows: list[Row]) -> int:
        """Append at this exact version; the last position."""

        def append(connection: sqlite3.Connection) -> int:
            if version:
                moved = connection.execute(MOVE, (len(rows), type, uuid.bytes, version)).fetchone()
            else:
                moved = connection.execute(CREATE, (type, uuid.bytes, len(rows))).fetchone()
            key = moved[0]
            new = [(key, number, *row) for number, row in enumerate(rows, version + 1)]
            if len(new) > 1:
                connection.executemany(INSERT, new[:-1])
            return connection.execute(INSERT, new[-1]).lastrowid or 0

        position: int = await self._run(append)
        return position

    async def read_all(self, page: int) -> int:
        """Fetch every event as a tuple, page by page; how many there were."""

        def fetch(connection: sqlite3.Connection) -> int:
            (head,) = connection.execute(HEAD).fetchone()
            after, count = 0, 0
            while rows := connection.execute(ALL, (after, head, page)).fetchall():
                after = rows[-1][1]
                count += len(rows)
            return count

        count: int = await self._run(fetch)
        return count


def _settle(results: list[tuple["asyncio.Future[Any]", Any]]) -> None:
    for future, result in results:
        if not future.done():
            future.set_result(result)
