"""The reference event store: in memory, and no less strict than the durable ones."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime
from uuid import UUID

from msgspec.structs import replace

from estoria.core._checks import (
    check_count,
    check_events,
    check_expectation,
    check_filter,
    check_stream_id,
    check_truncation,
)
from estoria.core._errors import (
    StreamNotFoundError,
    StreamVersionMismatchError,
)
from estoria.core._event_iterator import (
    PAGE_EVENTS,
    EventIterator,
    GlobalIterator,
    GlobalPage,
    StreamIterator,
)
from estoria.core._events import Appended, Event, Expect, NewEvent, StreamInfo
from estoria.core._ids import TypeID
from estoria.core._owner import Owner
from estoria.core._repeats import repeated_batch
from estoria.core._text import RESERVED_PREFIX, check_name


class _Stream:
    """One stream; outlives its deletion, so that no version comes twice."""

    __slots__ = ("events", "exists", "first_version", "ids", "origin", "version")

    def __init__(self) -> None:
        self.exists = False
        self.version = 0
        self.first_version = 1
        self.origin = 0
        self.events: list[Event] = []
        self.ids: dict[UUID, int] = {}

    def info(self, stream_id: TypeID) -> StreamInfo:
        return StreamInfo(stream_id, self.version, self.first_version, self.origin)


class MemoryEventStore:
    """Keeps events in the process's memory, for tests and as the reference.

    Every call is atomic: it never waits half-way. Nobody waits for anybody.
    """

    def __init__(self, *, max_event_bytes: int | None = None) -> None:
        """`max_event_bytes` bounds one payload; None, the default, leaves it to the memory."""
        self.max_event_bytes = max_event_bytes
        self._owner = Owner("this MemoryEventStore")
        self._streams: dict[TypeID, _Stream] = {}
        self._log: list[Event] = []
        self._head = 0

    async def setup(self) -> None:
        """Nothing to create."""
        self._owner.check()

    async def append_stream(
        self,
        stream_id: TypeID,
        events: Sequence[NewEvent],
        *,
        expect: Expect | int = Expect.ANY,
    ) -> Appended:
        """See `EventStore.append_stream`."""
        self._owner.check()
        expect = check_expectation(expect)
        batch = check_events(stream_id, events, self.max_event_bytes)
        if not batch:
            return Appended()
        stream = self._streams.get(stream_id) or _Stream()
        if stream.exists:
            standing = [
                stream.events[version - stream.first_version]
                for event in batch
                if (version := stream.ids.get(event.id)) is not None
            ]
            repeated = repeated_batch(stream.info(stream_id), batch, standing, expect)
            if repeated is not None:
                return Appended(map(_private, repeated), stream.info(stream_id))
        _check_version(stream_id, stream, expect)
        return self._write(stream_id, stream, batch)

    def _write(self, stream_id: TypeID, stream: _Stream, batch: list[NewEvent]) -> Appended:
        if not stream.exists:
            stream.exists = True
            stream.origin = stream.version
            stream.first_version = stream.version + 1
            self._streams[stream_id] = stream
        now = datetime.now(UTC)
        written = [
            Event(
                new.id,
                new.type,
                stream_id,
                stream.version + index,
                self._head + index,
                now,
                new.data,
                new.data_content_type,
                dict(new.metadata),
            )
            for index, new in enumerate(batch, start=1)
        ]
        stream.version += len(written)
        self._head += len(written)
        stream.events += written
        stream.ids.update((event.id, event.stream_version) for event in written)
        self._log += written
        return Appended(map(_private, written), stream.info(stream_id))

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
            self._owner.check()
            stream = self._streams.get(stream_id)
            if stream is None or not stream.exists:
                return None, ()
            start = max(first - stream.first_version, 0)
            stop = max(min(last, stream.version) - stream.first_version + 1, start)
            if reverse:
                found = stream.events[max(start, stop - limit) : stop][::-1]
            else:
                found = stream.events[start : min(stop, start + limit)]
            return stream.info(stream_id), _private_all(found)

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
        wanted_streams = check_filter("stream_types", stream_types)
        wanted_events = check_filter("event_types", event_types)

        def wanted(event: Event) -> bool:
            stream_type = event.stream_id.type
            if wanted_streams is None:
                if stream_type.startswith(RESERVED_PREFIX):
                    return False
            elif stream_type not in wanted_streams:
                return False
            return wanted_events is None or event.type in wanted_events

        async def fetch(after: int, frontier: int | None, limit: int) -> GlobalPage:
            self._owner.check()
            frontier = self._head if frontier is None else frontier
            start = bisect_right(self._log, after, key=_position)
            stop = bisect_right(self._log, frontier, key=_position)
            page = self._log[start : min(stop, start + PAGE_EVENTS)]
            found = [event for event in page if wanted(event)][:limit]
            if len(found) == limit:
                return GlobalPage(_private_all(found), frontier, found[-1].global_position)
            resume_after = page[-1].global_position if start + len(page) < stop else None
            return GlobalPage(_private_all(found), frontier, resume_after)

        return GlobalIterator(fetch, after_position=after_position, count=count)

    async def head_position(self) -> int:
        """See `GlobalReader.head_position`."""
        self._owner.check()
        return self._head

    async def delete_stream(self, stream_id: TypeID) -> None:
        """See `StreamDeleter.delete_stream`."""
        stream = self._existing(stream_id)
        self._forget(stream, stream.version)
        stream.exists = False
        stream.version += 1

    async def truncate_stream(self, stream_id: TypeID, to_version: int) -> None:
        """See `StreamTruncator.truncate_stream`."""
        stream = self._existing(stream_id)
        check_truncation(stream.info(stream_id), to_version)
        self._forget(stream, to_version)

    def _existing(self, stream_id: TypeID) -> _Stream:
        self._owner.check()
        check_stream_id(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None or not stream.exists:
            raise StreamNotFoundError(stream_id)
        return stream

    def _forget(self, stream: _Stream, to_version: int) -> None:
        gone = stream.events[: max(to_version - stream.first_version + 1, 0)]
        del stream.events[: len(gone)]
        stream.first_version += len(gone)
        for event in gone:
            del stream.ids[event.id]
        positions = {event.global_position for event in gone}
        if positions:
            self._log = [event for event in self._log if event.global_position not in positions]

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

    async def _list(
        self, stream_type: str | None, count: int | None, after: TypeID | None
    ) -> AsyncIterator[StreamInfo]:
        self._owner.check()
        found = sorted(
            stream_id
            for stream_id, stream in self._streams.items()
            if stream.exists
            and (after is None or stream_id > after)
            and (
                not stream_id.type.startswith(RESERVED_PREFIX)
                if stream_type is None
                else stream_id.type == stream_type
            )
        )
        for stream_id in found[:count]:
            yield self._streams[stream_id].info(stream_id)


def _check_version(stream_id: TypeID, stream: _Stream, expect: Expect | int) -> None:
    actual = stream.version if stream.exists else 0
    if expect is Expect.ANY:
        return
    if expect is Expect.NO_STREAM:
        holds = actual == 0
    elif expect is Expect.STREAM_EXISTS:
        holds = actual > 0
    else:
        holds = expect == actual
    if not holds:
        raise StreamVersionMismatchError(stream_id, expect, actual)


def _position(event: Event) -> int:
    return event.global_position


def _private(event: Event) -> Event:
    """The event with metadata of its own, so that no caller's change shows elsewhere."""
    return replace(event, metadata=dict(event.metadata))


def _private_all(events: list[Event]) -> list[Event]:
    return [_private(event) for event in events]
