"""Appending and reading on one connection, in whoever's transaction."""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Any
from uuid import UUID

import msgspec

from estoria.core import Appended, Event, Expect, NewEvent, StreamInfo, TypeID
from estoria.core.backends import MAX_VERSION, repeated_batch
from estoria.sqlite import _schema

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

PAGE_BYTES = 4 * 2**20
"""A page ends early once its payloads exceed this many bytes."""

_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode
_encode_json = msgspec.json.Encoder().encode


class IdsStandError(Exception):
    """An event id stands in the stream already; roll back and look at what stands there."""


def microseconds_now() -> int:
    """The clock, in microseconds since 1970, UTC."""
    return time_ns() // 1_000


def append(
    connection: sqlite3.Connection,
    stream_id: TypeID,
    batch: Sequence[NewEvent],
    expect: Expect | int,
    timestamp: int,
) -> Appended | None:
    """Write the batch; None, with nothing changed, when the expectation doesn't hold.

    `timestamp` is in microseconds since 1970, UTC.
    Raises `IdsStandError`, after changes that must be rolled back.
    """
    cursor = _cursor(connection)
    count = len(batch)
    row = _move(cursor, stream_id, count, expect)
    if row is None:
        return None
    key, tip, first_version, origin = row
    start = tip - count + 1
    now = EPOCH + timestamp * MICROSECOND
    rows = _rows(key, start, timestamp, batch)
    try:
        if count > 1:
            cursor.executemany(_schema.INSERT_EVENT, rows[:-1])
        cursor.execute(_schema.INSERT_EVENT, rows[-1])
    except sqlite3.IntegrityError as error:
        raise IdsStandError from error
    # Only this transaction inserts: the positions follow one another.
    position = (cursor.lastrowid or 0) - count + 1
    written = [
        Event(
            new.id,
            new.type,
            stream_id,
            start + index,
            position + index,
            now,
            new.data,
            new.data_content_type,
            dict(new.metadata),
        )
        for index, new in enumerate(batch)
    ]
    return Appended(written, StreamInfo(stream_id, tip, first_version, origin))


def _move(
    cursor: sqlite3.Cursor, stream_id: TypeID, count: int, expect: Expect | int
) -> tuple[int, int, int, int] | None:
    """Move the stream's tip; its key and facts, or None when the expectation doesn't hold."""
    type, uuid = stream_id.type, stream_id.uuid.bytes
    if isinstance(expect, int):
        if expect > MAX_VERSION:
            return None
        moved = cursor.execute(_schema.MOVE_EXACT, (count, type, uuid, expect))
    elif expect is Expect.ANY or expect is Expect.NO_STREAM:
        statement = _schema.MOVE_ANY if expect is Expect.ANY else _schema.MOVE_NEW
        moved = cursor.execute(statement, {"type": type, "uuid": uuid, "count": count})
    else:
        moved = cursor.execute(_schema.MOVE_EXISTING, (count, type, uuid))
    row: tuple[int, int, int, int] | None = moved.fetchone()
    return row


def _rows(
    key: int, start: int, timestamp: int, batch: Sequence[NewEvent]
) -> list[tuple[object, ...]]:
    return [
        (
            key,
            version,
            new.id.bytes,
            new.type,
            timestamp,
            new.data,
            new.data_content_type,
            _encode_json(new.metadata).decode() if new.metadata else "{}",
        )
        for version, new in enumerate(batch, start)
    ]


def happened(
    connection: sqlite3.Connection,
    stream_id: TypeID,
    batch: Sequence[NewEvent],
    expect: Expect | int,
) -> tuple[Appended | None, int]:
    """The result of the first attempt if this append is a repeated one, and the true version.

    Raises `DuplicateEventError` when some of the events stand there, but not this very batch.
    """
    found = find(connection, stream_id)
    if found is None:
        return None, 0
    key, stream = found
    cursor = _cursor(connection)
    standing = [
        event
        for new in batch
        for event in events(
            connection, cursor.execute(_schema.EVENT_BY_ID, (key, new.id.bytes)), {key: stream_id}
        )
    ]
    repeated = repeated_batch(stream, batch, standing, expect)
    first = None if repeated is None else Appended(repeated, stream)
    return first, stream.version


def find(connection: sqlite3.Connection, stream_id: TypeID) -> tuple[int, StreamInfo] | None:
    """The stream's key, and the stream as it is; None for one that doesn't exist."""
    parameters = {"type": stream_id.type, "uuid": stream_id.uuid.bytes}
    row = _cursor(connection).execute(_schema.STREAM, parameters).fetchone()
    if row is None or not row[1]:
        return None
    return row[0], StreamInfo(stream_id, *row[2:])


def read(
    connection: sqlite3.Connection,
    stream_id: TypeID,
    first: int,
    last: int,
    limit: int,
    *,
    reverse: bool,
) -> tuple[StreamInfo | None, list[Event]]:
    """One page, as `estoria.core.backends.StreamFetch` says."""
    if (found := find(connection, stream_id)) is None:
        return None, []
    key, stream = found
    statement = _schema.EVENTS_BACKWARDS if reverse else _schema.EVENTS_FORWARDS
    rows = _cursor(connection).execute(statement, (key, first, last, limit))
    return stream, events(connection, rows, {key: stream_id})


def events(
    connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]], known: dict[int, TypeID]
) -> list[Event]:
    """The rows as events, until a page is full; streams that aren't `known` are looked up."""
    page = []
    size, moment, timestamp = 0, None, EPOCH
    for version, position, id, type, micros, data, content_type, metadata, key in rows:
        if micros != moment:
            moment, timestamp = micros, EPOCH + micros * MICROSECOND
        try:
            stream_id = known[key]
        except KeyError:
            stream_id = known[key] = _stream_id(connection, key)
        page.append(
            Event(
                msgspec.convert(id, UUID),
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
        size += len(data)
        if size > PAGE_BYTES:
            break
    return page


def _stream_id(connection: sqlite3.Connection, key: int) -> TypeID:
    type, uuid = _cursor(connection).execute(_schema.STREAM_ID, (key,)).fetchone()
    return TypeID(type, UUID(bytes=uuid))


def _cursor(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """A cursor that gives plain tuples, whatever the connection's owner prefers."""
    cursor = connection.cursor()
    if cursor.row_factory is not None:
        cursor.row_factory = None
    return cursor
