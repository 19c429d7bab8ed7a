"""One aggregate in memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from estoria.core._checks import metadata_fault
from estoria.core._errors import AggregateBusyError
from estoria.core._event_types import EventTypes
from estoria.core._ids import TypeID, uuid7

S = TypeVar("S")


class PendingEvent(msgspec.Struct, frozen=True):
    """A domain event that waits to be saved, with the id that makes saving safe to repeat."""

    event: Any
    metadata: dict[str, str]
    id: UUID


class Aggregate(Generic[S]):
    """The state of one aggregate at one version, and the events that wait to be saved.

    Made and filled by an `AggregateStore`. `state` and `version` change only when the
    aggregate is saved or hydrated; `append` alone changes neither. The state is a value:
    an event that applies returns the next one.
    """

    def __init__(self, id: TypeID, state: S, event_types: EventTypes[S]) -> None:
        self._id = id
        self._version = 0
        self._state = state
        self._event_types = event_types
        self._pending: list[PendingEvent] = []
        self._preview = state
        self._previewed = 0
        self._busy = False

    @property
    def id(self) -> TypeID:
        """The identity, also of the aggregate's stream."""
        return self._id

    @property
    def version(self) -> int:
        """The stream version that `state` stands for; 0 before the first save."""
        return self._version

    @property
    def state(self) -> S:
        """The state at `version`, without the pending events."""
        return self._state

    @property
    def pending(self) -> tuple[Any, ...]:
        """The domain events that were appended and not yet saved, in order."""
        return tuple(pending.event for pending in self._pending)

    @property
    def preview(self) -> S:
        """The state with the pending events applied."""
        for pending in self._pending[self._previewed :]:
            self._preview = self._event_types.apply(self._preview, pending.event)
            self._previewed += 1
        return self._preview

    def append(self, *events: Any, metadata: Mapping[str, str] | None = None) -> None:
        """Note events to be saved, each with a copy of `metadata`.

        Raises `EventEncodingError` for an event whose class the store doesn't know, and
        `ValueError` for metadata that no store may keep; then none of them is noted.
        """
        for event in events:
            self._event_types.name_of(event)
        if (fault := metadata_fault(kept := dict(metadata or {}))) is not None:
            raise ValueError(fault)
        self._pending += [PendingEvent(event, dict(kept), uuid7()) for event in events]

    def restore(self, version: int, state: S) -> None:
        """For stores: take on a state of the past, dropping nothing that is pending."""
        self._version, self._state = version, state
        self._preview, self._previewed = state, 0

    def saved(self, version: int, state: S, count: int) -> None:
        """For stores: the first `count` pending events are durable, and this is the result."""
        del self._pending[:count]
        self.restore(version, state)

    @property
    def pending_events(self) -> tuple[PendingEvent, ...]:
        """For stores: the pending events with their ids and metadata."""
        return tuple(self._pending)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """For stores: hold the aggregate while it is saved or hydrated.

        Raises `AggregateBusyError` when somebody holds it already.
        """
        if self._busy:
            raise AggregateBusyError(self._id)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def __repr__(self) -> str:
        return f"<Aggregate {self._id} at version {self._version}, {len(self._pending)} pending>"
