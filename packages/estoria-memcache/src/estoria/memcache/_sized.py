"""A cache of so many bytes, on cachetools."""

import math
import time
from datetime import timedelta
from sys import getsizeof
from typing import Any, NamedTuple

from cachetools import Cache, LRUCache

from estoria.core import StateCodec, TypeID
from estoria.memcache._aggregate_cache import (
    InProcessCache,
    Kept,
    Shard,
    check_size,
    check_time,
)
from estoria.memcache._stats import CacheStats

_OVERHEAD = 480
"""Bytes that an entry takes besides its key and its state: the tuple, its numbers, its shares of
three tables, and what the allocator rounds up. Measured against the process's
memory, with a million entries of 20 to 2,000 bytes."""


class _Sized(NamedTuple):
    version: int
    state: bytes
    deadline: float
    size: int


def _size_of(kept: _Sized) -> int:
    return kept.size


class _SizedShard(Shard):
    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self.entries: LRUCache[bytes, _Sized] = LRUCache(max_bytes, getsizeof=_size_of)


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
                    int(shard.entries.currsize),
                )
            counts = [count + more for count, more in zip(counts, found, strict=True)]
        return CacheStats(*counts)

    def _find(self, aggregate_id: TypeID) -> Kept | None:
        key = _key(aggregate_id)
        shard = self._shard_of(aggregate_id)
        with shard.lock:
            kept = shard.entries.get(key)
            if kept is not None and self._expires and kept.deadline <= time.monotonic():
                del shard.entries[key]
                shard.expirations += 1
                kept = None
            if kept is None:
                shard.misses += 1
                return None
            shard.hits += 1
        return Kept(kept.version, kept.state, kept.deadline)

    def _keep(self, aggregate_id: TypeID, version: int, state: Any) -> None:
        key, now = _key(aggregate_id), time.monotonic()
        size = getsizeof(key) + getsizeof(state) + _OVERHEAD
        kept = _Sized(version, state, now + self._ttl, size)
        shard = self._shard_of(aggregate_id)
        entries = shard.entries
        with shard.lock:
            # Past the LRU order: a put that is refused is no use of what is there.
            there: _Sized | None = Cache.__getitem__(entries, key) if key in entries else None
            if there is not None:
                if there.deadline <= now:
                    shard.expirations += 1
                elif there.version > version:
                    return
            if size > self._max_share:
                # What is there is older than what there is no room for.
                entries.pop(key, None)
                return
            due = len(entries) + (there is None)
            entries[key] = kept
            shard.evictions += due - len(entries)

    def _forget(self, aggregate_id: TypeID) -> None:
        shard = self._shard_of(aggregate_id)
        with shard.lock:
            shard.entries.pop(_key(aggregate_id), None)

    def _shard_of(self, aggregate_id: TypeID) -> _SizedShard:
        return self._sized[self._index(aggregate_id)]


def _key(aggregate_id: TypeID) -> bytes:
    """The id in as few bytes as say it: the UUID's sixteen come last."""
    return aggregate_id.type.encode() + aggregate_id.uuid.bytes
