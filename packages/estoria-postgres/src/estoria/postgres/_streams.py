"""Appending and reading on one connection, in whoever's transaction."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Any, NamedTuple

import msgspec
from psycopg.types.numeric import Int4, Int8

from estoria.core import Appended, Event, Expect, NewEvent, StreamInfo, TypeID
from estoria.core.backends import MAX_VERSION, repeated_batch
from estoria.postgres._connections import Connection, fetch
from estoria.postgres._statements import Plans

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

PAGE_EVENTS = 2_000
PAGE_BYTES = 4 * 2**20
"""A page ends early once its payloads exceed this many bytes."""

MAX_STATEMENT_EVENTS = 20_000
MAX_STATEMENT_BYTES = 64 * 2**20
"""A larger batch, in events or in bytes of payload, goes out in several statements."""

_KINDS = {Expect.ANY: "any", Expect.NO_STREAM: "new", Expect.STREAM_EXISTS: "existing"}

_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode
_encode_json = msgspec.json.Encoder().encode


def microseconds_now() -> int:
    """The clock, in microseconds since 1970, UTC."""
    return time_ns() // 1_000


class Append(NamedTuple):
    """One call of `append_stream`, checked; `timestamp` is in microseconds since 1970, UTC."""

    stream_id: TypeID
    batch: list[NewEvent]
    expect: Expect | int
    timestamp: int

    def chunks(self) -> list[list[NewEvent]]:
        """The batch in parts that fit into one statement each; nearly always just one."""
        batch = self.batch
        size = sum([len(new.data) for new in batch])
        if len(batch) <= MAX_STATEMENT_EVENTS and size <= MAX_STATEMENT_BYTES:
            return [batch]
        chunks: list[list[NewEvent]] = [[]]
        size = 0
        for new in batch:
            size += len(new.data)
            full = len(chunks[-1]) == MAX_STATEMENT_EVENTS or size > MAX_STATEMENT_BYTES
            if full and chunks[-1]:
                chunks.append([])
                size = len(new.data)
            chunks[-1].append(new)
        return chunks

    def holds(self, version: int) -> bool:
        """Whether a stream at this version (0: a missing one) is as expected."""
        if self.expect is Expect.ANY:
            return True
        if self.expect is Expect.STREAM_EXISTS:
            return version > 0
        return version == (0 if self.expect is Expect.NO_STREAM else self.expect)


async def append(
    connection: Connection,
    plans: Plans,
    given: Append,
    chunks: Sequence[list[NewEvent]],
    *,
    prepare: bool,
    inside: bool = False,
) -> Appended | None:
    """Write the batch; None, with nothing changed, when the expectation doesn't hold.

    Several chunks need a transaction around them. `inside` the caller's transaction it is
    None also when an id stands in the stream already; outside of it that raises
    `psycopg.errors.UniqueViolation`.
    """
    stream_id, batch, expect, timestamp = given
    if isinstance(expect, int) and expect > MAX_VERSION:
        return None
    count = len(batch)
    parameters: dict[str, object] = {
        "type": stream_id.type,
        "uuid": stream_id.uuid,
        "count": Int8(count),
        "timestamp": Int8(timestamp),
        "largest": Int4(max([len(new.data) for new in batch])),
    }
    if isinstance(expect, int):
        parameters["expected"] = Int8(expect)
    if inside:
        parameters["all_ids"] = [new.id for new in batch]
    kinds = plans.current.append_inside if inside else plans.current.append
    one, many = kinds["exact" if isinstance(expect, int) else _KINDS[expect]]
    if count == 1:
        statement = one
        _add_one(parameters, batch[0])
    else:
        statement = many
        _add_many(parameters, chunks[0])
    rows = await fetch(connection, statement, parameters, prepare=prepare)
    if not rows:
        return None
    key, reserved, tip, first_version, origin, position = rows[0]
    start = tip - count + 1
    positions: list[int] = [position] if count == 1 else position
    for chunk in chunks[1:]:
        parameters = {
            "key": Int8(key),
            "before": Int8(start + len(positions) - 1),
            "timestamp": Int8(timestamp),
            "reserved": reserved,
        }
        _add_many(parameters, chunk)
        rows = await fetch(connection, plans.current.append_more, parameters, prepare=prepare)
        positions += rows[0][0]
    plans.seen(positions[-1])
    now = EPOCH + timestamp * MICROSECOND
    written = [
        Event(
            new.id,
            new.type,
            stream_id,
            start + index,
            positions[index],
            now,
            new.data,
            new.data_content_type,
            dict(new.metadata),
        )
        for index, new in enumerate(batch)
    ]
    return Appended(written, StreamInfo(stream_id, tip, first_version, origin))


def _add_one(parameters: dict[str, object], new: NewEvent) -> None:
    parameters["id"] = new.id
    parameters["event_type"] = new.type
    parameters["content_type"] = new.data_content_type
    parameters["metadata"] = _encode_json(new.metadata).decode() if new.metadata else "{}"
    parameters["data"] = new.data


def _add_many(parameters: dict[str, object], batch: Sequence[NewEvent]) -> None:
    parameters["ids"] = [new.id for new in batch]
    parameters["types"] = [new.type for new in batch]
    parameters["content_types"] = [new.data_content_type for new in batch]
    parameters["metadatas"] = [
        _encode_json(new.metadata).decode() if new.metadata else "{}" for new in batch
    ]
    parameters["datas"] = [new.data for new in batch]


async def happened(
    connection: Connection, plans: Plans, given: Append, *, prepare: bool
) -> tuple[Appended | None, int]:
    """The result of the first attempt if this append is a repeated one, and the true version.

    Raises `DuplicateEventError` when some of the events stand there, but not this very batch.
    """
    stream_id, batch, expect, _ = given
    parameters = {
        "type": stream_id.type,
        "uuid": stream_id.uuid,
        "all_ids": [new.id for new in batch],
    }
    rows = await fetch(connection, plans.current.standing, parameters, prepare=prepare)
    if not rows:
        return None, 0
    stream, standing = _of_stream(stream_id, rows)
    repeated = repeated_batch(stream, batch, standing, expect)
    first = None if repeated is None else Appended(repeated, stream)
    return first, stream.version


async def find(
    connection: Connection, plans: Plans, stream_id: TypeID, *, prepare: bool
) -> StreamInfo | None:
    """The stream as it is; None for one that doesn't exist."""
    parameters = {"type": stream_id.type, "uuid": stream_id.uuid}
    rows = await fetch(connection, plans.current.stream, parameters, prepare=prepare)
    return StreamInfo(stream_id, *rows[0]) if rows else None


class StreamReader:
    """One read of a stream, a page at a time; remembers how large its payloads are."""

    def __init__(self, plans: Plans, stream_id: TypeID, *, reverse: bool, prepare: bool) -> None:
        self._plans, self._stream_id = plans, stream_id
        self._reverse, self._prepare = reverse, prepare
        self._counted = False

    async def page(
        self, connection: Connection, first: int, last: int, limit: int
    ) -> tuple[StreamInfo | None, list[Event]]:
        """One page, as `estoria.core.backends.StreamFetch` says."""
        parameters = {
            "type": self._stream_id.type,
            "uuid": self._stream_id.uuid,
            "first": Int8(first),
            "last": Int8(last),
            "limit": Int8(limit),
            "page_bytes": Int8(PAGE_BYTES),
        }
        statement = self._plans.current.pages[self._reverse, self._counted]
        rows = await fetch(connection, statement, parameters, prepare=self._prepare)
        if not rows:
            return None, []
        self._counted = rows[0][-1] * limit > PAGE_BYTES
        stream, page = _of_stream(self._stream_id, rows)
        if page:
            self._plans.seen(page[-1].global_position)
        return stream, page


def _of_stream(
    stream_id: TypeID, rows: Sequence[tuple[Any, ...]]
) -> tuple[StreamInfo, list[Event]]:
    """The stream, and its events: one row without an event says that there are none."""
    version, first_version, origin = rows[0][8:11]
    stream = StreamInfo(stream_id, version, first_version, origin)
    if rows[0][0] is None:
        return stream, []
    moment, timestamp = None, EPOCH
    page = []
    for version, position, id, type, micros, data, content_type, metadata, _, _, _, _ in rows:
        if micros != moment:
            moment, timestamp = micros, EPOCH + micros * MICROSECOND
        page.append(
            Event(
                id,
                type,
                stream_id,
                version,
                position,
                timestamp,
                data,
                content_type,
                {} if metadata == "{}" else _decode_metadata(metadata),
            )
        )
    return stream, page


def of_all(rows: Sequence[tuple[Any, ...]], known: dict[int, TypeID]) -> tuple[list[Event], int]:
    """The events of many streams, all of them known, and the bytes of all their payloads."""
    moment, timestamp, size = None, EPOCH, 0
    page = []
    for version, position, id, type, micros, data, content_type, metadata, key in rows:
        if micros != moment:
            moment, timestamp = micros, EPOCH + micros * MICROSECOND
        size += len(data)
        page.append(
            Event(
                id,
                type,
                known[key],
                version,
                position,
                timestamp,
                data,
                content_type,
                {} if metadata == "{}" else _decode_metadata(metadata),
            )
        )
    return page, size


def stream_key(stream_id: TypeID) -> dict[str, Any]:
    """The parameters that name a stream."""
    return {"type": stream_id.type, "uuid": stream_id.uuid}
