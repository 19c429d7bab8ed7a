"""What an event store promises, and what some promise besides."""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Protocol, runtime_checkable

from estoria.core._event_iterator import EventIterator, StreamIterator
from estoria.core._events import Appended, Expect, NewEvent, StreamInfo
from estoria.core._ids import TypeID


@runtime_checkable
class StreamWriter(Protocol):
    """Appends to and reads single streams: an event store, or one inside a transaction."""

    async def append_stream(
        self,
        stream_id: TypeID,
        events: Sequence[NewEvent],
        *,
        expect: Expect | int = Expect.ANY,
    ) -> Appended:
        """Write the events, all or none, next to each other at the stream's end.

        `expect` is an `Expect` or the stream's current version; 0 means
        `Expect.NO_STREAM`. Returns the events exactly as a later read returns them.
        Never changes what it is given. No events: returns ``[]``, checks nothing and
        creates nothing.

        Safe to repeat: event ids are unique within a stream. If the very batch stands
        there already (the same ids, next to each other, in order; with an exact
        expectation right after that version, with `Expect.NO_STREAM` at the beginning of
        the stream's life), the stored events are returned and nothing is written. Ids are
        looked at before the expectation. What was deleted or truncated is forgotten.

        Raises `StreamVersionMismatchError` with the true actual version;
        `DuplicateEventError` when an id stands there outside this very batch;
        `InvalidEventError` for an event that no store may keep, or an id that comes twice;
        `EventTooLargeError` for a payload over the limit; `ValueError` for an expectation
        that is a bool or negative. In all these cases nothing was written and no version
        is burnt.
        """
        ...

    def read_stream(
        self,
        stream_id: TypeID,
        *,
        after_version: int = 0,
        reverse: bool = False,
        before_version: int | None = None,
        count: int | None = None,
    ) -> StreamIterator:
        """The events of a stream, in order of their versions.

        Forwards those above `after_version`; in reverse those below `before_version`, by
        default from the end. At most `count` of them. The last version seen is where the
        next read goes on. Ends at the version that the stream had when the read opened.

        The call itself raises `ValueError` for a negative bound, a bound of the other
        direction and a `count` below 1. Opening raises `StreamNotFoundError`, only when
        the stream doesn't exist. A later page raises `StreamChangedError` when the stream
        was truncated or deleted meanwhile.
        """
        ...


@runtime_checkable
class EventStore(StreamWriter, Protocol):
    """Keeps streams of events.

    Any number of tasks, processes and machines may append at once; a rule of the database
    itself keeps two events from one version. Concurrent appends with `Expect.ANY` all
    succeed. What was acknowledged is durable as far as the backend's documentation says.

    Belongs to the event loop and the process that first used it; from elsewhere it raises
    `StoreMisusedError`.

    Held to it by `EventStoreAcceptance`.
    """

    async def setup(self) -> None:
        """Create or migrate what the store needs; safe to repeat and to run at once.

        Until it ran, a store that needs a schema raises `SchemaMissingError`.
        """
        ...


@runtime_checkable
class GlobalReader(Protocol):
    """Stores that keep one order over all their streams.

    Held to it by `GlobalReaderAcceptance`.
    """

    def read_all(
        self,
        *,
        after_position: int = 0,
        count: int | None = None,
        stream_types: Collection[str] | None = None,
        event_types: Collection[str] | None = None,
    ) -> EventIterator:
        """Every event of every stream above `after_position`, by global position.

        A read is finite: its frontier is settled when it opens, and what commits later is
        for the next read. Positions are a stable prefix: once P was yielded, no unseen
        event ever appears at or below P, whatever writers do meanwhile. Gaps are allowed.

        Filters run in the server. Streams whose type starts with ``estoria.`` (the
        library's own) are left out, unless `stream_types` names them.

        The call itself raises `ValueError` for a negative `after_position`, a `count`
        below 1 and an empty filter.
        """
        ...

    async def head_position(self) -> int:
        """The stable frontier: at or below it no unseen event will ever appear.

        May exceed the position of the last event; 0 only when nothing was ever written.
        """
        ...


@runtime_checkable
class StreamDeleter(Protocol):
    """Stores that can forget a stream.

    Held to it by `StreamDeleterAcceptance`.
    """

    async def delete_stream(self, stream_id: TypeID) -> None:
        """Forget the stream's events; it reads as missing from now on.

        The id may be written again, and its versions never go back: deletion retires one
        version after the tip. A stream deleted at 50 starts again at 52, with 51 as its
        `origin`; a writer who still expects 50 is refused for ever.

        Raises `StreamNotFoundError` when there is no such stream.
        """
        ...


@runtime_checkable
class StreamTruncator(Protocol):
    """Stores that can forget the first events of a stream.

    Held to it by `StreamTruncatorAcceptance`.
    """

    async def truncate_stream(self, stream_id: TypeID, to_version: int) -> None:
        """Forget the events at or below `to_version`; later ones keep their versions.

        The stream still exists, even when emptied, and the next append continues from the
        old tip. An earlier truncation is never undone.

        Raises `StreamNotFoundError` when there is no such stream, and `ValueError` for a
        version beyond the tip or below 1.
        """
        ...


@runtime_checkable
class StreamLister(Protocol):
    """Stores that can tell which streams they hold.

    Held to it by `StreamListerAcceptance`.
    """

    def list_streams(
        self,
        *,
        stream_type: str | None = None,
        count: int | None = None,
        after: TypeID | None = None,
    ) -> AsyncIterator[StreamInfo]:
        """The streams that exist, ordered by type and UUID, after the id `after`.

        By code points and bytes, whatever the backend's locale. Streams of the library's
        own types are left out unless `stream_type` names them. The call itself raises
        `ValueError` for a `count` below 1 or a name that can be no type.
        """
        ...


@runtime_checkable
class TransactionSharing(Protocol):
    """Stores that can work inside a transaction that the caller has open.

    Held to it by `TransactionSharingAcceptance`.
    """

    def within(self, connection: Any) -> StreamWriter:
        """Append and read inside the caller's transaction, beside the caller's own tables.

        `connection` is the driver's own (each store says which). Nothing here commits or
        rolls back: until the caller commits, nobody else sees anything, and what the
        caller rolls back never was. A refused append leaves the transaction usable.

        Raises `TransactionRequiredError` when none is open; appends raise
        `TransactionAbortedError` after a deadlock or a serialization failure: roll back
        and run the transaction again, the library doesn't.
        """
        ...
