"""The event store on SQLite."""

import os
import sqlite3
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec

from estoria.core import (
    Appended,
    Event,
    EventIterator,
    Expect,
    NewEvent,
    StoreUnavailableError,
    StreamInfo,
    StreamIterator,
    StreamNotFoundError,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.backends import (
    GlobalIterator,
    GlobalPage,
    check_count,
    check_events,
    check_expectation,
    check_filter,
    check_name,
    check_stream_id,
    check_truncation,
)
from estoria.sqlite import _schema, _streams
from estoria.sqlite._database import SQLiteDatabase
from estoria.sqlite._transaction import SQLiteTransaction

MAX_EVENT_BYTES = 128 * 2**20

_ATTEMPTS = 3
_PAGE_STREAMS = 500
_MAX_KNOWN_STREAMS = 100_000


class SQLiteEventStore:
    """Keeps events in a SQLite file: one table for all events, one for the streams.

    Writers wait for each other: SQLite has one at a time, and a transaction that stays open
    delays all of them, up to the database's ``busy_timeout``; then they raise
    `StoreBusyError`. Since positions are taken in the order of the commits, global reads are
    a stable prefix by themselves. Readers wait for nobody.
    """

    def __init__(self, database: SQLiteDatabase, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        """Takes an open database, and never closes it.

        `max_event_bytes` bounds one payload, 128 MiB by default.
        """
        self.max_event_bytes = max_event_bytes
        self._database = database
        self._checked = False
        self._stream_ids: dict[int, TypeID] = {}

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str | os.PathLike[str]) -> AsyncIterator["SQLiteEventStore"]:
        """A store on the file of this URL (or path), which it opens, creates and closes.

        ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite:///:memory:``, with
        the options of `SQLiteDatabase.open` as a query. Raises what that raises.
        """
        path = os.fspath(url)
        if path[:7].lower() == "sqlite:":
            opened = SQLiteDatabase.open_url(path)
        else:
            opened = SQLiteDatabase.open(path)
        async with opened as database:
            yield cls(database)

    async def setup(self) -> None:
        """Create or migrate the tables; safe to repeat and to run in several processes."""
        where = self._database.where
        await self._database.write(lambda c: _schema.set_up(c, _schema.EVENTS, where))
        self._checked = True

    async def append_stream(
        self,
        stream_id: TypeID,
        events: Sequence[NewEvent],
        *,
        expect: Expect | int = Expect.ANY,
    ) -> Appended:
        """See `EventStore.append_stream`."""
        expected = check_expectation(expect)
        batch = check_events(stream_id, events, self.max_event_bytes)
        if not batch:
            return Appended()
        now = _streams.microseconds_now()

        def append(connection: sqlite3.Connection) -> Appended:
            if not self._checked:
                self._check_schema(connection)
            appended = _streams.append(connection, stream_id, batch, expected, now)
            if appended is None:
                appended, version = _streams.happened(connection, stream_id, batch, expected)
            if appended is None:
                raise StreamVersionMismatchError(stream_id, expected, version)
            return appended

        for _ in range(_ATTEMPTS):
            try:
                return await self._database.write(append)
            except _streams.IdsStandError:
                first, _ = await self._database.read(
                    lambda c: _streams.happened(c, stream_id, batch, expected)
                )
                if first is not None:
                    return first
        raise StoreUnavailableError(self._database.where, "its indexes don't fit its events")

    def read_stream(
        self,
        stream_id: TypeID,
        *,
        after_version: int = 0,
        reverse: bool = False,
        before_version: int | None = None,
        count: int | None = None,
    ) -> StreamIterator:
        """See `EventStore.read_stream`."""

        async def fetch(
            first: int, last: int, limit: int
        ) -> tuple[StreamInfo | None, Sequence[Event]]:
            def read(connection: sqlite3.Connection) -> tuple[StreamInfo | None, list[Event]]:
                self._check_schema(connection)
                return _streams.read(connection, stream_id, first, last, limit, reverse=reverse)

            return await self._database.read(read)

        return StreamIterator(
            fetch,
            stream_id,
            after_version=after_version,
            reverse=reverse,
            before_version=before_version,
            count=count,
        )

    def read_all(
        self,
        *,
        after_position: int = 0,
        count: int | None = None,
        stream_types: Collection[str] | None = None,
        event_types: Collection[str] | None = None,
    ) -> EventIterator:
        """See `GlobalReader.read_all`."""
        of_streams = check_filter("stream_types", stream_types)
        of_events = check_filter("event_types", event_types)
        statement = _schema.ALL[of_streams is not None, of_events is not None]
        filters = {
            name: msgspec.json.encode(types).decode()
            for name, types in (("stream_types", of_streams), ("event_types", of_events))
            if types is not None
        }

        async def fetch(after: int, frontier: int | None, limit: int) -> GlobalPage:
            def read(connection: sqlite3.Connection) -> GlobalPage:
                self._check_schema(connection)
                settled = self._head(connection) if frontier is None else frontier
                parameters = {"after": after, "frontier": settled, "limit": limit, **filters}
                rows = connection.execute(statement, parameters)
                page = _streams.events(connection, rows, self._known_streams())
                cut = len(page) == limit or rows.fetchone() is not None
                return GlobalPage(page, settled, page[-1].global_position if cut else None)

            return await self._database.read(read)

        return GlobalIterator(fetch, after_position=after_position, count=count)

    async def head_position(self) -> int:
        """See `GlobalReader.head_position`."""

        def read(connection: sqlite3.Connection) -> int:
            self._check_schema(connection)
            return self._head(connection)

        return await self._database.read(read)

    async def delete_stream(self, stream_id: TypeID) -> None:
        """See `StreamDeleter.delete_stream`."""
        check_stream_id(stream_id)

        def delete(connection: sqlite3.Connection) -> None:
            key, stream = self._existing(connection, stream_id)
            connection.execute(_schema.RETIRE_STREAM, (key,))
            connection.execute(_schema.DELETE_EVENTS, (key, stream.version))

        await self._database.write(delete)

    async def truncate_stream(self, stream_id: TypeID, to_version: int) -> None:
        """See `StreamTruncator.truncate_stream`."""
        check_stream_id(stream_id)

        def truncate(connection: sqlite3.Connection) -> None:
            key, stream = self._existing(connection, stream_id)
            check_truncation(stream, to_version)
            parameters = {"key": key, "first_version": to_version + 1}
            connection.execute(_schema.MOVE_FIRST_VERSION, parameters)
            connection.execute(_schema.DELETE_EVENTS, (key, to_version))

        await self._database.write(truncate)

    def list_streams(
        self,
        *,
        stream_type: str | None = None,
        count: int | None = None,
        after: TypeID | None = None,
    ) -> AsyncIterator[StreamInfo]:
        """See `StreamLister.list_streams`."""
        check_count(count)
        if stream_type is not None:
            check_name(stream_type, "stream_type")
        if after is not None:
            check_stream_id(after)
        return self._list(stream_type, count, after)

    def within(self, connection: sqlite3.Connection) -> SQLiteTransaction:
        """See `TransactionSharing.within`.

        `connection` is the caller's own `sqlite3.Connection` to this store's file, with a
        transaction open. Everything runs on it at once, in the thread of the caller: the
        event loop waits meanwhile. Until the caller commits, all other writers wait, up to
        their ``busy_timeout``; readers don't.

        Raises `ValueError` for a connection to another file, and for a store in memory, which
        nobody else can connect to.
        """
        return SQLiteTransaction(connection, self._database, self.max_event_bytes)

    async def _list(
        self, stream_type: str | None, count: int | None, after: TypeID | None
    ) -> AsyncIterator[StreamInfo]:
        statement = _schema.LIST if stream_type is None else _schema.LIST_OF_TYPE
        left = count
        while True:
            limit = min(_PAGE_STREAMS, left or _PAGE_STREAMS)
            parameters: dict[str, object] = {
                "type": after.type if after else "",
                "uuid": after.uuid.bytes if after else b"",
                "limit": limit,
            }
            if stream_type is not None:
                parameters["stream_type"] = stream_type

            def read(
                connection: sqlite3.Connection, parameters: dict[str, object] = parameters
            ) -> list[StreamInfo]:
                self._check_schema(connection)
                rows = connection.execute(statement, parameters)
                return [
                    StreamInfo(TypeID(type, UUID(bytes=uuid)), *facts)
                    for type, uuid, *facts in rows
                ]

            page = await self._database.read(read)
            for stream in page:
                yield stream
            if left is not None:
                left -= len(page)
            if len(page) < limit or left == 0:
                return
            after = page[-1].stream_id

    def _known_streams(self) -> dict[int, TypeID]:
        """The ids of streams by their keys, which are never used again."""
        if len(self._stream_ids) > _MAX_KNOWN_STREAMS:
            self._stream_ids = {}
        return self._stream_ids

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        if not self._checked:
            _schema.check(connection, _schema.EVENTS, self._database.where)
            self._checked = True

    def _head(self, connection: sqlite3.Connection) -> int:
        row = connection.execute(_schema.HEAD).fetchone()
        return row[0] if row else 0

    def _existing(
        self, connection: sqlite3.Connection, stream_id: TypeID
    ) -> tuple[int, StreamInfo]:
        self._check_schema(connection)
        found = _streams.find(connection, stream_id)
        if found is None:
            raise StreamNotFoundError(stream_id)
        return found
