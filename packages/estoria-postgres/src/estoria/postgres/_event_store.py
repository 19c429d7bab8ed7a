"""The event store on PostgreSQL."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from psycopg.errors import UniqueViolation
from psycopg.types.numeric import Int8

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
from estoria.postgres import _schema, _statements, _streams
from estoria.postgres._connect import open_pool
from estoria.postgres._connections import Connection, Connections, FailedHookError, Pool, fetch
from estoria.postgres._errors import ReadOnlyReplicaError
from estoria.postgres._transaction import PostgresTransaction

AppendHook = Callable[[Connection, Sequence[Event]], Awaitable[None]]
"""``async def hook(connection, events)``: runs in the append's transaction, after the inserts."""

MAX_EVENT_BYTES = 128 * 2**20

_ATTEMPTS = 20
_PAGE_STREAMS = 500
_MAX_KNOWN_STREAMS = 100_000
_BEFORE_ALL = {"type": "", "uuid": UUID(int=0)}


class PostgresEventStore:
    """Keeps events in a schema of a PostgreSQL database: one table for all, one for streams.

    Writers of one stream wait for each other; writers of different streams wait for nobody.
    Readers wait for nobody. An append whose transaction stays open holds back what global
    readers may see above its first position, and bounds nothing else; the server's
    ``idle_in_transaction_session_timeout`` and ``statement_timeout`` end one that hangs.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        schema: str = _schema.DEFAULT_SCHEMA,
        hooks: Sequence[AppendHook] = (),
        max_event_bytes: int = MAX_EVENT_BYTES,
        prepare: bool = True,
    ) -> None:
        """Takes an open pool, of whatever settings, and never closes it.

        `schema` is the database's schema that holds the tables, ``estoria`` by default.
        `hooks` run in order inside each append's transaction, which then takes more than one
        round trip: what one raises rolls the append back and passes through. A hook may run
        more than once for an append whose transaction is tried again; it commits once.
        `max_event_bytes` bounds one payload, 128 MiB by default. With `prepare`, the default,
        statements are prepared; turn it off for a pooler that can't share sessions with
        prepared statements, such as PgBouncer before 1.21 in transaction mode.
        """
        self.max_event_bytes = max_event_bytes
        self._connections = Connections(pool, _schema.EVENTS, schema=schema)
        self._plans = _statements.Plans(schema)
        self._hooks = tuple(hooks)
        self._prepare = prepare
        self._stream_ids: dict[int, TypeID] = {}

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        hooks: Sequence[AppendHook] = (),
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> AsyncIterator["PostgresEventStore"]:
        """A store on the database of this URL, with a pool that it opens and closes.

        ``postgresql://user:password@host:5432/database``, with everything that libpq takes;
        and in its query ``schema=NAME``, ``pool_size=NUMBER`` (10), ``pool_timeout=SECONDS``
        (30, how long to wait for a connection) and ``prepare=false``.

        Raises `ValueError` for a URL that can't be read, and `StoreUnavailableError` when
        nobody answers there or the password is wrong.
        """
        async with open_pool(url) as (pool, schema, prepare):
            yield cls(
                pool, schema=schema, hooks=hooks, max_event_bytes=max_event_bytes, prepare=prepare
            )

    async def setup(self) -> None:
        """Create or migrate the tables; safe to repeat and to run in several processes."""
        await self._connections.setup()

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
        given = _streams.Append(stream_id, batch, expected, _streams.microseconds_now())
        chunks = given.chunks()

        async def append(connection: Connection) -> Appended:
            for _ in range(_ATTEMPTS):
                appended = await self._append(connection, given, chunks)
                if appended is not None:
                    return appended
                # A statement of its own: the first one's snapshot may be older than its refusal.
                first, version = await _streams.happened(
                    connection, self._plans, given, prepare=self._prepare
                )
                if first is not None:
                    return first
                if not given.holds(version):
                    raise StreamVersionMismatchError(stream_id, expected, version)
            raise StoreUnavailableError(
                self._connections.where, "appends are refused that should be accepted: try again"
            )

        return await self._connections.run(append)

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
        reader = _streams.StreamReader(
            self._plans, stream_id, reverse=reverse, prepare=self._prepare
        )

        async def fetch_page(
            first: int, last: int, limit: int
        ) -> tuple[StreamInfo | None, Sequence[Event]]:
            async def read(connection: Connection) -> tuple[StreamInfo | None, list[Event]]:
                return await reader.page(connection, first, last, limit)

            return await self._connections.run(read)

        return StreamIterator(
            fetch_page,
            stream_id,
            after_version=after_version,
            reverse=reverse,
            before_version=before_version,
            count=count,
            page_events=_streams.PAGE_EVENTS,
        )

    def read_all(
        self,
        *,
        after_position: int = 0,
        count: int | None = None,
        stream_types: Collection[str] | None = None,
        event_types: Collection[str] | None = None,
    ) -> EventIterator:
        """See `GlobalReader.read_all`. Raises `ReadOnlyReplicaError` on a replica."""
        of_streams = check_filter("stream_types", stream_types)
        of_events = check_filter("event_types", event_types)
        filtered = of_streams is not None, of_events is not None
        filters = {"stream_types": of_streams, "event_types": of_events}

        async def fetch_page(after: int, frontier: int | None, limit: int) -> GlobalPage:
            async def read(connection: Connection) -> GlobalPage:
                settled = frontier
                if settled is None:
                    settled = await self._frontier(connection)
                if after >= settled:
                    return GlobalPage((), settled, None)
                parameters: dict[str, object] = {
                    "after": Int8(after),
                    "frontier": Int8(settled),
                    "limit": Int8(limit),
                    "page_bytes": Int8(_streams.PAGE_BYTES),
                    **filters,
                }
                statement = self._plans.current.all[filtered]
                rows = await self._fetch(connection, statement, parameters)
                known = await self._streams_of(connection, rows)
                page, size = _streams.of_all(rows, known)
                if page:
                    self._plans.seen(page[-1].global_position)
                if len(page) < limit and size <= _streams.PAGE_BYTES:
                    return GlobalPage(page, settled, None)
                if frontier is None and limit == _streams.PAGE_EVENTS:
                    settled = await self._last(connection, settled)
                return GlobalPage(page, settled, page[-1].global_position)

            return await self._connections.run(read)

        return GlobalIterator(
            fetch_page,
            after_position=after_position,
            count=count,
            page_events=_streams.PAGE_EVENTS,
        )

    async def head_position(self) -> int:
        """See `GlobalReader.head_position`. Raises `ReadOnlyReplicaError` on a replica."""

        async def head(connection: Connection) -> int:
            return await self._last(connection, await self._frontier(connection))

        return await self._connections.run(head)

    async def delete_stream(self, stream_id: TypeID) -> None:
        """See `StreamDeleter.delete_stream`."""
        check_stream_id(stream_id)
        seen: StreamInfo | None = None

        async def delete(connection: Connection) -> None:
            nonlocal seen
            while True:
                found = await self._find(connection, stream_id)
                if seen is not None and (found is None or found.origin > seen.version):
                    # An attempt whose answer was lost, or somebody else at the same time.
                    return
                if found is None:
                    raise StreamNotFoundError(stream_id)
                seen = found
                parameters = {**_streams.stream_key(stream_id), "to_version": Int8(found.version)}
                if await self._fetch(connection, self._plans.current.delete_stream, parameters):
                    return

        await self._connections.run(delete)

    async def truncate_stream(self, stream_id: TypeID, to_version: int) -> None:
        """See `StreamTruncator.truncate_stream`."""
        check_stream_id(stream_id)

        async def truncate(connection: Connection) -> None:
            while True:
                stream = await self._find(connection, stream_id)
                if stream is None:
                    raise StreamNotFoundError(stream_id)
                check_truncation(stream, to_version)
                parameters = {
                    **_streams.stream_key(stream_id),
                    "origin": Int8(stream.origin),
                    "to_version": Int8(to_version),
                }
                if await self._fetch(connection, self._plans.current.truncate_stream, parameters):
                    return

        await self._connections.run(truncate)

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

    def within(self, connection: Connection) -> PostgresTransaction:
        """See `TransactionSharing.within`.

        `connection` is the caller's own `psycopg.AsyncConnection` to this store's database,
        with a transaction open; one whose autocommit is off has one always. Until the caller
        commits, writers of the same streams wait, and global readers stop below the first
        position that was taken; nobody else notices.
        """
        return PostgresTransaction(
            connection,
            self._connections,
            self._plans,
            max_event_bytes=self.max_event_bytes,
            prepare=self._prepare,
        )

    async def _append(
        self, connection: Connection, given: _streams.Append, chunks: list[list[NewEvent]]
    ) -> Appended | None:
        """None when the expectation doesn't hold, or an id stands in the stream already."""

        async def append() -> Appended | None:
            return await _streams.append(
                connection, self._plans, given, chunks, prepare=self._prepare
            )

        try:
            if len(chunks) == 1 and not self._hooks:
                return await append()
            async with connection.transaction():
                appended = await append()
                if appended is not None:
                    await self._run_hooks(connection, appended)
                return appended
        except UniqueViolation:
            return None

    async def _run_hooks(self, connection: Connection, appended: Appended) -> None:
        for hook in self._hooks:
            try:
                await hook(connection, appended)
            except Exception as error:
                raise FailedHookError from error

    async def _list(
        self, stream_type: str | None, count: int | None, after: TypeID | None
    ) -> AsyncIterator[StreamInfo]:
        statement = self._plans.current.list
        if stream_type is not None:
            statement = self._plans.current.list_of_type
        left = count
        while True:
            limit = min(_PAGE_STREAMS, left or _PAGE_STREAMS)
            parameters = {
                "stream_type": stream_type,
                "limit": Int8(limit),
                **(_streams.stream_key(after) if after else _BEFORE_ALL),
            }

            async def read(
                connection: Connection, parameters: dict[str, object] = parameters
            ) -> list[tuple[Any, ...]]:
                return await fetch(connection, statement, parameters, prepare=False)

            rows = await self._connections.run(read)
            for type, uuid, *facts in rows:
                after = TypeID(type, uuid)
                yield StreamInfo(after, *facts)
            if left is not None:
                left -= len(rows)
            if len(rows) < limit or left == 0:
                return

    async def _frontier(self, connection: Connection) -> int:
        rows = await self._fetch(connection, self._plans.current.frontier, {})
        in_recovery, frontier = rows[0]
        if in_recovery:
            raise ReadOnlyReplicaError(self._connections.where, "reading all streams in order")
        return int(frontier)

    async def _last(self, connection: Connection, frontier: int) -> int:
        parameters = {"frontier": Int8(frontier)}
        rows = await self._fetch(connection, self._plans.current.last, parameters)
        return int(rows[0][0])

    async def _find(self, connection: Connection, stream_id: TypeID) -> StreamInfo | None:
        return await _streams.find(connection, self._plans, stream_id, prepare=self._prepare)

    async def _fetch(
        self, connection: Connection, statement: bytes, parameters: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        return await fetch(connection, statement, parameters, prepare=self._prepare)

    async def _streams_of(
        self, connection: Connection, rows: list[tuple[Any, ...]]
    ) -> dict[int, TypeID]:
        """The ids of streams by their keys, which are never used again; asked for once."""
        if len(self._stream_ids) > _MAX_KNOWN_STREAMS:
            self._stream_ids = {}
        known = self._stream_ids
        missing = {row[-1] for row in rows} - known.keys()
        if missing:
            parameters = {"keys": [Int8(key) for key in missing]}
            found = await self._fetch(connection, self._plans.current.stream_ids, parameters)
            known.update((key, TypeID(type, uuid)) for key, type, uuid in found)
        return known
