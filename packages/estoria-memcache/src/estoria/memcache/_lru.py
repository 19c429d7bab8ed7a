"""A cache of so many entries, on pylru."""

import math
import time
from datetime import timedelta
from typing import Any

import pylru

from estoria.core import StateCodec, TypeID
from estoria.memcache._aggregate_cache import (
    InProcessCache,
    Kept,
    Shard,
    check_size,
    check_time,
)
from estoria.memcache._stats import CacheStats


class LRUAggregateCache(InProcessCache):
    """Keeps so many aggregates, the least recently used out first.

    `stats().bytes` counts the states' bytes, by looking at each.
    """

    def __init__(
        self,
        max_entries: int,
        ttl: timedelta | None = None,
        *,
        codec: StateCodec[Any] | None = None,
        share_values: bool = False,
    ) -> None:
        """`ttl` is how long an entry lives after it was put; None, the default, is for ever.

        States go in as `codec`'s bytes, and each get decodes its own. With `share_values`
        they go in as they are, and every caller gets the same object: for frozen states.

        Raises `ValueError` for a number below 1, a time that isn't above 0, and when there is
        neither a codec nor `share_values`.
        """
        self._shard = Shard()
        super().__init__(codec, [self._shard], share_values=share_values)
        self._ttl = math.inf if ttl is None else check_time("ttl", ttl)
        self._expires = ttl is not None
        self._entries: Any = pylru.lrucache(check_size("max_entries", max_entries))

    def stats(self) -> CacheStats:
        """See `CacheStats`."""
        shard = self._shard
        with shard.lock:
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
            if kept is not None and self._expires and kept.deadline <= time.monotonic():
                del self._entries[aggregate_id]
                shard.expirations += 1
                kept = None
            if kept is None:
                shard.misses += 1
            else:
                shard.hits += 1
            return kept

    def _keep(self, aggregate_id: TypeID, version: int, state: Any) -> None:
        shard, entries, now = self._shard, self._entries, time.monotonic()
        with shard.lock:
            if aggregate_id in entries:
                there: Kept = entries.peek(aggregate_id)
                if there.deadline <= now:
                    shard.expirations += 1
                elif there.version > version:
                    return
            elif len(entries) == entries.size():
                shard.evictions += 1
            entries[aggregate_id] = Kept(version, state, now + self._ttl)

    def _forget(self, aggregate_id: TypeID) -> None:
        with self._shard.lock:
            if aggregate_id in self._entries:
                del self._entries[aggregate_id]
