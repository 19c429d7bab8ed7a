"""Appending to streams.

Why two writers never get one version, and no stream a hole: an append claims its versions and
event ids, and the database keeps claims unique within a stream, the versions for ever, deleted
and truncated ones too. An append is only tried right after a version that was seen to be taken, by
a majority; so what lies below is taken, and of those who claim the version after it, one wins.
Knowledge of that kind never gets wrong, only old, and so it is kept: a writer that knows the tip
needn't ask for it, and one whose knowledge is old is refused by the database.

Why positions grow with versions: an append's number is taken after its writer saw the version
before, and must be above that one's number. Refused for its version, it takes a new number too.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from pymongo.errors import OperationFailure, PyMongoError

from estoria.core import (
    Appended,
    Event,
    Expect,
    NewEvent,
    StreamVersionMismatchError,
    TransactionAbortedError,
    TypeID,
)
from estoria.core.backends import repeated_batch
from estoria.mongodb import _schema
from estoria.mongodb._database import Database, Session
from estoria.mongodb._documents import (
    MAX_DOCUMENT_BYTES,
    Document,
    Tip,
    append_document,
    events_of,
    parts,
    written_events,
)
from estoria.mongodb._errors import (
    TOO_LARGE_FOR_CACHE,
    BatchTooLargeError,
    OutcomeUnknownError,
    is_passing,
)
from estoria.mongodb._groups import Groups
from estoria.mongodb._numbers import Numbers
from estoria.mongodb._streams import Streams
from estoria.mongodb._transactions import FailedHookError, Transactions

Hook = Callable[[Session, Sequence[Event]], Awaitable[None]]


class Given(NamedTuple):
    """One call of `append_stream`, checked; `timestamp` is in microseconds since 1970, UTC."""

    stream_id: TypeID
    batch: list[NewEvent]
    expect: Expect | int
    timestamp: int
    parts: list[list[NewEvent]]
    size: int

    @classmethod
    def of(
        cls, stream_id: TypeID, batch: list[NewEvent], expect: Expect | int, timestamp: int
    ) -> "Given":
        """Raises `EventTooLargeError` for an event that fits into no document."""
        return cls(stream_id, batch, expect, timestamp, *parts(stream_id, batch))

    def holds(self, tip: Tip) -> bool:
        """Whether the stream is as expected."""
        if self.expect is Expect.ANY:
            return True
        if self.expect is Expect.NO_STREAM:
            return not tip.alive
        if self.expect is Expect.STREAM_EXISTS:
            return tip.alive
        return tip.alive and tip.version == self.expect

    def documents(self, tip: Tip) -> list[Document]:
        """What is to be inserted after this tip, without numbers yet."""
        documents: list[Document] = []
        for part in self.parts:
            documents.append(append_document(self.stream_id, part, tip, self.timestamp))
            tip = tip._replace(version=documents[-1]["last"])
        return documents

    def appended(self, documents: Sequence[Document], tip: Tip) -> tuple[Appended, Tip]:
        """What the caller hears, and the tip now."""
        events: list[Event] = []
        for part, document in zip(self.parts, documents, strict=True):
            events += written_events(self.stream_id, part, document)
        first = tip.first_version if tip.alive else tip.origin + 1
        last = documents[-1]
        now = Tip(last["last"], tip.origin, first, last["_id"], alive=True)
        return Appended(events, now.info(self.stream_id)), now

    async def first_result(
        self, streams: Streams, session: Session | None = None
    ) -> tuple[Appended | None, Tip, bool]:
        """What this append gave when it happened before; the tip; and whether ids of it are left
        over from what was deleted or truncated.

        Raises `DuplicateEventError` when some of the events stand there, but not this very batch.
        """
        ids = [event.id for event in self.batch]
        tip, documents = await streams.look(self.stream_id, ids, session)
        stream = tip.info(self.stream_id)
        wanted = set(ids)
        standing, left_over = [], False
        for document in documents:
            for event in events_of(document, self.stream_id):
                if event.id not in wanted:
                    continue
                if tip.alive and event.stream_version >= tip.first_version:
                    standing.append(event)
                else:
                    left_over = True
        found = repeated_batch(stream, self.batch, standing, self.expect)
        return (None if found is None else Appended(found, stream)), tip, left_over


class Appends:
    """Appends, and what else claims a version, for one store."""

    def __init__(
        self, database: Database, streams: Streams, numbered: str, hooks: Sequence[Hook]
    ) -> None:
        self.hooks = tuple(hooks)
        self._database, self._streams = database, streams
        self._numbers = Numbers(database, numbered)
        self._groups = Groups(database, numbered, self._numbers)
        self.transactions = Transactions(database, streams.layout, self._numbers)
        self._truncations = 0
        self._busy: dict[TypeID, tuple[asyncio.Lock, int]] = {}

    async def append(self, given: Given) -> Appended:
        """Append, or give what it gave before; for `Database.run`."""
        async with self._alone(given.stream_id):
            truncations = self._truncations
            tip = self._streams.known(given.stream_id)
            if tip is None and given.expect is Expect.NO_STREAM:
                # If there is, or ever was, something, version 1 is taken.
                tip = Tip()
            if tip is None or not given.holds(tip):
                tip = None
            while True:
                if tip is None:
                    truncations = self._truncations
                    first, tip, left_over = await given.first_result(self._streams)
                    if first is not None:
                        return first
                    if not given.holds(tip):
                        raise mismatch(given, tip)
                    if left_over:
                        await self.clean_up(given.stream_id, tip.first_version - 1)
                documents = given.documents(tip)
                try:
                    done = await self.put(documents, tip, given.size, given)
                except OperationFailure as error:
                    if error.code != TOO_LARGE_FOR_CACHE:
                        raise
                    raise BatchTooLargeError(given.stream_id, given.size, None) from error
                if done:
                    if truncations != self._numbers.truncations:
                        tip = await self._truncated_tip(given.stream_id, tip)
                    appended, tip = given.appended(documents, tip)
                    self._streams.note(given.stream_id, tip)
                    return appended
                tip = None

    async def truncated(self, stream_id: TypeID, tip: Tip) -> None:
        """Tell everybody that the stream begins where this tip says."""
        await self._numbers.count_truncation()
        self._streams.note(stream_id, tip)

    async def put(
        self, documents: list[Document], tip: Tip, size: int, given: Given | None = None
    ) -> bool:
        """Insert what follows this tip; False if what it claims is taken."""
        layout = self._streams.layout
        hooks = self.hooks if given is not None else ()
        if layout.only is not None and len(documents) == 1 and not hooks:
            return await self._groups.insert(documents[0], tip.number, size)
        if layout.only is not None and not hooks and not await self._database.has_transactions():
            stream_id = TypeID(documents[0]["type"], documents[0]["uuid"])
            raise BatchTooLargeError(stream_id, size, MAX_DOCUMENT_BYTES)

        async def run_hooks(session: Session) -> None:
            if given is None or not hooks:
                return
            appended, _ = given.appended(documents, tip)
            for hook in hooks:
                try:
                    await hook(session, appended)
                except PyMongoError as error:
                    if is_passing(error):
                        # The transaction is over, and will be run again.
                        raise
                    raise FailedHookError(error) from error
                except TransactionAbortedError as error:
                    # An append of the hook's own, in the same transaction.
                    raise OutcomeUnknownError("a hook's append came too late") from error
                except Exception as error:
                    raise FailedHookError(error) from error

        return await self.transactions.insert(documents, tip.number, run_hooks)

    async def _truncated_tip(self, stream_id: TypeID, tip: Tip) -> Tip:
        """The tip, with the first version that the stream has now: somebody has truncated one."""
        self._truncations = self._numbers.truncations
        self._streams.forget_all()
        found, _ = await self._streams.look(stream_id)
        if tip.alive and found.alive and found.origin == tip.origin:
            return tip._replace(first_version=found.first_version)
        return tip

    async def clean_up(self, stream_id: TypeID, to_version: int) -> None:
        """Take the events up to this version out; may be repeated."""
        collection = self._streams.layout.select(stream_id.type)
        updates = _schema.emptying(stream_id, to_version)
        await self._database.write({"update": collection, "updates": updates})

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._groups.close()

    @asynccontextmanager
    async def _alone(self, stream_id: TypeID) -> AsyncIterator[None]:
        """Appends of one process to one stream go one by one: all but one would be refused."""
        lock, users = self._busy.get(stream_id) or (asyncio.Lock(), 0)
        self._busy[stream_id] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._busy[stream_id]
            if users == 1:
                del self._busy[stream_id]
            else:
                self._busy[stream_id] = lock, users - 1


def mismatch(given: Given, tip: Tip) -> StreamVersionMismatchError:
    """Says what the stream is, instead of what was expected."""
    actual = tip.version if tip.alive else 0
    return StreamVersionMismatchError(given.stream_id, given.expect, actual)
