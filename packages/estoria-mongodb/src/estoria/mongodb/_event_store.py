"""The event store on MongoDB."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from estoria.core import (
    Appended,
    Event,
    EventIterator,
    Expect,
    NewEvent,
    StreamInfo,
    StreamIterator,
    StreamNotFoundError,
    TypeID,
)
from estoria.core.backends import (
    GlobalIterator,
    check_count,
    check_events,
    check_expectation,
    check_filter,
    check_name,
    check_stream_id,
    check_truncation,
)
from estoria.mongodb import _schema
from estoria.mongodb._appends import Appends, Given
from estoria.mongodb._connect import open_client
from estoria.mongodb._database import TIMEOUT, Client, Database, Session
from estoria.mongodb._documents import (
    Tip,
    deletion_document,
    last_position,
    microseconds_now,
)
from estoria.mongodb._errors import ReplicaSetRequiredError
from estoria.mongodb._frontier import Frontier
from estoria.mongodb._global_reads import GlobalReads
from estoria.mongodb._layout import Layout
from estoria.mongodb._listing import list_streams
from estoria.mongodb._streams import Streams
from estoria.mongodb._transaction import MongoTransaction, page_fetch
from estoria.mongodb._transactions import FailedHookError

AppendHook = Callable[[Session, Sequence[Event]], Awaitable[None]]
"""``async def hook(session, events)``: runs in the append's transaction, after the inserts."""

MAX_EVENT_BYTES = 15 * 2**20
PATIENCE = 0.5

_COMPONENT = "events"

T = TypeVar("T")


class MongoEventStore:
    """Keeps events in a MongoDB database, one document for each append.

    Writers of one stream in one process wait for each other, and nobody else for anybody.
    Readers wait for nobody. A global read ends below an append that is under way; one that never
    finishes, since its process is gone, holds global reads back for `patience`.
    """

    def __init__(
        self,
        client: Client,
        database: str = "estoria",
        *,
        layout: Layout | None = None,
        hooks: Sequence[AppendHook] = (),
        max_event_bytes: int = MAX_EVENT_BYTES,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        """Takes a client, of whatever concerns and preferences, and never closes it.

        `layout` says which collection holds which streams, `Layout.single` by default. `hooks`
        run in order inside each append's transaction, so they need a replica set: what one
        raises rolls the append back and passes through. A hook may run more than once for an
        append whose transaction is tried again; it commits once. `max_event_bytes` bounds one
        payload, 15 MiB by default, which is also the most that fits. `timeout` is how many
        seconds a call tries, through elections and lost connections. `patience` is how many
        seconds global reads wait for an append that doesn't finish, before they give its number
        to nobody; it then takes a new one if it still lives.
        """
        if not patience >= 0:
            raise ValueError(f"patience is {patience!r}, not a number of seconds from 0 on")
        self.max_event_bytes = min(max_event_bytes, MAX_EVENT_BYTES)
        self._layout = layout or Layout.single()
        self._database = Database(client, database, timeout=timeout, component=_COMPONENT)
        numbered = self._layout.only or _schema.POSITIONS
        self._streams = Streams(self._database, self._layout)
        self._frontier = Frontier(self._database, numbered, patience)
        self._appends = Appends(self._database, self._streams, numbered, hooks)
        self._reads = GlobalReads(self._database, self._frontier, self._layout)
        self._checked = False

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        layout: Layout | None = None,
        hooks: Sequence[AppendHook] = (),
        max_event_bytes: int = MAX_EVENT_BYTES,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> AsyncIterator["MongoEventStore"]:
        """A store on the database of this URL, with a client that it opens and closes.

        ``mongodb://user:password@host:27017/database?replicaSet=rs0``, with everything that
        the driver takes; ``estoria`` is the database where none is named.

        Raises `ValueError` for a URL that can't be read, and `StoreUnavailableError` when nobody
        answers there within `timeout`, or the password is wrong.
        """
        async with open_client(url, timeout) as (client, database):
            store = cls(
                client,
                database,
                layout=layout,
                hooks=hooks,
                max_event_bytes=max_event_bytes,
                timeout=timeout,
                patience=patience,
            )
            try:
                yield store
            finally:
                await store._appends.close()

    async def setup(self) -> None:
        """Create the indexes; safe to repeat and to run in several processes.

        Raises `ReplicaSetRequiredError` for a layout of several collections, or with hooks, on
        a standalone server, and `SchemaError` where another layout was set up before.
        """

        async def set_up() -> None:
            needs = "a layout of several collections" if self._layout.only is None else ""
            needs = needs or ("an append with hooks" if self._appends.hooks else "")
            if needs and not await self._database.has_transactions():
                raise ReplicaSetRequiredError(self._database.where, needs)
            only = self._layout.only
            collections = {only: _schema.EVENT_INDEXES} if only else {}
            found = await self._database.make(collections, layout=self._layout.name)
            _schema.check_layout(found.get("layout"), self._layout.name, self._database.where)
            if self._layout.only is None:
                # Inside transactions they are better there already.
                for name in (_schema.POSITIONS, _schema.COLLECTIONS):
                    await self._database.create(name)

        await self._database.set_up(set_up)
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
        given = Given.of(stream_id, batch, expected, microseconds_now())
        try:
            return await self._run(lambda: self._appends.append(given))
        except FailedHookError as failed:
            hooks_own = failed.error
        raise hooks_own

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
        return StreamIterator(
            page_fetch(self._streams, stream_id, self._run, reverse=reverse),
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
        return GlobalIterator(
            self._reads.fetch(self._run, of_streams, of_events),
            after_position=after_position,
            count=count,
        )

    async def head_position(self) -> int:
        """See `GlobalReader.head_position`."""
        return last_position(await self._run(self._frontier.settle))

    async def delete_stream(self, stream_id: TypeID) -> None:
        """See `StreamDeleter.delete_stream`."""
        check_stream_id(stream_id)
        seen: Tip | None = None

        async def delete() -> None:
            nonlocal seen
            while True:
                tip, _ = await self._streams.look(stream_id)
                if seen is not None and (not tip.alive or tip.origin > seen.version):
                    # An attempt whose answer was lost, or somebody else at the same time.
                    break
                if not tip.alive:
                    if tip.version:
                        # Whoever deleted it may not have come to the end.
                        await self._appends.clean_up(stream_id, tip.version)
                    raise StreamNotFoundError(stream_id)
                seen = tip
                if await self._appends.put([deletion_document(stream_id, tip)], tip, 500):
                    break
            await self._appends.clean_up(stream_id, seen.version)

        await self._run(delete)
        self._streams.forget(stream_id)

    async def truncate_stream(self, stream_id: TypeID, to_version: int) -> None:
        """See `StreamTruncator.truncate_stream`."""
        check_stream_id(stream_id)

        async def truncate() -> None:
            tip, _ = await self._streams.look(stream_id)
            if not tip.alive:
                raise StreamNotFoundError(stream_id)
            check_truncation(tip.info(stream_id), to_version)
            collection = self._layout.select(stream_id.type)
            update = _schema.truncation(stream_id, to_version)
            await self._database.write({"update": collection, "updates": [update]})
            first = max(tip.first_version, to_version + 1)
            await self._appends.truncated(stream_id, tip._replace(first_version=first))
            await self._appends.clean_up(stream_id, to_version)

        await self._run(truncate)

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
        return list_streams(self._streams, self._run, stream_type, count, after)

    def within(self, connection: Session) -> MongoTransaction:
        """See `TransactionSharing.within`.

        `connection` is the caller's own session of this store's client, with a transaction
        open. Until the caller commits, writers of the same streams wait or are refused, and
        global readers stop below the numbers that it took; nobody else notices.
        """
        return MongoTransaction(
            connection,
            self._database,
            self._check,
            self._streams,
            self._appends,
            self._frontier,
            max_event_bytes=self.max_event_bytes,
        )

    async def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        if self._checked:
            return await self._database.run(work)

        async def checked() -> T:
            await self._check()
            return await work()

        return await self._database.run(checked)

    async def _check(self) -> None:
        """Raise unless the database was set up, by this release and for this layout."""
        if not self._checked:
            found = await self._database.schema()
            _schema.check_layout(found.get("layout"), self._layout.name, self._database.where)
            self._checked = True
