"""The life of aggregates: what every aggregate store does, and the one that sources events."""

import asyncio
import inspect
import random
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable
from uuid import UUID

from estoria.core._aggregate import Aggregate
from estoria.core._codecs import EventCodec, JSONEventCodec
from estoria.core._errors import (
    AbilityMissingError,
    AggregateNotFoundError,
    HistoryTruncatedError,
    NothingToSaveError,
    PendingEventsError,
    StreamChangedError,
    StreamNotFoundError,
    StreamVersionMismatchError,
)
from estoria.core._event_iterator import StreamIterator
from estoria.core._event_store import EventStore, StreamDeleter
from estoria.core._event_types import EventTypes, Evolve
from estoria.core._events import Expect, NewEvent
from estoria.core._ids import TypeID, uuid7
from estoria.core._text import RESERVED_PREFIX, check_name

S = TypeVar("S")

Command = Callable[[Aggregate[S]], Awaitable[object] | object]
"""Decides on an aggregate's state and appends events to it; plain or async."""

_FIRST_PAUSE = 0.004
"""Seconds; half the longest pause after a first conflict, doubled with each up to the fifth."""


@runtime_checkable
class AggregateStore(Protocol[S]):
    """Loads and saves aggregates of one type.

    The decorators (`SnapshottingStore`, `CachedStore`, `HookedStore`) are aggregate stores
    too and stack in any order.
    """

    @abstractmethod
    def new(self, id: UUID | TypeID | None = None) -> Aggregate[S]:
        """A new aggregate in memory, under this id or a fresh one.

        Raises `ValueError` for a `TypeID` of another type.
        """

    @abstractmethod
    async def load(self, id: UUID | TypeID, *, to_version: int | None = None) -> Aggregate[S]:
        """The aggregate as it is now, or as it was at `to_version`.

        Where the stream is shorter than `to_version`, as it is now. Raises
        `AggregateNotFoundError` for what was never saved, or not yet at that version;
        `EventDecodingError` for an event that can't be read; `HistoryTruncatedError` for a
        stream that lacks its first events, when no snapshot covers them.
        """

    @abstractmethod
    async def hydrate(self, aggregate: Aggregate[S], *, to_version: int | None = None) -> None:
        """Bring an aggregate up to date, or up to `to_version`; all of it or nothing.

        Raises like `load`; `PendingEventsError` for an aggregate with unsaved events;
        `StreamChangedError` when its version belongs to another life of the stream; and
        `ValueError` for a `to_version` below its own.
        """

    @abstractmethod
    async def save(self, aggregate: Aggregate[S]) -> None:
        """Append the pending events, expecting the aggregate's version.

        Nothing pending: nothing happens. Raises `StreamVersionMismatchError` when somebody
        else appended first (the events stay pending), `NothingToSaveError` for a new
        aggregate without events, and `EventsAppendedError` when the events are durable
        and a later step failed. Safe to repeat when the outcome is unknown.
        """

    @abstractmethod
    async def delete(self, id: UUID | TypeID) -> None:
        """Delete the aggregate: its stream, its snapshots, its cache entry.

        Raises `AggregateNotFoundError` when there is none, and `AbilityMissingError` when the
        event store is no `StreamDeleter`. Safe to repeat after a failure half-way.
        """

    async def execute(
        self, id: UUID | TypeID, command: Command[S], *, attempts: int = 3
    ) -> Aggregate[S]:
        """Load the aggregate (or make a new one), run the command on it, and save it.

        On a conflict reloads and tries again, up to `attempts` times in all, after a
        random pause that grows ("full jitter", from "Exponential Backoff And Jitter",
        AWS Architecture Blog, 2015). Returns the saved aggregate. What the command raises
        passes through, and nothing is written.
        """
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise ValueError(f"attempts is {attempts!r}, not a number from 1 on")
        attempt = 1
        while True:
            try:
                aggregate = await self.load(id)
            except AggregateNotFoundError:
                aggregate = self.new(id)
            outcome = command(aggregate)
            if inspect.isawaitable(outcome):
                await outcome
            try:
                await self.save(aggregate)
            except StreamVersionMismatchError:
                if attempt == attempts:
                    raise
                await asyncio.sleep(random.uniform(0, _FIRST_PAUSE * 2 ** min(attempt, 5)))
                attempt += 1
            else:
                return aggregate


class EventSourcedStore(AggregateStore[S]):
    """Aggregates as the sum of their events, straight from an event store."""

    def __init__(
        self,
        event_store: EventStore,
        aggregate_type: str,
        new_state: Callable[[], S],
        *,
        events: Iterable[type] | Mapping[str, type],
        evolve: Evolve[S] | None = None,
        codec: EventCodec | None = None,
    ) -> None:
        """`new_state` makes the state before the first event.

        `events` are the event classes, stored under their ``event_type`` attribute or else
        their name, or a mapping of names to classes. How one changes the state is its own
        ``apply_to(state)``, or `evolve(state, event)` for all. `codec` is a
        `JSONEventCodec` by default.

        Raises `ValueError` and `TypeError` for names, classes or a type that won't do.
        """
        check_name(aggregate_type, "aggregate type")
        if aggregate_type.startswith(RESERVED_PREFIX):
            raise ValueError(f"aggregate type {aggregate_type!r} is reserved for the library")
        self.aggregate_type = TypeID(aggregate_type, uuid7()).type
        self._event_store = event_store
        self._new_state = new_state
        self._event_types = EventTypes(events, codec or JSONEventCodec(), evolve)

    def _typed(self, id: UUID | TypeID) -> TypeID:
        typed = TypeID(self.aggregate_type, id) if isinstance(id, UUID) else id
        if not isinstance(typed, TypeID):
            raise TypeError(f"id is a {type(id).__name__}, not a UUID or a TypeID")
        if typed.type != self.aggregate_type:
            raise ValueError(f"{typed} is no {self.aggregate_type}")
        return typed

    def new(self, id: UUID | TypeID | None = None) -> Aggregate[S]:
        """See `AggregateStore.new`."""
        typed = TypeID.new(self.aggregate_type) if id is None else self._typed(id)
        return Aggregate(typed, self._new_state(), self._event_types)

    async def load(self, id: UUID | TypeID, *, to_version: int | None = None) -> Aggregate[S]:
        """See `AggregateStore.load`."""
        aggregate = self.new(id)
        await self.hydrate(aggregate, to_version=to_version)
        return aggregate

    async def hydrate(self, aggregate: Aggregate[S], *, to_version: int | None = None) -> None:
        """See `AggregateStore.hydrate`."""
        count = _count_to(aggregate, to_version)
        with aggregate.exclusively():
            if aggregate.pending_events:
                raise PendingEventsError(aggregate.id, len(aggregate.pending_events))
            iterator = self._event_store.read_stream(
                aggregate.id, after_version=aggregate.version, count=count
            )
            await self._fold(aggregate, iterator, to_version)

    async def _fold(
        self, aggregate: Aggregate[S], iterator: StreamIterator, to_version: int | None
    ) -> None:
        version, state = aggregate.version, aggregate.state
        try:
            async with iterator:
                _check_continuation(aggregate, iterator, to_version)
                version = max(version, iterator.stream.origin)
                async for page in iterator.pages():
                    wanted = page if to_version is None else page[: to_version - version]
                    state = self._event_types.fold(state, wanted)
                    version += len(wanted)
        except StreamNotFoundError as error:
            raise AggregateNotFoundError(aggregate.id) from error
        aggregate.restore(version, state)

    async def save(self, aggregate: Aggregate[S]) -> None:
        """See `AggregateStore.save`."""
        self._typed(aggregate.id)
        with aggregate.exclusively():
            pending = aggregate.pending_events
            if not pending:
                if aggregate.version == 0:
                    raise NothingToSaveError(aggregate.id)
                return
            # Applied before it is written: an event that can't be applied is never a fact.
            state = aggregate.preview
            events = []
            for item in pending:
                data, content_type = self._event_types.encode(item.event)
                name = self._event_types.name_of(item.event)
                events.append(NewEvent(name, data, content_type, item.metadata, item.id))
            expect = aggregate.version or Expect.NO_STREAM
            appended = await self._event_store.append_stream(aggregate.id, events, expect=expect)
            aggregate.saved(appended[-1].stream_version, state, len(pending))

    async def delete(self, id: UUID | TypeID) -> None:
        """See `AggregateStore.delete`."""
        typed = self._typed(id)
        if not isinstance(self._event_store, StreamDeleter):
            raise AbilityMissingError(self._event_store, "StreamDeleter")
        try:
            await self._event_store.delete_stream(typed)
        except StreamNotFoundError as error:
            raise AggregateNotFoundError(typed) from error


def _count_to(aggregate: Aggregate[Any], to_version: int | None) -> int | None:
    if to_version is None:
        return None
    if isinstance(to_version, bool) or not isinstance(to_version, int) or to_version < 1:
        raise ValueError(f"to_version is {to_version!r}, not a version from 1 on")
    if to_version < aggregate.version:
        raise ValueError(
            f"to_version is {to_version}, but {aggregate.id} is at {aggregate.version} already"
        )
    return max(to_version - aggregate.version, 1)


def _check_continuation(
    aggregate: Aggregate[Any], iterator: StreamIterator, to_version: int | None
) -> None:
    """Raise unless the stream goes on from the aggregate's version in the same life."""
    stream, version = iterator.stream, aggregate.version
    if version:
        if version <= stream.origin or version > stream.version:
            raise StreamChangedError(aggregate.id, version)
    elif to_version is not None and to_version <= stream.origin:
        raise AggregateNotFoundError(aggregate.id)
    needed = max(version, stream.origin) + 1
    if stream.first_version > needed:
        raise HistoryTruncatedError(aggregate.id, needed, stream.first_version)
