"""What an aggregate cache promises."""

from typing import Any, Protocol, runtime_checkable

import msgspec

from estoria.core._ids import TypeID


class CachedAggregate(msgspec.Struct, frozen=True):
    """The state of an aggregate at one version."""

    version: int
    state: Any


@runtime_checkable
class AggregateCache(Protocol):
    """Keeps states of aggregates where they are fetched faster than replayed.

    May forget anything at any time. Keys are whole typed ids. An entry that this process
    can't decode is a miss. What one caller does to a state it got never shows in another
    caller's. A cache that can't be reached raises an error of the library, and
    `CachedStore` does without it.

    Held to it by `AggregateCacheAcceptance`.
    """

    async def get(self, aggregate_id: TypeID) -> CachedAggregate | None:
        """The entry, or None for a miss."""
        ...

    async def put(self, aggregate_id: TypeID, entry: CachedAggregate) -> None:
        """Keep the entry, unless a newer version is kept already."""
        ...

    async def evict(self, aggregate_id: TypeID) -> None:
        """Forget the entry; nothing happens when there is none."""
        ...
