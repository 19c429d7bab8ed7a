"""The reference aggregate cache."""

from copy import deepcopy

from estoria.core._aggregate_cache import CachedAggregate
from estoria.core._checks import check_stream_id
from estoria.core._ids import TypeID
from estoria.core._owner import Owner


class MemoryAggregateCache:
    """Keeps deep copies of states, without a bound: for tests, not for production."""

    def __init__(self) -> None:
        self._owner = Owner("this MemoryAggregateCache")
        self._entries: dict[TypeID, CachedAggregate] = {}

    async def get(self, aggregate_id: TypeID) -> CachedAggregate | None:
        """See `AggregateCache.get`."""
        self._owner.check()
        check_stream_id(aggregate_id)
        return deepcopy(self._entries.get(aggregate_id))

    async def put(self, aggregate_id: TypeID, entry: CachedAggregate) -> None:
        """See `AggregateCache.put`."""
        self._owner.check()
        check_stream_id(aggregate_id)
        kept = self._entries.get(aggregate_id)
        if kept is None or kept.version <= entry.version:
            self._entries[aggregate_id] = deepcopy(entry)

    async def evict(self, aggregate_id: TypeID) -> None:
        """See `AggregateCache.evict`."""
        self._owner.check()
        self._entries.pop(aggregate_id, None)
