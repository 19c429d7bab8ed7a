"""Telling an append that had happened already from one that must be refused."""

from collections.abc import Sequence
from uuid import UUID

from estoria.core._errors import DuplicateEventError
from estoria.core._events import Event, Expect, NewEvent, StreamInfo


def repeated_batch(
    stream: StreamInfo,
    batch: Sequence[NewEvent],
    standing: Sequence[Event],
    expect: Expect | int,
) -> list[Event] | None:
    """What a repeated append returns: the stored events, or None when it never happened.

    `standing` are the events of `stream` that carry an id of `batch`, in any order. Raises
    `DuplicateEventError` when some stand there, but not as this very batch: all of them,
    in order, next to each other and, with an exact expectation, right after that version.
    """
    if not standing:
        return None
    found = sorted(standing, key=lambda event: event.stream_version)
    start = found[0].stream_version
    expected_start = start
    if isinstance(expect, int):
        expected_start = expect + 1
    elif expect is Expect.NO_STREAM:
        expected_start = stream.origin + 1
    wanted = [(event.id, expected_start + index) for index, event in enumerate(batch)]
    if wanted == [(event.id, event.stream_version) for event in found]:
        return found
    ids: set[UUID] = {event.id for event in batch}
    culprit = next(event.id for event in found if event.id in ids)
    raise DuplicateEventError(stream.stream_id, culprit)
