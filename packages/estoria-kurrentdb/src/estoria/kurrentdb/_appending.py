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
from estoria.core.backends import repeated_batch
from estoria.kurrentdb._connection import Connection
from estoria.kurrentdb._errors import StreamDeletedError
from estoria.kurrentdb._reading import standing, stream_info
from estoria.kurrentdb._schema import MAX_REVISION, event_of, proposal, written

_STATES = {
    Expect.ANY: StreamState.ANY,
    Expect.NO_STREAM: StreamState.NO_STREAM,
    Expect.STREAM_EXISTS: StreamState.EXISTS,
}
_ATTEMPTS = 20
_TAIL = 500
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
        self._first_versions: OrderedDict[str, int] = OrderedDict()
        self._tried: OrderedDict[tuple[str, UUID], None] = OrderedDict()
        self._flying: dict[tuple[str, UUID], asyncio.Future[None]] = {}

    def forget(self, name: str) -> None:
        """What was known of the stream's first version no longer holds."""
        self._first_versions.pop(name, None)

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
        first_version = await self._first_version(stream_id, name)
        if self._seen_position is None:
            self._seen_position = await self._connection.head()
        before = self._seen_position
        now = datetime.now(UTC)
        events = [proposal(event, now.isoformat()) for event in batch]
        state = _state(expected)
        ids = {event.id for event in batch}
        for _ in range(_ATTEMPTS):
            if look_first:
                stream, found = await standing(self._connection, stream_id, name, ids, newest=None)
                repeated = stream and repeated_batch(stream, batch, found, expected)
                if repeated:
                    return Appended(repeated, stream)
            try:
                position = await self._send(stream_id, name, batch, events, state)
            except WrongCurrentVersionError:
                look_first = True
                stream, found = await standing(self._connection, stream_id, name, ids, newest=_TAIL)
                repeated = stream and repeated_batch(stream, batch, found, expected)
                if repeated:
                    return Appended(repeated, stream)
                actual = stream.version if stream is not None else 0
                if not _holds(expected, actual):
                    raise StreamVersionMismatchError(stream_id, expected, actual) from None
                state = _state(expected)
                continue
            self._seen_position = max(self._seen_position, position)
            version = _only_version(batch, expected)
            if version is not None and not look_first and position > before:
                event = written(batch[0], stream_id, version, position, now)
                first = min(first_version, version) if first_version <= 1 else first_version
                return Appended([event], StreamInfo(stream_id, version, first, 0))
            appended = await self._read_back(stream_id, name, batch, expected, state, first_version)
            if appended is not None:
                return appended
            # It answered for events that are truncated: they are forgotten, and a place that is
            # exact has it look no further than there.
            info = await stream_info(self._connection, stream_id, name)
            if not _holds(expected, info.version):
                raise StreamVersionMismatchError(stream_id, expected, info.version)
            state = info.version - 1
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
                    name, events=proposals, current_version=state
                )
            )
        except StreamIsDeletedError as error:
            raise StreamDeletedError(stream_id, tombstoned=True) from error
        except MaximumAppendSizeExceededError as error:
            raise _too_large(stream_id, batch, error) from error
        except NotFoundError as error:
            raise StoreUnavailableError(self._connection.where, str(error)) from error

    async def _first_version(self, stream_id: TypeID, name: str) -> int:
        """The first version that the stream's metadata leave, asked once for each stream."""
        known = self._first_versions.get(name)
        if known is not None:
            self._first_versions.move_to_end(name)
            return known
        retention = await self._connection.retention(stream_id, name)
        first = retention.truncated_before + 1
        self._first_versions[name] = first
        if len(self._first_versions) > _KEPT_STREAMS:
            self._first_versions.popitem(last=False)
        return first

    async def _read_back(
        self,
        stream_id: TypeID,
        name: str,
        batch: Sequence[NewEvent],
        expected: Expect | int,
        state: StreamState | int,
        first_version: int,
    ) -> Appended | None:
        """The events as they stand; None where none of them is to be seen."""
        ids = {event.id for event in batch}
        start = state + 1 if isinstance(state, int) else None
        if state is StreamState.NO_STREAM:
            start = 0
        try:
            if start is not None:
                found = await self._at(stream_id, name, start, len(batch))
                if [event.id for event in found] == [event.id for event in batch]:
                    version = found[-1].stream_version
                    return Appended(found, StreamInfo(stream_id, version, first_version, 0))
            stream, found = await standing(
                self._connection, stream_id, name, ids, newest=len(batch) + _TAIL
            )
            if len(found) < len(ids):
                stream, found = await standing(self._connection, stream_id, name, ids, newest=None)
        except StoreUnavailableError as error:
            version = (start or 0) + len(batch) if start is not None else 0
            fault = "its positions could not be read back"
            raise EventsAppendedError(stream_id, version, fault) from error
        if stream is None or not found:
            return None
        repeated = repeated_batch(stream, batch, found, expected)
        return Appended(repeated, stream) if repeated else None

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


def _only_version(batch: Sequence[NewEvent], expected: Expect | int) -> int | None:
    """The version of a single event where the expectation leaves no choice."""
    if len(batch) > 1 or expected in (Expect.ANY, Expect.STREAM_EXISTS):
        return None
    return expected + 1 if isinstance(expected, int) else 1


def _too_large(
    stream_id: TypeID, batch: Sequence[NewEvent], error: MaximumAppendSizeExceededError
) -> EventTooLargeError:
    """The whole append is too large; the largest event stands for it."""
    digits = "".join(c for c in str(error) if c.isdigit())
    largest = max(batch, key=lambda event: len(event.data))
    size = sum(len(event.data) for event in batch)
    limit = int(digits) if digits else 0
    return EventTooLargeError(stream_id, largest.id, max(size, limit + 1), limit)
