"""Working inside a transaction that the caller has open."""

from collections.abc import Sequence

import psycopg
from psycopg.pq import TransactionStatus

from estoria.core import (
    Appended,
    Event,
    Expect,
    NewEvent,
    StoreClosedError,
    StoreUnavailableError,
    StreamInfo,
    StreamIterator,
    StreamVersionMismatchError,
    TransactionAbortedError,
    TransactionRequiredError,
    TypeID,
)
from estoria.core.backends import check_events, check_expectation
from estoria.postgres import _streams
from estoria.postgres._connections import Connection, Connections
from estoria.postgres._errors import named_errors_inside
from estoria.postgres._statements import Plans

_ATTEMPTS = 20


class PostgresTransaction:
    """Appends to and reads streams on the caller's connection; see `PostgresEventStore.within`."""

    def __init__(
        self,
        connection: Connection,
        connections: Connections,
        plans: Plans,
        *,
        max_event_bytes: int,
        prepare: bool,
    ) -> None:
        if not isinstance(connection, psycopg.AsyncConnection):
            raise TypeError(
                f"connection is a {type(connection).__name__}, not a psycopg.AsyncConnection"
            )
        self._connection = connection
        self._connections = connections
        self._prepare = prepare
        self._plans = plans
        self._max_event_bytes = max_event_bytes

    async def append_stream(
        self,
        stream_id: TypeID,
        events: Sequence[NewEvent],
        *,
        expect: Expect | int = Expect.ANY,
    ) -> Appended:
        """See `StreamWriter.append_stream`.

        When the same batch is being appended elsewhere at the same time, and that commits
        first, `TransactionAbortedError` may stand for what would have been its result.
        """
        expected = check_expectation(expect)
        batch = check_events(stream_id, events, self._max_event_bytes)
        if not batch:
            return Appended()
        given = _streams.Append(stream_id, batch, expected, _streams.microseconds_now())
        await self._check()
        with named_errors_inside(self._connection, self._connections.where):
            for _ in range(_ATTEMPTS):
                appended = await _streams.append(
                    self._connection,
                    self._plans,
                    given,
                    given.chunks(),
                    prepare=self._prepare,
                    inside=True,
                )
                if appended is not None:
                    return appended
                first, version = await _streams.happened(
                    self._connection, self._plans, given, prepare=self._prepare
                )
                if first is not None:
                    return first
                if not given.holds(version):
                    raise StreamVersionMismatchError(stream_id, expected, version)
        raise StoreUnavailableError(
            self._connections.where, "appends are refused that should be accepted: try again"
        )

    def read_stream(
        self,
        stream_id: TypeID,
        *,
        after_version: int = 0,
        reverse: bool = False,
        before_version: int | None = None,
        count: int | None = None,
    ) -> StreamIterator:
        """See `StreamWriter.read_stream`."""
        reader = _streams.StreamReader(
            self._plans, stream_id, reverse=reverse, prepare=self._prepare
        )

        async def fetch_page(
            first: int, last: int, limit: int
        ) -> tuple[StreamInfo | None, Sequence[Event]]:
            await self._check()
            with named_errors_inside(self._connection, self._connections.where):
                return await reader.page(self._connection, first, last, limit)

        return StreamIterator(
            fetch_page,
            stream_id,
            after_version=after_version,
            reverse=reverse,
            before_version=before_version,
            count=count,
            page_events=_streams.PAGE_EVENTS,
        )

    async def _check(self) -> None:
        """Raise unless a transaction is open, or begins by itself with the next statement."""
        if self._connection.closed:
            raise StoreClosedError("the connection")
        status = self._connection.info.transaction_status
        if status == TransactionStatus.INERROR:
            raise TransactionAbortedError("an earlier statement of it has failed")
        if status == TransactionStatus.IDLE and self._connection.autocommit:
            raise TransactionRequiredError(
                'open one with "async with connection.transaction():", or turn autocommit off'
            )
        with named_errors_inside(self._connection, self._connections.where):
            await self._connections.check(self._connection)
