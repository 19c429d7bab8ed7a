"""Reading one stream: its pages, its tip, its first version."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from estoria.core import Event, SchemaError, StreamInfo, TypeID
from estoria.core.backends import MAX_VERSION, PAGE_EVENTS
from estoria.kurrentdb._connection import Connection, Records
from estoria.kurrentdb._schema import MAX_REVISION, event_of


class StreamReader:
    """The pages of one `read_stream`; the first one also settles what the stream is."""

    def __init__(
        self, connection: Connection, stream_id: TypeID, name: str, *, reverse: bool
    ) -> None:
        self._connection, self._stream_id, self._name = connection, stream_id, name
        self._reverse = reverse
        self._opened: StreamInfo | None = None

    async def page(
        self, first: int, last: int, limit: int
    ) -> tuple[StreamInfo | None, Sequence[Event]]:
        """See `StreamFetch`."""
        revision: int | None = min(first - 1, MAX_REVISION)
        begins_before = False
        if self._reverse:
            revision = None if last == MAX_VERSION else min(max(last - 1, 0), MAX_REVISION)
        elif self._opened is None and 1 < first < MAX_REVISION:
            # Where nothing follows, the event before tells the tip, at no further call.
            revision, begins_before = first - 2, True
        records = await self._read(revision, limit + begins_before)
        if records is None:
            return None, ()
        events = [event_of(record, self._stream_id) for record in records.found]
        opened, wanted = self._opened, _between(events, first, last, limit)
        if opened is None:
            opened = await self._open(events, first, last, has_ended=records.has_ended)
            self._opened = opened
        if begins_before and not wanted and not records.has_ended:
            # The event before is so large that it fills the page.
            records = await self._read(first - 1, limit)
            events = [event_of(r, self._stream_id) for r in records.found] if records else []
            wanted = _between(events, first, last, limit)
        return opened, wanted

    async def _read(self, revision: int | None, limit: int) -> Records | None:
        return await self._connection.stream(
            self._stream_id, self._name, revision=revision, backwards=self._reverse, limit=limit
        )

    async def _open(
        self, events: Sequence[Event], first: int, last: int, *, has_ended: bool
    ) -> StreamInfo:
        tip: int | None = None
        lowest: int | None = None
        if events and self._reverse:
            tip = events[0].stream_version if last == MAX_VERSION else None
            lowest = events[-1].stream_version if has_ended else None
        elif events:
            tip = events[-1].stream_version if has_ended else None
            # What the first page begins with is the first there is, if more was asked for.
            begin = events[0].stream_version
            lowest = begin if begin >= first or begin == 1 else None
        return await stream_info(
            self._connection, self._stream_id, self._name, tip=tip, lowest=lowest
        )


def _between(events: Sequence[Event], first: int, last: int, limit: int) -> list[Event]:
    return [event for event in events if first <= event.stream_version <= last][:limit]


async def stream_info(
    connection: Connection,
    stream_id: TypeID,
    name: str,
    *,
    tip: int | None = None,
    lowest: int | None = None,
) -> StreamInfo:
    """The stream as it is, as far as it isn't known already; it is known to exist."""
    if tip is None:
        records = await connection.stream(stream_id, name, backwards=True, limit=1)
        if records is not None and records.found:
            tip = event_of(records.found[0], stream_id).stream_version
    if tip is None:
        retention = await connection.retention(stream_id, name)
        # Emptied, so that no event tells the tip: what was truncated does.
        tip = retention.truncated_before
        if tip == 0:
            raise SchemaError(
                f"{stream_id} has no event left that $maxAge would keep, and so no known version"
            )
        lowest = tip + 1
    if lowest is None:
        records = await connection.stream(stream_id, name, limit=1)
        found = records.found if records is not None else ()
        lowest = found[0].stream_position + 1 if found else tip + 1
    return StreamInfo(stream_id, tip, lowest, 0)


class Standing(NamedTuple):
    """What was found of some events in their stream."""

    found: list[Event]
    tip: int | None
    lowest: int | None
    """The version of the first event of the stream, where the search came as far."""


async def find(
    connection: Connection,
    stream_id: TypeID,
    name: str,
    ids: set[UUID],
    *,
    first_page: int = PAGE_EVENTS,
    newest: int | None = None,
) -> Standing | None:
    """Which of these ids stand in the stream, looked for from its end; None without a stream.

    Among all events, or the `newest` so many.
    """
    found: list[Event] = []
    tip: int | None = None
    revision: int | None = None
    limit, seen = first_page, 0
    while True:
        records = await connection.stream(
            stream_id, name, revision=revision, backwards=True, limit=limit
        )
        if records is None:
            return None
        events = [event_of(record, stream_id) for record in records.found]
        if events and tip is None:
            tip = events[0].stream_version
        found += [event for event in events if event.id in ids]
        seen += len(events)
        if records.has_ended or (events and events[-1].stream_version == 1):
            return Standing(found, tip, events[-1].stream_version if events else None)
        if len(found) == len(ids) or (newest is not None and seen >= newest):
            return Standing(found, tip, None)
        revision, limit = events[-1].stream_version - 2, min(8 * limit, PAGE_EVENTS)
