"""Working inside a transaction that the caller has open."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure, PyMongoError

from estoria.core import (
    Appended,
    Event,
    Expect,
    NewEvent,
    StreamInfo,
    StreamIterator,
    TransactionAbortedError,
    TransactionRequiredError,
    TypeID,
)
from estoria.core.backends import StreamFetch, check_events, check_expectation
from estoria.mongodb._appends import Appends, Given, mismatch
from estoria.mongodb._database import Database, Session
from estoria.mongodb._documents import microseconds_now
from estoria.mongodb._errors import OutcomeUnknownError, is_aborted, named_error
from estoria.mongodb._frontier import Frontier
from estoria.mongodb._streams import Streams
from estoria.mongodb._transactions import RefusedError

Run = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class MongoTransaction:
    """Appends to and reads streams in the caller's transaction; see `MongoEventStore.within`."""

    def __init__(
        self,
        session: Session,
        database: Database,
        check: Callable[[], Awaitable[None]],
        streams: Streams,
        appends: Appends,
        frontier: Frontier,
        *,
        max_event_bytes: int,
    ) -> None:
        if not isinstance(session, AsyncClientSession):
            raise TypeError(
                f"connection is a {type(session).__name__}, not a pymongo AsyncClientSession"
            )
        self._session, self._database, self._check = session, database, check
        self._streams, self._appends, self._frontier = streams, appends, frontier
        self._max_event_bytes = max_event_bytes

    async def append_stream(
        self,
        stream_id: TypeID,
        events: Sequence[NewEvent],
        *,
        expect: Expect | int = Expect.ANY,
    ) -> Appended:
        """See `StreamWriter.append_stream`.

        Raises `TransactionAbortedError` when somebody else came first after the transaction
        began, or when it was open for so long that a reader gave its number up.
        """
        expected = check_expectation(expect)
        batch = check_events(stream_id, events, self._max_event_bytes)
        if not batch:
            return Appended()
        given = Given.of(stream_id, batch, expected, microseconds_now())
        async with self._inside():
            # Before the transaction's view of the database begins, if this is its first step.
            await self._appends.transactions.make_collection(stream_id.type)
            first, tip, left_over = await given.first_result(self._streams, self._session)
            if first is not None:
                return first
            if not given.holds(tip):
                raise mismatch(given, tip)
            if left_over:
                await self._appends.clean_up(stream_id, tip.first_version - 1)
                raise TransactionAbortedError("ids of deleted events were still in the way")
            documents = given.documents(tip)
            await self._appends.transactions.insert_inside(documents, tip.number, self._session)
            for document in documents:
                self._frontier.watch(document["_id"], self._session)
            return given.appended(documents, tip)[0]

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

        async def run(work: Callable[[], Awaitable[Any]]) -> Any:
            async with self._inside():
                return await work()

        return StreamIterator(
            page_fetch(self._streams, stream_id, run, reverse=reverse, session=self._session),
            stream_id,
            after_version=after_version,
            reverse=reverse,
            before_version=before_version,
            count=count,
        )

    @asynccontextmanager
    async def _inside(self) -> AsyncIterator[None]:
        """Raise unless a transaction is open, and the driver's errors under our names."""
        if not self._session.in_transaction:
            raise TransactionRequiredError(
                'open one with "async with await session.start_transaction():"'
            )
        try:
            await self._check()
            yield
        except (RefusedError, OutcomeUnknownError) as error:
            raise TransactionAbortedError("somebody else came first") from error
        except PyMongoError as error:
            if is_aborted(error):
                fault = "somebody else came first, or the server has ended it"
                if isinstance(error, OperationFailure) and error.details:
                    fault = error.details.get("codeName", fault)
                raise TransactionAbortedError(fault) from error
            raise named_error(error, self._database.where) from error


def page_fetch(
    streams: Streams,
    stream_id: TypeID,
    run: Run,
    *,
    reverse: bool,
    session: Session | None = None,
) -> StreamFetch:
    """The pages of one read of a stream."""
    ahead: list[Event] = []

    async def fetch(first: int, last: int, limit: int) -> tuple[StreamInfo | None, list[Event]]:
        nonlocal ahead

        async def read() -> tuple[StreamInfo | None, list[Event]]:
            return await streams.page(
                stream_id, (first, last), limit, reverse=reverse, ahead=ahead, session=session
            )

        stream, events = await run(read)
        ahead = events[limit:]
        return stream, events[:limit]

    return fetch
