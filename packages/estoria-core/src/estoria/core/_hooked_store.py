"""An aggregate store that tells others what it does."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from estoria.core._aggregate import Aggregate
from estoria.core._aggregate_store import AggregateStore
from estoria.core._errors import EventsAppendedError
from estoria.core._ids import TypeID

S = TypeVar("S")

Hook = Callable[[Any], Awaitable[object] | object]
"""A plain or an async callable; what it returns is ignored, what it raises passes through."""


class HookedStore(AggregateStore[S]):
    """Calls hooks around the operations of another aggregate store.

    Hooks run one after the other, in order. ``before_load`` gets the aggregate's id, all
    others the aggregate. A hook that raises before a save stops it; one that raises after a
    save that wrote something makes it an `EventsAppendedError`, since the events are
    durable. `new` and `delete` have no hooks.
    """

    def __init__(
        self,
        inner: AggregateStore[S],
        *,
        before_load: Sequence[Hook] = (),
        after_load: Sequence[Hook] = (),
        before_hydrate: Sequence[Hook] = (),
        after_hydrate: Sequence[Hook] = (),
        before_save: Sequence[Hook] = (),
        after_save: Sequence[Hook] = (),
    ) -> None:
        self._inner = inner
        self._before_load = tuple(before_load)
        self._after_load = tuple(after_load)
        self._before_hydrate = tuple(before_hydrate)
        self._after_hydrate = tuple(after_hydrate)
        self._before_save = tuple(before_save)
        self._after_save = tuple(after_save)

    def new(self, id: UUID | TypeID | None = None) -> Aggregate[S]:
        """See `AggregateStore.new`."""
        return self._inner.new(id)

    async def load(self, id: UUID | TypeID, *, to_version: int | None = None) -> Aggregate[S]:
        """See `AggregateStore.load`."""
        if self._before_load:
            await _call(self._before_load, self._inner.new(id).id)
        aggregate = await self._inner.load(id, to_version=to_version)
        await _call(self._after_load, aggregate)
        return aggregate

    async def hydrate(self, aggregate: Aggregate[S], *, to_version: int | None = None) -> None:
        """See `AggregateStore.hydrate`."""
        await _call(self._before_hydrate, aggregate)
        await self._inner.hydrate(aggregate, to_version=to_version)
        await _call(self._after_hydrate, aggregate)

    async def save(self, aggregate: Aggregate[S]) -> None:
        """See `AggregateStore.save`."""
        await _call(self._before_save, aggregate)
        version = aggregate.version
        await self._inner.save(aggregate)
        try:
            await _call(self._after_save, aggregate)
        # A hook may raise anything; what matters is that the events are durable.
        except Exception as error:
            if aggregate.version == version:
                raise
            raise EventsAppendedError(
                aggregate.id, aggregate.version, "a hook after the save failed"
            ) from error

    async def delete(self, id: UUID | TypeID) -> None:
        """See `AggregateStore.delete`."""
        await self._inner.delete(id)


async def _call(hooks: Sequence[Hook], argument: object) -> None:
    for hook in hooks:
        outcome = hook(argument)
        if inspect.isawaitable(outcome):
            await outcome
