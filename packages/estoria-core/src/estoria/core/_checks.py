"""Checks of what callers pass, the same for every store and made before anything is written."""

from collections.abc import Collection, Iterable
from uuid import UUID

from estoria.core._errors import EventTooLargeError, InvalidEventError
from estoria.core._events import Expect, NewEvent, StreamInfo
from estoria.core._ids import TypeID
from estoria.core._text import RESERVED_PREFIX, check_name, name_fault, text_fault

MAX_VERSION = 2**63 - 1
"""Above every version and position that a backend can hold."""

MAX_CONTENT_TYPE_LENGTH = 255


def check_stream_id(stream_id: TypeID) -> None:
    """Raise `TypeError` for anything but a `TypeID`."""
    if not isinstance(stream_id, TypeID):
        raise TypeError(f"stream_id is a {type(stream_id).__name__}, not a TypeID")


def check_expectation(expect: Expect | int) -> Expect | int:
    """The expectation in its one form: an `Expect`, or a version from 1 on.

    Raises `ValueError` for a negative number and for anything else, bools included.
    """
    if isinstance(expect, Expect):
        return expect
    if isinstance(expect, bool) or not isinstance(expect, int) or expect < 0:
        raise ValueError(f"expect is {expect!r}, not an Expect or a version from 0 on")
    return expect or Expect.NO_STREAM


def check_events(
    stream_id: TypeID, events: Iterable[NewEvent], max_event_bytes: int | None
) -> list[NewEvent]:
    """The batch as a list, every event in it fit for every backend.

    Raises `InvalidEventError` with the event's index and its fault, `EventTooLargeError`
    for a payload over the limit, and `ValueError` for an id that comes twice.
    """
    check_stream_id(stream_id)
    if isinstance(events, NewEvent):
        raise TypeError("events is one NewEvent, not a sequence of them")
    batch = list(events)
    seen: set[UUID] = set()
    for index, event in enumerate(batch):
        if (fault := _event_fault(event)) is not None:
            raise InvalidEventError(stream_id, index, fault)
        if event.id in seen:
            raise InvalidEventError(stream_id, index, f"id {event.id} comes twice in the batch")
        seen.add(event.id)
        if max_event_bytes is not None and len(event.data) > max_event_bytes:
            raise EventTooLargeError(stream_id, event.id, len(event.data), max_event_bytes)
    return batch


def metadata_fault(metadata: dict[str, str]) -> str | None:
    """Why no event may carry this metadata, or None."""
    if not isinstance(metadata, dict):
        return f"metadata is a {type(metadata).__name__}, not a dict"
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            return f"metadata {key!r} is not a str mapped to a str"
        if key.startswith(RESERVED_PREFIX):
            return f"metadata key {key!r} starts with {RESERVED_PREFIX!r}, which is reserved"
        if (fault := text_fault(key) or text_fault(value)) is not None:
            return f"metadata {key!r} {fault}"
    return None


def _event_fault(event: NewEvent) -> str | None:
    if not isinstance(event, NewEvent):
        return f"it is a {type(event).__name__}, not a NewEvent"
    if not isinstance(event.type, str):
        return f"its type is a {type(event.type).__name__}, not a str"
    if (fault := name_fault(event.type)) is not None:
        return f"its type {event.type[:32]!r} {fault}"
    if type(event.data) is not bytes:
        return f"its data is a {type(event.data).__name__}, not bytes"
    content_type = event.data_content_type
    if not isinstance(content_type, str):
        return f"its content type is a {type(content_type).__name__}, not a str"
    if len(content_type) > MAX_CONTENT_TYPE_LENGTH:
        return f"its content type is longer than {MAX_CONTENT_TYPE_LENGTH} characters"
    if (fault := text_fault(content_type)) is not None:
        return f"its content type {fault}"
    if not isinstance(event.id, UUID):
        return f"its id is a {type(event.id).__name__}, not a UUID"
    if event.metadata and (fault := metadata_fault(event.metadata)) is not None:
        return fault
    return None if isinstance(event.metadata, dict) else "its metadata is not a dict"


def check_bound(name: str, value: int) -> int:
    """A version or a position from 0 on, cut to what backends can hold; else `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}, not a number from 0 on")
    return min(value, MAX_VERSION)


def check_count(count: int | None) -> int | None:
    """A `count` of at least 1, or None; else `ValueError`."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"count is {count!r}, not a number from 1 on")
    return count


def check_truncation(stream: StreamInfo, to_version: int) -> None:
    """Raise `ValueError` for a version below 1 or beyond the tip."""
    if isinstance(to_version, bool) or not isinstance(to_version, int) or to_version < 1:
        raise ValueError(f"to_version is {to_version!r}, not a version from 1 on")
    if to_version > stream.version:
        raise ValueError(
            f"to_version is {to_version}, but {stream.stream_id} ends at {stream.version}"
        )


def check_filter(name: str, types: Collection[str] | None) -> list[str] | None:
    """The type names of a filter, sorted and each once, or None for no filter.

    Raises `ValueError` for a bare string, for an empty filter and for what is no type name.
    """
    if types is None:
        return None
    if isinstance(types, str):
        raise ValueError(f"{name} is a str, not a collection of type names")
    if not types:
        raise ValueError(f"{name} is empty: nothing could match, leave it out to read all")
    for type_name in types:
        check_name(type_name, f"a name in {name}")
    return sorted(set(types))
