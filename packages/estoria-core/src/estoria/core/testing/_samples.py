"""Events and streams for the clauses."""

from collections.abc import Sequence
from itertools import count, zip_longest
from typing import Any

from estoria.core import Event, NewEvent, StreamWriter, TypeID

_numbers = count(1)


def new_events(number: int, *, type: str = "happened", size: int = 0) -> list[NewEvent]:
    """So many events, no two alike, with payloads of `size` bytes or a little more."""
    events = []
    for _ in range(number):
        n = next(_numbers)
        data = f'{{"n":{n}}}'.encode().ljust(size)
        events.append(NewEvent(type, data, "application/json", {"n": str(n)}))
    return events


async def written(store: StreamWriter, *, events: int = 3, stream_type: str = "account") -> TypeID:
    """A fresh stream with so many events."""
    stream_id = TypeID.new(stream_type)
    await store.append_stream(stream_id, new_events(events))
    return stream_id


async def versions(store: StreamWriter, stream_id: TypeID, **options: Any) -> list[int]:
    """The versions that a read gives."""
    return [event.stream_version async for event in store.read_stream(stream_id, **options)]


def as_given(events: list[Event]) -> list[NewEvent]:
    """What the events looked like before they were written."""
    return [NewEvent(e.type, e.data, e.data_content_type, e.metadata, e.id) for e in events]


def first_difference(
    expected: Sequence[object], found: Sequence[object]
) -> tuple[int, object, object] | None:
    """Where two long sequences part, and what stands there in each; None when they are alike.

    For a thousand elements and more, which pytest compares line by line for minutes or hours
    where it doesn't cut its output, as in CI.
    """
    for index, (one, other) in enumerate(zip_longest(expected, found)):
        if one != other:
            return index, one, other
    return None
