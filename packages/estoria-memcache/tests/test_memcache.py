"""Bounds, times, counts, threads: what the contract doesn't say of a cache."""

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from datetime import timedelta

import msgspec
import pytest

from estoria.core import CachedAggregate, JSONStateCodec, TypeID
from estoria.core.testing import Cart
from estoria.memcache import (
    CacheStats,
    LRUAggregateCache,
    SizedAggregateCache,
    TTLAggregateCache,
)

pytestmark = pytest.mark.anyio

CODEC = JSONStateCodec(Cart)
SHORT = timedelta(seconds=0.3)
SECONDS = float(os.environ.get("ESTORIA_MEMCACHE_SECONDS", "1.5"))
ENTRIES = int(os.environ.get("ESTORIA_MEMCACHE_ENTRIES", "200000"))


class Frozen(msgspec.Struct, frozen=True):
    owner: str


def entry(version, owner="me", items=()):
    return CachedAggregate(version, Cart(owner, list(items)))


def ids(number):
    return [TypeID.new("cart") for _ in range(number)]


async def found(cache, cart_ids):
    return [await cache.get(cart_id) is not None for cart_id in cart_ids]


async def test_the_least_recently_used_goes_first():
    cache = LRUAggregateCache(2, codec=CODEC)
    a, b, c = ids(3)
    await cache.put(a, entry(1))
    await cache.put(b, entry(1))
    await cache.get(a)

    await cache.put(c, entry(1))

    assert await found(cache, (a, b, c)) == [True, False, True]
    assert cache.stats() == CacheStats(3, 1, 1, 0, 2, 2 * len(CODEC.encode(entry(1).state)))


async def test_a_put_that_is_refused_is_no_use():
    """An older version of an entry doesn't make it the most recently used one."""
    cache = LRUAggregateCache(2, codec=CODEC)
    a, b, c = ids(3)
    await cache.put(a, entry(2))
    await cache.put(b, entry(1))
    await cache.put(a, entry(1))

    await cache.put(c, entry(1))

    assert await found(cache, (a, b, c)) == [False, True, True]


async def test_the_sized_cache_evicts_by_bytes_the_least_recently_used_first():
    cache = SizedAggregateCache(100_000, codec=CODEC, shards=1)
    cart_ids = ids(200)
    for cart_id in cart_ids:
        await cache.put(cart_id, entry(1, "x" * 1_000))
        assert cache.stats().bytes <= 100_000

    stats = cache.stats()
    assert 60 < stats.entries < 90
    assert stats.evictions == 200 - stats.entries
    assert await found(cache, cart_ids) == [False] * stats.evictions + [True] * stats.entries


async def test_a_large_entry_makes_room_for_itself():
    cache = SizedAggregateCache(100_000, codec=CODEC, shards=1)
    small, large = ids(50), TypeID.new("cart")
    for cart_id in small:
        await cache.put(cart_id, entry(1, "x" * 1_000))

    await cache.put(large, entry(1, "x" * 90_000))

    assert await cache.get(large) == entry(1, "x" * 90_000)
    assert cache.stats().entries < 10


async def test_what_is_larger_than_a_share_is_not_kept_and_nothing_older_either():
    cache = SizedAggregateCache(80_000, codec=CODEC, shards=8)
    cart_id = TypeID.new("cart")
    await cache.put(cart_id, entry(1))

    await cache.put(cart_id, entry(2, "x" * 20_000))

    assert await cache.get(cart_id) is None
    await cache.put(cart_id, entry(3))
    assert await cache.get(cart_id) == entry(3)


async def test_the_oldest_goes_first_where_all_live_equally_long():
    cache = TTLAggregateCache(timedelta(minutes=1), 3, codec=CODEC)
    cart_ids = ids(5)
    for cart_id in cart_ids:
        await cache.put(cart_id, entry(1))
        await cache.get(cart_ids[0])
        assert cache.stats().entries <= 3

    assert await found(cache, cart_ids) == [False, False, True, True, True]
    assert cache.stats().evictions == 2


async def test_a_put_begins_a_new_life():
    """Also in the order of the oldest: what was put again isn't the next to go."""
    cache = TTLAggregateCache(timedelta(minutes=1), 2, codec=CODEC)
    a, b, c = ids(3)
    for cart_id, version in ((a, 1), (b, 1), (a, 2), (c, 1)):
        await cache.put(cart_id, entry(version))

    assert await found(cache, (a, b, c)) == [True, False, True]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LRUAggregateCache(100, SHORT, codec=CODEC),
        lambda: SizedAggregateCache(2**20, SHORT, codec=CODEC),
        lambda: TTLAggregateCache(SHORT, codec=CODEC),
    ],
    ids=["lru", "sized", "ttl"],
)
async def test_what_has_expired_is_a_miss_and_may_be_put_again_at_any_version(make):
    cache = make()
    a, b = ids(2)
    await cache.put(a, entry(9))
    await cache.put(b, entry(9))
    assert await found(cache, (a, b)) == [True, True]
    time.sleep(0.35)  # noqa: ASYNC251 - nothing else runs

    assert await cache.get(a) is None
    await cache.put(b, entry(2))

    assert await cache.get(b) == entry(2)
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.expirations, stats.entries) == (3, 1, 2, 1)


async def test_a_clock_that_is_set_back_keeps_nothing_alive(monkeypatch):
    """An entry's time is measured by a clock that nobody sets."""
    cache = TTLAggregateCache(SHORT, codec=CODEC)
    cart_id = TypeID.new("cart")
    await cache.put(cart_id, entry(9))
    an_hour_ago = time.time() - 3_600
    monkeypatch.setattr(time, "time", lambda: an_hour_ago)
    time.sleep(0.35)  # noqa: ASYNC251 - nothing else runs

    assert await cache.get(cart_id) is None
    await cache.put(cart_id, entry(2))
    assert await cache.get(cart_id) == entry(2)


async def test_expiry_needs_no_scan_per_get():
    """A get in a full cache of expired entries takes no longer than in an empty one."""
    cache = TTLAggregateCache(SHORT, share_values=True)
    for cart_id in ids(50_000):
        await cache.put(cart_id, CachedAggregate(1, None))
    time.sleep(0.35)  # noqa: ASYNC251 - nothing else runs
    probe = TypeID.new("cart")
    await cache.get(probe)
    started = time.perf_counter()
    for _ in range(1_000):
        await cache.get(probe)
    assert time.perf_counter() - started < 0.5

    await cache.put(probe, CachedAggregate(1, None))
    assert cache.stats().entries == 1


@pytest.mark.parametrize("kind", [LRUAggregateCache, TTLAggregateCache])
async def test_shared_values_are_the_very_objects(kind):
    first = 10 if kind is LRUAggregateCache else timedelta(minutes=1)
    cache = kind(first, share_values=True)
    cart_id, state = TypeID.new("cart"), Frozen("me")
    await cache.put(cart_id, CachedAggregate(4, state))
    await cache.put(cart_id, CachedAggregate(3, Frozen("older")))

    got = await cache.get(cart_id)

    assert got == CachedAggregate(4, state)
    assert got.state is state
    assert cache.stats().bytes is None


async def test_an_entry_that_can_t_be_decoded_is_a_miss():
    class Broken(JSONStateCodec):
        def decode(self, data):
            raise RuntimeError

    for cache in (
        LRUAggregateCache(9, codec=Broken(Cart)),
        SizedAggregateCache(9_999, codec=Broken(Cart)),
        TTLAggregateCache(timedelta(minutes=1), codec=Broken(Cart)),
    ):
        cart_id = TypeID.new("cart")
        await cache.put(cart_id, entry(1))
        assert await cache.get(cart_id) is None
        assert (cache.stats().hits, cache.stats().misses) == (0, 1)


def test_nonsense_is_refused():
    minute = timedelta(minutes=1)
    for make, what in (
        (lambda: LRUAggregateCache(0, codec=CODEC), "max_entries"),
        (lambda: LRUAggregateCache(True, codec=CODEC), "max_entries"),
        (lambda: LRUAggregateCache(1, timedelta(0), codec=CODEC), "ttl"),
        (lambda: LRUAggregateCache(1, 5, codec=CODEC), "ttl"),
        (lambda: LRUAggregateCache(1), "codec"),
        (lambda: SizedAggregateCache(0, codec=CODEC), "max_bytes"),
        (lambda: SizedAggregateCache(9, codec=CODEC, shards=0), "shards"),
        (lambda: SizedAggregateCache(9, codec=None), "codec"),
        (lambda: TTLAggregateCache(timedelta(0), codec=CODEC), "life_window"),
        (lambda: TTLAggregateCache(5, codec=CODEC), "life_window"),
        (lambda: TTLAggregateCache(minute, 0, codec=CODEC), "max_entries"),
        (lambda: TTLAggregateCache(minute), "codec"),
    ):
        with pytest.raises(ValueError, match=what):
            make()


CACHES = {
    "lru": lambda: LRUAggregateCache(50, codec=CODEC),
    "lru, shared": lambda: LRUAggregateCache(50, share_values=True),
    "sized": lambda: SizedAggregateCache(20_000, codec=CODEC, shards=4),
    "ttl": lambda: TTLAggregateCache(timedelta(seconds=0.2), 50, codec=CODEC),
    "ttl, shared": lambda: TTLAggregateCache(timedelta(seconds=0.2), share_values=True),
}


@pytest.mark.parametrize("make", CACHES.values(), ids=CACHES.keys())
def test_32_threads_and_200_tasks_lose_no_update(make):
    """Nobody is told a version below one that it put itself, unless it was evicted."""
    cache, cart_ids = make(), ids(80)
    deadline = time.monotonic() + SECONDS
    highest, guard, faults = dict.fromkeys(cart_ids, 0), threading.Lock(), []

    async def task(seed):
        rng = random.Random(seed)
        while time.monotonic() < deadline:
            cart_id = rng.choice(cart_ids)
            with guard:
                highest[cart_id] += 1
                version = highest[cart_id]
            await cache.put(cart_id, entry(version, str(version)))
            got = await cache.get(cart_id)
            # Evicted meanwhile, another task's older version may have come in.
            if got is not None and got.state.owner != str(got.version):
                faults.append((cart_id, got))
            if rng.random() < 0.05:
                await cache.evict(cart_id)
            await asyncio.sleep(0)

    async def tasks(thread, number):
        await asyncio.gather(*(task(thread * 1_000 + n) for n in range(number)))

    def run(thread):
        try:
            asyncio.run(tasks(thread, 7 if thread < 8 else 6))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert faults == []
    stats = cache.stats()
    assert stats.hits + stats.misses > 1_000


ROOMY = CACHES | {
    "sized": lambda: SizedAggregateCache(2**20, codec=CODEC, shards=4),
    "ttl": lambda: TTLAggregateCache(timedelta(minutes=1), 50, codec=CODEC),
}
del ROOMY["ttl, shared"]


@pytest.mark.parametrize("make", ROOMY.values(), ids=ROOMY.keys())
def test_threads_that_put_the_same_entries_leave_the_newest(make):
    """With room for all of them, whatever the order."""
    cache, cart_ids = make(), ids(20)
    start = threading.Barrier(8)

    def run(seed):
        puts = [(cart_id, version) for cart_id in cart_ids for version in range(seed, 400, 8)]
        random.Random(seed).shuffle(puts)

        async def put_all():
            for cart_id, version in puts:
                await cache.put(cart_id, entry(version))

        start.wait()
        asyncio.run(put_all())

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def left():
        return [await cache.get(cart_id) for cart_id in cart_ids]

    assert sorted(got.version for got in asyncio.run(left())) == [399] * 20


MEMORY = """
import asyncio, gc, os, random, sys
from uuid import UUID
from estoria.core import CachedAggregate, TypeID
from estoria.memcache import SizedAggregateCache

class Raw:
    content_type = "raw"
    encode = staticmethod(bytes)
    decode = staticmethod(bytes)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def main(entries, max_bytes, least, most):
    rng = random.Random(3)
    cache = SizedAggregateCache(max_bytes, codec=Raw())
    gc.collect()
    before = peak = resident()
    for n in range(entries):
        cart_id = TypeID("cart", UUID(int=rng.getrandbits(128), version=4))
        state = rng.randbytes(rng.randint(least, most))
        await cache.put(cart_id, CachedAggregate(n, state))
        if n % 1_000 == 0:
            peak = max(peak, resident())
    stats = cache.stats()
    assert stats.evictions > 0, stats
    print((peak - before) / max_bytes, stats)
    sys.exit(peak - before > 1.25 * max_bytes)

asyncio.run(main(*map(int, sys.argv[1:])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process holds")
@pytest.mark.parametrize(("least", "most"), [(20, 20), (20, 2_000), (500, 500)])
def test_the_process_holds_no_more_than_it_is_told(least, most):
    """Many times as many entries as there is room for, measured against the process's memory."""
    room = ENTRIES // 4 * ((least + most) // 2 + 560)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, (ENTRIES, room, least, most))],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
