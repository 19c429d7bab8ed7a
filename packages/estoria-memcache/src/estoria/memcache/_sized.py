"""A cache of so many bytes, on cachebox."""

import math
import time
from datetime import timedelta
from sys import getsizeof
from typing import Any

from cachebox import LRUCache

from estoria.core import StateCodec, TypeID
from estoria.memcache._aggregate_cache import (
    InProcessCache,
    Kept,
    Shard,
    check_size,
    check_time,
)
from estoria.memcache._stats import CacheStats

_OVERHEAD = 200
"""Bytes that an entry takes besides its key and its state: the tuple, its numbers, its share of
the table and of the list, and what the allocator rounds up. Measured against the process's
memory, with a million entries of 20 to 2,000 bytes."""


class _SizedShard(Shard):
    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self.entries: LRUCache[bytes, Kept] = LRUCache(max_bytes, getsizeof=_size)


class SizedAggregateCache(InProcessCache):
    """Keeps so many bytes of aggregates, the least recently used out first.

    What counts is what the process's memory really holds: key, state and overhead. Shards
    have a lock each, so that threads don't wait for one; each holds its share of the bytes, and
    an entry that is larger than a share is not kept. States go in as the codec's bytes: an
    object's size can't be known.
    """

    def __init__(
        self,
        max_bytes: int,
        ttl: timedelta | None = None,
        *,
        codec: StateCodec[Any],
        shards: int = 8,
    ) -> None:
        """`ttl` is how long an entry lives after it was put; None, the default, is for ever.

        Raises `ValueError` for numbers below 1, a time that isn't above 0 and no codec.
        """
        self._ttl = math.inf if ttl is None else check_time("ttl", ttl)
        self._expires = ttl is not None
        self._max_share = max(check_size("max_bytes", max_bytes) // check_size("shards", shards), 1)
        self._sized = [_SizedShard(self._max_share) for _ in range(shards)]
        super().__init__(codec, self._sized, share_values=False)

    def stats(self) -> CacheStats:
        """See `CacheStats`; the bytes are those that are bounded."""
        counts = [0] * 6
        for shard in self._sized:
            with shard.lock:
                found = (
                    shard.hits,
                    shard.misses,
                    shard.evictions,
                    shard.expirations,
                    len(shard.entries),
                    shard.entries.current_size(),
                )
            counts = [count + more for count, more in zip(counts, found, strict=True)]
        return CacheStats(*counts)

    def _find(self, aggregate_id: TypeID) -> Kept | None:
        key = _key(aggregate_id)
        shard = self._shard_of(aggregate_id)
        with shard.lock:
            kept: Kept | None = shard.entries.get(key)
            if kept is not None and self._expires and kept.deadline <= time.monotonic():
                del shard.entries[key]
                shard.expirations += 1
                kept = None
            if kept is None:
                shard.misses += 1
            else:
                shard.hits += 1
            return kept

    def _keep(self, aggregate_id: TypeID, version: int, state: Any) -> None:
        key, now = _key(aggregate_id), time.monotonic()
        kept = Kept(version, state, now + self._ttl)
        shard = self._shard_of(aggregate_id)
        with shard.lock:
            there = shard.entries.peek(key)
            if there is not None:
                if there.deadline <= now:
                    shard.expirations += 1
                elif there.version > version:
                    return
            if _size(key, kept) > self._max_share:
                # What is there is older than what there is no room for.
                shard.entries.pop(key, None)
                return
            due = len(shard.entries) + (there is None)
            shard.entries.insert(key, kept)
            shard.evictions += due - len(shard.entries)

    def _forget(self, aggregate_id: TypeID) -> None:
        shard = self._shard_of(aggregate_id)
        with shard.lock:
            shard.entries.pop(_key(aggregate_id), None)

    def _shard_of(self, aggregate_id: TypeID) -> _SizedShard:
        return self._sized[self._index(aggregate_id)]


def _key(aggregate_id: TypeID) -> bytes:
    """The id in as few bytes as say it: the UUID's sixteen come last."""
    return aggregate_id.type.encode() + aggregate_id.uuid.bytes


def _size(key: bytes, kept: Kept) -> int:
    return getsizeof(key) + getsizeof(kept.state) + _OVERHEAD
