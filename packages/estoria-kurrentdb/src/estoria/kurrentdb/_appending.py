"""Appending: the server decides, and what it said is made sense of."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from kurrentdbclient import NewEvent as Proposal
from kurrentdbclient import StreamState
from kurrentdbclient.exceptions import (
    MaximumAppendSizeExceededError,
    NotFoundError,
    StreamIsDeletedError,
    WrongCurrentVersionError,
)

from estoria.core import (
    Appended,
    Event,
    EventsAppendedError,
    EventTooLargeError,
    Expect,
    NewEvent,
    StoreUnavailableError,
    StreamInfo,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.backends import PAGE_EVENTS, repeated_batch
from estoria.kurrentdb._connection import Connection, Retention
from estoria.kurrentdb._errors import StreamDeletedError
from estoria.kurrentdb._reading import find, stream_info
from estoria.kurrentdb._schema import MAX_REVISION, event_of, proposal, written

_STATES = {
    Expect.ANY: StreamState.ANY,
    Expect.NO_STREAM: StreamState.NO_STREAM,
    Expect.STREAM_EXISTS: StreamState.EXISTS,
}
_ATTEMPTS = 20
_TAIL = 100
_OTHERS = 2
"""How many events others may have appended before a batch is read back."""

_KEPT_STREAMS, _KEPT_IDS = 10_000, 100_000


class Appender:
    """The appends of one store, and what it remembers of earlier ones.

    The server looks for repeated ids only right after an exact expectation, or among what it
    has in memory. What is remembered here only says where to look twice: whether an id stands
    in a stream is read there.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._seen_position: int | None = None
        self._retentions: OrderedDict[str, Retention] = OrderedDict()
        self._tried: OrderedDict[tuple[str, UUID], None] = OrderedDict()
        self._flying: dict[tuple[str, UUID], asyncio.Future[None]] = {}

    def forget(self, name: str) -> None:
        """What was known of the stream's metadata no longer holds."""
        self._retentions.pop(name, None)

    async def append(
        self, stream_id: TypeID, name: str, batch: Sequence[NewEvent], expected: Expect | int
    ) -> Appended:
        """See `EventStore.append_stream`; the arguments are checked."""
        loop = self._connection.check()
        keys = [(name, event.id) for event in batch]
        while (other := next((f for k in keys if (f := self._flying.get(k))), None)) is not None:
            # The same ids are on their way: only what becomes of them tells what is a repeat.
            await asyncio.wait([other])
        tried_before = any(key in self._tried for key in keys)
        landed = loop.create_future()
        self._flying.update(dict.fromkeys(keys, landed))
        self._tried.update(dict.fromkeys(keys))
        try:
            return await self._append(stream_id, name, batch, expected, look_first=tried_before)
        finally:
            for key in keys:
                del self._flying[key]
            landed.set_result(None)
            while len(self._tried) > _KEPT_IDS:
                self._tried.popitem(last=False)

    async def _append(
        self,
        stream_id: TypeID,
        name: str,
        batch: Sequence[NewEvent],
        expected: Expect | int,
        *,
        look_first: bool,
    ) -> Appended:
        place = _state(expected)
        retention = await self._retention(stream_id, name, is_new=place is StreamState.NO_STREAM)
        if self._seen_position is None:
            self._seen_position = await self._connection.head()
        before = self._seen_position
        now = datetime.now(UTC)
        proposals = [proposal(event, now.isoformat()) for event in batch]
        for _ in range(_ATTEMPTS):
            if look_first:
                appended = await self._standing(stream_id, name, batch, expected)
                if appended is not None:
                    return appended
            try:
                position = await self._send(stream_id, name, batch, proposals, place)
            except WrongCurrentVersionError as refusal:
                actual = _version(refusal)
                # An exact expectation has had the server look at the very place already.
                newest = _TAIL if _is_exact(expected) and not look_first else None
                appended = await self._standing(stream_id, name, batch, expected, newest=newest)
                if appended is not None:
                    return appended
                if not _holds(expected, actual):
                    raise StreamVersionMismatchError(stream_id, expected, actual) from None
                # The ids are known to the server and stand nowhere: they were truncated, and
                # are forgotten. At an exact place it doesn't look for them.
                place, look_first = actual - 1 if actual else _state(expected), True
                continue
            self._seen_position = max(self._seen_position, position)
            version = _next_version(place) if len(batch) == 1 else None
            if version is not None and not look_first and position > before:
                event = written(batch[0], stream_id, version, position, now)
                return Appended([event], _info(stream_id, version, retention))
            appended = await self._read_back(stream_id, name, batch, expected, place, retention)
            if appended is not None:
                return appended
            # It answered for events that were truncated.
            info = await stream_info(self._connection, stream_id, name)
            if not _holds(expected, info.version):
                raise StreamVersionMismatchError(stream_id, expected, info.version)
            place = info.version - 1
        raise StoreUnavailableError(
            self._connection.where, "appends are refused that should be accepted: try again"
        )

    async def _send(
        self,
        stream_id: TypeID,
        name: str,
        batch: Sequence[NewEvent],
        proposals: Sequence[Proposal],
        state: StreamState | int,
    ) -> int:
        """Have the server decide: the position of the last event, or the driver's refusal."""
        try:
            return await self._connection.run(
                lambda: self._connection.client.append_to_stream(
                    name,
                    events=proposals,
                    current_version=state,
                    timeout=self._connection.deadline,
                )
            )
        except StreamIsDeletedError as error:
            raise StreamDeletedError(stream_id, tombstoned=True) from error
        except MaximumAppendSizeExceededError as error:
            raise _too_large(stream_id, batch, error) from error
        except NotFoundError as error:
            raise StoreUnavailableError(self._connection.where, str(error)) from error

    async def _retention(self, stream_id: TypeID, name: str, *, is_new: bool) -> Retention:
        """What the stream's metadata say, asked once for each stream.

        And where it should be new: the server takes a soft-deleted stream for a new one.
        """
        known = self._retentions.get(name)
        if known is not None and not is_new:
            self._retentions.move_to_end(name)
            return known
        known = self._retentions[name] = await self._connection.retention(stream_id, name)
        if len(self._retentions) > _KEPT_STREAMS:
            self._retentions.popitem(last=False)
        return known

    async def _standing(
        self,
        stream_id: TypeID,
        name: str,
        batch: Sequence[NewEvent],
        expected: Expect | int,
        *,
        newest: int | None = None,
    ) -> Appended | None:
        """The batch as it stands in the stream, if it does; looked for from the stream's end."""
        ids = {event.id for event in batch}
        first_page = newest or PAGE_EVENTS
        standing = await find(
            self._connection, stream_id, name, ids, first_page=first_page, newest=newest
        )
        if standing is None or not standing.found:
            return None
        stream = await stream_info(
            self._connection, stream_id, name, tip=standing.tip, lowest=standing.lowest
        )
        repeated = repeated_batch(stream, batch, standing.found, expected)
        return Appended(repeated, stream) if repeated else None

    async def _read_back(
        self,
        stream_id: TypeID,
        name: str,
        batch: Sequence[NewEvent],
        expected: Expect | int,
        place: StreamState | int,
        retention: Retention,
    ) -> Appended | None:
        """The events as they stand; None where none of them is to be seen."""
        first = _next_version(place)
        ids = [event.id for event in batch]
        try:
            if first is not None:
                found = await self._at(stream_id, name, first - 1, len(batch))
            else:
                tail = len(batch) + _OTHERS
                standing = await find(self._connection, stream_id, name, set(ids), first_page=tail)
                found = standing.found[::-1] if standing is not None else []
            if [event.id for event in found] == ids and _are_neighbours(found):
                return Appended(found, _info(stream_id, found[-1].stream_version, retention))
            return await self._standing(stream_id, name, batch, expected)
        except StoreUnavailableError as error:
            version = first - 1 + len(batch) if first is not None else 0
            fault = "its positions could not be read back"
            raise EventsAppendedError(stream_id, version, fault) from error

    async def _at(self, stream_id: TypeID, name: str, start: int, count: int) -> list[Event]:
        found: list[Event] = []
        while len(found) < count:
            records = await self._connection.stream(
                stream_id, name, revision=start + len(found), limit=count - len(found)
            )
            if records is None:
                break
            found += [event_of(record, stream_id) for record in records.found]
            if records.has_ended:
                break
        return found


def _state(expected: Expect | int) -> StreamState | int:
    """The expectation in the server's terms: revisions start at 0."""
    if isinstance(expected, Expect):
        return _STATES[expected]
    return min(expected - 1, MAX_REVISION)


def _holds(expected: Expect | int, actual: int) -> bool:
    if expected is Expect.ANY:
        return True
    if expected is Expect.STREAM_EXISTS:
        return actual > 0
    return actual == (0 if expected is Expect.NO_STREAM else expected)


def _is_exact(expected: Expect | int) -> bool:
    """Whether there is one place alone where the batch may stand."""
    return isinstance(expected, int) or expected is Expect.NO_STREAM


def _next_version(place: StreamState | int) -> int | None:
    """The version of the first event that is written there; None where it isn't said."""
    if isinstance(place, int):
        return place + 2
    return 1 if place is StreamState.NO_STREAM else None


def _are_neighbours(events: Sequence[Event]) -> bool:
    return events[-1].stream_version - events[0].stream_version == len(events) - 1


def _version(refusal: WrongCurrentVersionError) -> int:
    """The version that the server found the stream at."""
    actual = refusal.actual_version
    return actual + 1 if isinstance(actual, int) else 0


def _info(stream_id: TypeID, version: int, retention: Retention) -> StreamInfo:
    return StreamInfo(stream_id, version, retention.first_version(version), 0)


def _too_large(
    stream_id: TypeID, batch: Sequence[NewEvent], error: MaximumAppendSizeExceededError
) -> EventTooLargeError:
    """The whole append is too large; the largest event stands for it."""
    digits = "".join(c for c in str(error) if c.isdigit())
    largest = max(batch, key=lambda event: len(event.data))
    size = sum(len(event.data) for event in batch)
    limit = int(digits) if digits else 0
    return EventTooLargeError(stream_id, largest.id, max(size, limit + 1), limit)
