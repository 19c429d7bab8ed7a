"""Snapshots as events, in a parallel stream of any event store."""

from datetime import datetime

from estoria.core._checks import check_bound, check_stream_id
from estoria.core._errors import (
    AbilityMissingError,
    StreamChangedError,
    StreamNotFoundError,
    StreamVersionMismatchError,
)
from estoria.core._event_store import EventStore, StreamDeleter, StreamTruncator
from estoria.core._events import Event, Expect, NewEvent
from estoria.core._ids import TypeID
from estoria.core._snapshot_store import Snapshot, check_keep_newest
from estoria.core._text import RESERVED_PREFIX

SNAPSHOT_TYPE_PREFIX = f"{RESERVED_PREFIX}snapshot."
"""Put before an aggregate's type, names the type of its snapshots' stream."""

_EVENT_TYPE = "snapshot"
_VERSION = "aggregate_version"
_HIGHEST_BEFORE = "highest_before"
_TIMESTAMP = "timestamp"


class EventStreamSnapshotStore:
    """Keeps snapshots in the event store itself, where no other storage is at hand.

    Each aggregate's snapshots are the events of one stream, whose type is the aggregate's
    type behind ``estoria.snapshot.``; global reads and stream lists leave it out. Retention
    needs a `StreamTruncator`; it drops no snapshot before which a newer one lies, so that
    snapshots written out of order may stay longer.
    """

    def __init__(self, event_store: EventStore, *, keep_newest: int | None = None) -> None:
        """`keep_newest` snapshots stay, or all when it is None.

        Raises `ValueError` for a number below 1, and `AbilityMissingError` for a number with
        a store that can't truncate.
        """
        self.keep_newest = check_keep_newest(keep_newest)
        if keep_newest is not None and not isinstance(event_store, StreamTruncator):
            raise AbilityMissingError(event_store, "StreamTruncator")
        self._events = event_store

    async def read_snapshot(
        self, aggregate_id: TypeID, *, max_version: int | None = None
    ) -> Snapshot | None:
        """See `SnapshotStore.read_snapshot`."""
        if max_version is not None:
            check_bound("max_version", max_version)
        best: Event | None = None
        try:
            async for event in self._events.read_stream(_stream_of(aggregate_id), reverse=True):
                version = _version(event)
                if max_version is None or version <= max_version:
                    if best is None or version > _version(best):
                        best = event
                    # Nothing that was written before can be newer than this.
                    if int(event.metadata[_HIGHEST_BEFORE]) <= _version(best):
                        break
        except StreamNotFoundError:
            return None
        except StreamChangedError:
            return await self.read_snapshot(aggregate_id, max_version=max_version)
        if best is None:
            return None
        return Snapshot(
            aggregate_id,
            _version(best),
            datetime.fromisoformat(best.metadata[_TIMESTAMP]),
            best.data,
            best.data_content_type,
        )

    async def write_snapshot(self, snapshot: Snapshot) -> None:
        """See `SnapshotStore.write_snapshot`."""
        stream_id = _stream_of(snapshot.aggregate_id)
        while True:
            try:
                expect, stored = await self._stored(stream_id)
            except StreamChangedError:
                continue
            metadata = {
                _VERSION: str(snapshot.aggregate_version),
                _HIGHEST_BEFORE: str(max(map(_highest, stored), default=0)),
                _TIMESTAMP: snapshot.timestamp.isoformat(),
            }
            event = NewEvent(_EVENT_TYPE, snapshot.data, snapshot.data_content_type, metadata)
            try:
                appended = await self._events.append_stream(stream_id, [event], expect=expect)
            except StreamVersionMismatchError:
                continue
            await self._prune(stream_id, [*appended, *stored])
            return

    async def delete_snapshots(self, aggregate_id: TypeID) -> None:
        """See `SnapshotStore.delete_snapshots`.

        Where the event store is no `StreamDeleter` the stream is emptied instead; where it
        can't truncate either, raises `AbilityMissingError`.
        """
        stream_id = _stream_of(aggregate_id)
        try:
            if isinstance(self._events, StreamDeleter):
                await self._events.delete_stream(stream_id)
            elif isinstance(self._events, StreamTruncator):
                iterator = self._events.read_stream(stream_id, reverse=True, count=1)
                async with iterator:
                    await self._events.truncate_stream(stream_id, iterator.stream.version)
            else:
                raise AbilityMissingError(self._events, "StreamDeleter")
        except StreamNotFoundError:
            return

    async def _stored(self, stream_id: TypeID) -> tuple[Expect | int, list[Event]]:
        """The stream's version, and its events, the last one first; just that if all are kept."""
        count = 1 if self.keep_newest is None else None
        try:
            async with self._events.read_stream(stream_id, reverse=True, count=count) as events:
                return events.stream.version, await events.collect()
        except StreamNotFoundError:
            return Expect.NO_STREAM, []

    async def _prune(self, stream_id: TypeID, stored: list[Event]) -> None:
        """Truncate the events before the first one that is among the newest snapshots."""
        if self.keep_newest is None or not isinstance(self._events, StreamTruncator):
            return
        places: dict[int, int] = {}
        for event in stored:
            places.setdefault(_version(event), event.stream_version)
        kept = sorted(places, reverse=True)[: self.keep_newest]
        first_kept = min(places[version] for version in kept)
        if first_kept > stored[-1].stream_version:
            await self._events.truncate_stream(stream_id, first_kept - 1)


def _stream_of(aggregate_id: TypeID) -> TypeID:
    check_stream_id(aggregate_id)
    return TypeID(SNAPSHOT_TYPE_PREFIX + aggregate_id.type, aggregate_id.uuid)


def _version(event: Event) -> int:
    return int(event.metadata[_VERSION])


def _highest(event: Event) -> int:
    return max(_version(event), int(event.metadata[_HIGHEST_BEFORE]))
