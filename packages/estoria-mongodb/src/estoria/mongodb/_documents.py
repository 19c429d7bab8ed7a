"""Events as documents, and back."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Any, NamedTuple

from estoria.core import Event, EventTooLargeError, NewEvent, StreamInfo, TypeID
from estoria.mongodb._schema import MAX_INDEX, NUMBER_BITS

Document = dict[str, Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

MAX_DOCUMENT_BYTES = 15 * 2**20 + 2**19
"""Of one append's document; MongoDB's limit is 16 MiB."""

MAX_DOCUMENT_EVENTS = 100_000

_EVENT_BYTES = 150
_TEXT_BYTES = 16


class Tip(NamedTuple):
    """What is known of a stream: always true once, so its versions are taken for good.

    `number` is that of the append that made the tip; 0 for a stream that was never written.
    A deleted stream has `alive` false, and the retired version as `version` and `origin`.
    """

    version: int = 0
    origin: int = 0
    first_version: int = 1
    number: int = 0
    alive: bool = False

    def info(self, stream_id: TypeID) -> StreamInfo:
        return StreamInfo(stream_id, self.version, self.first_version, self.origin)


def microseconds_now() -> int:
    """The clock, in microseconds since 1970, UTC."""
    return time_ns() // 1_000


def position(number: int, index: int) -> int:
    """The global position of an event."""
    return (number << NUMBER_BITS) + index


def last_position(number: int) -> int:
    """The highest position that this append, or any before it, could have; 0 before all."""
    return position(number, MAX_INDEX) if number else 0


def size_of(event: NewEvent) -> int:
    """An upper bound of an event's bytes in a document."""
    texts = [event.type, event.data_content_type]
    for pair in event.metadata.items():
        texts += pair
    size = _EVENT_BYTES + len(event.data) + _TEXT_BYTES * len(texts)
    for text in texts:
        size += len(text) if text.isascii() else len(text.encode())
    return size


def parts(stream_id: TypeID, batch: list[NewEvent]) -> tuple[list[list[NewEvent]], int]:
    """The batch in parts that fit into a document each, nearly always one, and its size.

    Raises `EventTooLargeError` for an event that fits into none.
    """
    found: list[list[NewEvent]] = [[]]
    size = whole = 0
    for event in batch:
        one = size_of(event)
        if one > MAX_DOCUMENT_BYTES:
            raise EventTooLargeError(stream_id, event.id, one, MAX_DOCUMENT_BYTES)
        if size + one > MAX_DOCUMENT_BYTES or len(found[-1]) == MAX_DOCUMENT_EVENTS:
            found.append([])
            size = 0
        found[-1].append(event)
        size += one
        whole += one
    return found, whole


def append_document(
    stream_id: TypeID, batch: Sequence[NewEvent], tip: Tip, timestamp: int
) -> Document:
    """The document of an append after this tip, without its number."""
    first, count = tip.version + 1, len(batch)
    document = {
        "_id": 0,
        "type": stream_id.type,
        "uuid": stream_id.uuid,
        "first": first,
        "last": tip.version + count,
        # The version before this life: that of a deletion, or of nothing at all.
        "origin": tip.origin,
        "timestamp": timestamp,
        "claims": [*range(first, first + count), *[event.id for event in batch]],
        "events": [_encode(event) for event in batch],
    }
    if first == 1:
        document["begins"] = True
    return document


def deletion_document(stream_id: TypeID, tip: Tip) -> Document:
    """The document of a deletion: it retires the version after the tip."""
    retired = tip.version + 1
    return {
        "_id": 0,
        "type": stream_id.type,
        "uuid": stream_id.uuid,
        "first": retired,
        "last": retired,
        "origin": retired,
        "deleted": True,
        "claims": [retired],
    }


def events_of(document: Document, stream_id: TypeID | None = None) -> Iterator[Event]:
    """The events that a document still holds, in their order."""
    if stream_id is None:
        stream_id = TypeID(document["type"], document["uuid"])
    first, last = document["first"], document["last"]
    events = document["events"]
    ids = document["claims"][last - first + 1 :]
    version = last - len(events) + 1
    start = (document["_id"] << NUMBER_BITS) - first
    timestamp = EPOCH + document["timestamp"] * MICROSECOND
    for id, event in zip(ids, events, strict=True):
        metadata = event.get("metadata")
        yield Event(
            id,
            event["type"],
            stream_id,
            version,
            start + version,
            timestamp,
            event["data"],
            event.get("content_type", ""),
            dict(zip(metadata[::2], metadata[1::2], strict=True)) if metadata else {},
        )
        version += 1


def written_events(
    stream_id: TypeID, batch: Sequence[NewEvent], document: Document
) -> Iterator[Event]:
    """The events of an append, as `events_of` gives them later."""
    start = (document["_id"] << NUMBER_BITS) - document["first"]
    timestamp = EPOCH + document["timestamp"] * MICROSECOND
    for version, new in enumerate(batch, document["first"]):
        yield Event(
            new.id,
            new.type,
            stream_id,
            version,
            start + version,
            timestamp,
            new.data,
            new.data_content_type,
            dict(new.metadata),
        )


def tip_of(newest: Document | None, anchor: Document | None) -> Tip:
    """What a stream's newest document and its first one say of it."""
    if newest is None:
        return Tip()
    origin, truncated = newest["origin"], (anchor or {}).get("truncated", 0)
    return Tip(
        newest["last"],
        origin,
        max(origin, truncated) + 1,
        newest["_id"],
        not newest.get("deleted", False),
    )


def _encode(event: NewEvent) -> Document:
    document: Document = {"type": event.type, "data": event.data}
    if event.data_content_type:
        document["content_type"] = event.data_content_type
    if event.metadata:
        # Pairs, since keys of documents mean something with dots, dollars or "$ref".
        document["metadata"] = [text for pair in event.metadata.items() for text in pair]
    return document
