"""What the caches have in common: states as bytes or as they are, and no older over a newer."""

import threading
from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from estoria.core import CachedAggregate, StateCodec, TypeID
from estoria.core.backends import check_stream_id
from estoria.memcache._stats import CacheStats


class Kept(NamedTuple):
    """An entry as a cache keeps it."""

    version: int
    state: Any
    """The codec's bytes, or the whole `CachedAggregate` where states are shared."""

    deadline: float
    """When it expires, in seconds of the monotonic clock."""


class Shard:
    """A part of a cache, behind a lock of its own, which is never held over an await."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.hits = self.misses = self.evictions = self.expirations = 0


class InProcessCache:
    """An `AggregateCache` in this process, for any number of threads and event loops at once."""

    def __init__(
        self, codec: StateCodec[Any] | None, shards: Sequence[Shard], *, share_values: bool
    ) -> None:
        """Raises `ValueError` unless there is a codec, or states are shared."""
        if codec is None and not share_values:
            raise ValueError("codec is None: name one, or pass share_values=True for frozen states")
        self._codec = None if share_values else codec
        self._decode = None if self._codec is None else self._codec.decode
        self._shards = shards

    async def get(self, aggregate_id: TypeID) -> CachedAggregate | None:
        """See `AggregateCache.get`."""
        if type(aggregate_id) is not TypeID:
            check_stream_id(aggregate_id)
        kept = self._find(aggregate_id)
        if kept is None:
            return None
        version, state, _ = kept
        if self._decode is None:
            shared: CachedAggregate = state
            return shared
        try:
            return CachedAggregate(version, self._decode(state))
        # A codec may be anybody's: what it can't read is a miss, whatever is wrong.
        except Exception:  # noqa: BLE001
            shard = self._shards[self._index(aggregate_id)]
            with shard.lock:
                shard.hits -= 1
                shard.misses += 1
            return None

    async def put(self, aggregate_id: TypeID, entry: CachedAggregate) -> None:
        """See `AggregateCache.put`."""
        check_stream_id(aggregate_id)
        state = entry if self._codec is None else self._codec.encode(entry.state)
        self._keep(aggregate_id, entry.version, state)

    async def evict(self, aggregate_id: TypeID) -> None:
        """See `AggregateCache.evict`."""
        check_stream_id(aggregate_id)
        self._forget(aggregate_id)

    @abstractmethod
    def stats(self) -> CacheStats:
        """What the cache has done so far, and what it holds."""

    @abstractmethod
    def _find(self, aggregate_id: TypeID) -> Kept | None:
        """The entry, if it is there and hasn't expired; counts a hit or a miss."""

    @abstractmethod
    def _keep(self, aggregate_id: TypeID, version: int, state: Any) -> None:
        """Keep the entry, unless a newer one is kept."""

    @abstractmethod
    def _forget(self, aggregate_id: TypeID) -> None:
        """Forget the entry, if there is one."""

    def _index(self, aggregate_id: TypeID) -> int:
        return hash(aggregate_id) % len(self._shards)


def check_size(name: str, value: int) -> int:
    """Raise `ValueError` unless it is a number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, not a number from 1 on")
    return value


def check_time(name: str, value: timedelta) -> float:
    """The time in seconds; raises `ValueError` unless it is a timedelta above 0."""
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise ValueError(f"{name} is {value!r}, not a timedelta above 0")
    return value.total_seconds()
