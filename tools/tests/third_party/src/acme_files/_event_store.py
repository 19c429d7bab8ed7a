"""One file, one line for each append, one lock for those who write."""

import fcntl
import os
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time_ns
from typing import BinaryIO
from uuid import UUID

import msgspec
from msgspec.structs import replace

from estoria.core import (
    Appended,
    Event,
    EventIterator,
    Expect,
    NewEvent,
    StreamInfo,
    StreamIterator,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.backends import (
    RESERVED_PREFIX,
    GlobalIterator,
    GlobalPage,
    Owner,
    check_events,
    check_expectation,
    check_filter,
    repeated_batch,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_EVENT_BYTES = 16 * 2**20


class _Stored(msgspec.Struct):
    id: UUID
    type: str
    data: bytes
    content_type: str
    metadata: dict[str, str]


class _Line(msgspec.Struct):
    stream: str
    timestamp: int
    events: list[_Stored]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


class FileEventStore:
    """Keeps events in a file that only grows, and all of them in memory besides.

    A line is one append, so an append is all or nothing: what a crash left of one has no end of
    line, is no part of the log, and is cut off by the next writer. Writers of all processes take
    turns by a lock on the file, so that lines stand in the order of their positions. Readers
    wait for nobody. An acknowledged append is on the disk. The event loop waits for the disk.
    """

    def __init__(self, path: Path, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.max_event_bytes = max_event_bytes
        self._path = path
        self._owner = Owner("this FileEventStore")
        self._streams: dict[TypeID, list[Event]] = {}
        self._log: list[Event] = []
        self._read = 0

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator["FileEventStore"]:
        """A store on the file of this URL: ``acme-files:///absolute/path``."""
        yield cls(Path(url.partition("://")[2]))

    async def setup(self) -> None:
        """Make the file, if there is none."""
        self._owner.check()
        self._path.touch()

    async def append_stream(
        self,
        stream_id: TypeID,
        events: Sequence[NewEvent],
        *,
        expect: Expect | int = Expect.ANY,
    ) -> Appended:
        """See `EventStore.append_stream`."""
        self._owner.check()
        expected = check_expectation(expect)
        batch = check_events(stream_id, events, self.max_event_bytes)
        if not batch:
            return Appended()
        with self._locked() as file:
            stream = self._streams.get(stream_id, [])
            info = StreamInfo(stream_id, len(stream), 1, 0)
            ids = {new.id for new in batch}
            standing = [event for event in stream if event.id in ids]
            repeated = repeated_batch(info, batch, standing, expected)
            if repeated is not None:
                return Appended(_own(repeated), info)
            holds = {
                Expect.ANY: True,
                Expect.NO_STREAM: not stream,
                Expect.STREAM_EXISTS: bool(stream),
            }
            if not (
                holds[expected] if isinstance(expected, Expect) else expected == len(stream) > 0
            ):
                raise StreamVersionMismatchError(stream_id, expected, len(stream))
            stored = [
                _Stored(new.id, new.type, new.data, new.data_content_type, new.metadata)
                for new in batch
            ]
            line = _encode(_Line(str(stream_id), time_ns() // 1_000, stored)) + b"\n"
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self._take_in(line)
            written = self._streams[stream_id]
            tip = StreamInfo(stream_id, len(written), 1, 0)
            return Appended(_own(written[-len(batch) :]), tip)

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
            self._catch_up()
            stream = self._streams.get(stream_id)
            if stream is None:
                return None, ()
            found = stream[first - 1 : max(last, 0)]
            page = found[::-1][:limit] if reverse else found[:limit]
            return StreamInfo(stream_id, len(stream), 1, 0), _own(page)

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

        def wanted(event: Event) -> bool:
            stream_type = event.stream_id.type
            if of_streams is None and stream_type.startswith(RESERVED_PREFIX):
                return False
            if of_streams is not None and stream_type not in of_streams:
                return False
            return of_events is None or event.type in of_events

        async def fetch(after: int, frontier: int | None, limit: int) -> GlobalPage:
            self._catch_up()
            settled = len(self._log) if frontier is None else frontier
            found = [event for event in self._log[after:settled] if wanted(event)][:limit]
            more = found[-1].global_position if len(found) == limit else None
            return GlobalPage(_own(found), settled, more)

        return GlobalIterator(fetch, after_position=after_position, count=count)

    async def head_position(self) -> int:
        """See `GlobalReader.head_position`."""
        self._catch_up()
        return len(self._log)

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file, for one writer of all processes, its whole log taken in."""
        with self._path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._catch_up()
            file.seek(self._read)
            file.truncate()
            yield file

    def _catch_up(self) -> None:
        """Take in what others have appended."""
        self._owner.check()
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._take_in(line)

    def _take_in(self, line: bytes) -> None:
        found = _decode(line)
        stream_id = TypeID.parse(found.stream)
        stream = self._streams.setdefault(stream_id, [])
        for stored in found.events:
            event = Event(
                stored.id,
                stored.type,
                stream_id,
                len(stream) + 1,
                len(self._log) + 1,
                EPOCH + timedelta(microseconds=found.timestamp),
                stored.data,
                stored.content_type,
                stored.metadata,
            )
            stream.append(event)
            self._log.append(event)
        self._read += len(line)


def _own(events: Sequence[Event]) -> list[Event]:
    """The events with dicts of the caller's own."""
    return [replace(event, metadata=dict(event.metadata)) for event in events]
