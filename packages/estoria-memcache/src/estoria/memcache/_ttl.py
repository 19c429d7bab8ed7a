"""A cache of entries that all live equally long, on cachetools."""

import math
import time
from datetime import timedelta
from typing import Any

from cachetools import Cache, TTLCache

from estoria.core import StateCodec, TypeID
from estoria.memcache._aggregate_cache import (
    InProcessCache,
    Kept,
    Shard,
    check_size,
    check_time,
)
from estoria.memcache._stats import CacheStats


class TTLAggregateCache(InProcessCache):
    """Keeps every aggregate for the same time after it was put.

    Entries stand in the order of their puts, so those whose time is over go together from the
    front, at the next put, and no get looks for them. `stats().bytes` counts the states' bytes,
    by looking at each.
    """

    def __init__(
        self,
        life_window: timedelta,
        max_entries: int | None = None,
        *,
        codec: StateCodec[Any] | None = None,
        share_values: bool = False,
    ) -> None:
        """`max_entries` bounds their number, the oldest out first; None, the default, doesn't.

        States go in as `codec`'s bytes, and each get decodes its own. With `share_values`
        they go in as they are, and every caller gets the same object: for frozen states.

        Raises `ValueError` for a time that isn't above 0, a number below 1, and when there is
        neither a codec nor `share_values`.
        """
        self._shard = Shard()
        super().__init__(codec, [self._shard], share_values=share_values)
        bound = math.inf if max_entries is None else check_size("max_entries", max_entries)
        self._entries: TTLCache[TypeID, Kept] = TTLCache(
            bound, check_time("life_window", life_window), timer=time.monotonic
        )

    def stats(self) -> CacheStats:
        """See `CacheStats`."""
        shard = self._shard
        with shard.lock:
            self._drop_expired()
            held = None
            if self._codec is not None:
                held = sum(len(kept.state) for kept in self._entries.values())
            return CacheStats(
                shard.hits,
                shard.misses,
                shard.evictions,
                shard.expirations,
                len(self._entries),
                held,
            )

    def _find(self, aggregate_id: TypeID) -> Kept | None:
        shard = self._shard
        with shard.lock:
            kept: Kept | None = self._entries.get(aggregate_id)
            if kept is None:
                shard.misses += 1
            else:
                shard.hits += 1
            return kept

    def _keep(self, aggregate_id: TypeID, version: int, state: Any) -> None:
        shard = self._shard
        with shard.lock:
            self._drop_expired()
            there = self._entries.get(aggregate_id)
            if there is not None and there.version > version:
                return
            due = self._count() + (there is None)
            self._entries[aggregate_id] = Kept(version, state, math.inf)
            shard.evictions += due - self._count()

    def _forget(self, aggregate_id: TypeID) -> None:
        with self._shard.lock:
            self._drop_expired()
            self._entries.pop(aggregate_id, None)

    def _drop_expired(self) -> None:
        """Before anything else does: the library counts nothing."""
        self._shard.expirations += len(list(self._entries.expire()))

    def _count(self) -> int:
        """How many there are; the library's `len` would look for expired ones."""
        return Cache.__len__(self._entries)
