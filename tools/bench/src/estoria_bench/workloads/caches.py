"""Aggregate caches, against the clients and libraries that they stand on."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import cachebox
import cachetools
import msgspec
import pylru
import redis.asyncio
import theine
import valkey.asyncio
from estoria_testservers import start_redis, start_valkey

from estoria.core import (
    AggregateCache,
    CachedAggregate,
    CachedStore,
    EventSourcedStore,
    JSONStateCodec,
    TypeID,
)
from estoria.memcache import LRUAggregateCache, SizedAggregateCache, TTLAggregateCache
from estoria.redis import RedisAggregateCache
from estoria.valkey import ValkeyAggregateCache
from estoria_bench._account import Account, Deposited, Opened, account_events
from estoria_bench._measure import Bar, Side, Workload
from estoria_bench.floors.caches import LockedGet, get_decoded, put_encoded
from estoria_bench.workloads.postgres import bench

Sides = Callable[[], AbstractAsyncContextManager[Mapping[str, Side]]]

MINUTE = timedelta(minutes=1)
CALLS = 3_000
IN_PROCESS_CALLS = 30_000
ENTRIES = 1_000
COMPARED = 100_000


class Line(msgspec.Struct, frozen=True):
    """A part of the state."""

    product: UUID
    quantity: int
    price: Decimal


class State(msgspec.Struct, frozen=True):
    """A state of about 1 KiB as services have them: identities, amounts and moments."""

    owner: str
    opened: datetime
    lines: tuple[Line, ...]


STATE = State(
    "somebody",
    datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
    tuple(Line(UUID(int=n << 100 | n), n, Decimal(f"{n}.95")) for n in range(11)),
)
CODEC = JSONStateCodec(State)
SERVERS: dict[str, tuple[Any, Any, Any]] = {
    "redis": (start_redis, redis.asyncio.Redis, RedisAggregateCache),
    "valkey": (start_valkey, valkey.asyncio.Valkey, ValkeyAggregateCache),
}


def on_server(name: str, *, put: bool) -> Sides:
    """Our cache and the driver's own command, on one server."""
    start, driver, kind = SERVERS[name]

    @asynccontextmanager
    async def sides() -> AsyncIterator[Mapping[str, Side]]:
        with closing(start()) as server:
            async with driver.from_url(server.url) as client, driver.from_url(server.url) as raw:
                cache = kind(client, CODEC)
                cart_id = TypeID.new("cart")
                decode = msgspec.json.Decoder(State).decode
                encode = msgspec.json.Encoder().encode
                await cache.put(cart_id, CachedAggregate(1, STATE))
                await raw.set("raw", encode(STATE))
                version = 1

                async def ours() -> int:
                    nonlocal version
                    for _ in range(CALLS):
                        if put:
                            version += 1
                            await cache.put(cart_id, CachedAggregate(version, STATE))
                        else:
                            await cache.get(cart_id)
                    return CALLS

                async def floor() -> int:
                    for _ in range(CALLS):
                        if put:
                            await put_encoded(raw, "raw", encode, STATE)
                        else:
                            await get_decoded(raw, "raw", decode)
                    return CALLS

                yield {"ours": ours, "floor": floor}

    return sides


IN_PROCESS: dict[str, tuple[Callable[[], AggregateCache], Callable[[], Any]]] = {
    "lru": (
        lambda: LRUAggregateCache(ENTRIES, share_values=True),
        lambda: pylru.lrucache(ENTRIES),
    ),
    "ttl": (
        lambda: TTLAggregateCache(MINUTE, ENTRIES, share_values=True),
        lambda: cachetools.TTLCache(ENTRIES, 60, timer=time.monotonic),
    ),
}
DECODED: dict[str, Callable[[], AggregateCache]] = {
    "lru": lambda: LRUAggregateCache(ENTRIES, codec=CODEC),
    "sized": lambda: SizedAggregateCache(2**24, codec=CODEC),
    "ttl": lambda: TTLAggregateCache(MINUTE, ENTRIES, codec=CODEC),
}


def shared(name: str) -> Sides:
    """A get of a state as it is, and the library's own."""
    make, make_raw = IN_PROCESS[name]

    @asynccontextmanager
    async def sides() -> AsyncIterator[Mapping[str, Side]]:
        cache, entries = make(), make_raw()
        cart_ids = [TypeID.new("cart") for _ in range(ENTRIES)]
        for cart_id in cart_ids:
            await cache.put(cart_id, CachedAggregate(1, STATE))
            entries[cart_id] = CachedAggregate(1, STATE)
        raw = LockedGet(entries)

        async def ours() -> int:
            for n in range(IN_PROCESS_CALLS):
                await cache.get(cart_ids[n % ENTRIES])
            return IN_PROCESS_CALLS

        async def floor() -> int:
            for n in range(IN_PROCESS_CALLS):
                await raw.get(cart_ids[n % ENTRIES])
            return IN_PROCESS_CALLS

        yield {"ours": ours, "floor": floor}

    return sides


def decoded(name: str) -> Sides:
    """A get of a state as bytes, and the decoding of those bytes alone."""

    @asynccontextmanager
    async def sides() -> AsyncIterator[Mapping[str, Side]]:
        cache = DECODED[name]()
        cart_ids = [TypeID.new("cart") for _ in range(ENTRIES)]
        for cart_id in cart_ids:
            await cache.put(cart_id, CachedAggregate(1, STATE))
        decode = msgspec.json.Decoder(State).decode
        # As many payloads as the cache holds: one alone would lie in the processor's own cache.
        payloads = [bytes(bytearray(CODEC.encode(STATE))) for _ in range(ENTRIES)]

        async def ours() -> int:
            for n in range(IN_PROCESS_CALLS):
                await cache.get(cart_ids[n % ENTRIES])
            return IN_PROCESS_CALLS

        async def floor() -> int:
            for n in range(IN_PROCESS_CALLS):
                decode(payloads[n % ENTRIES])
            return IN_PROCESS_CALLS

        yield {"ours": ours, "decoding alone": floor}

    return sides


@asynccontextmanager
async def warm_load() -> AsyncIterator[Mapping[str, Side]]:
    """A warm load, and what it can't do without: an empty read and a cache's get."""
    loads = 300
    async with bench() as b:
        store = await b.ours()
        account_id = TypeID.new("account")
        await store.append_stream(account_id, account_events(1_000))
        accounts = EventSourcedStore(store, "account", Account, events=[Opened, Deposited])
        cache = LRUAggregateCache(ENTRIES, codec=JSONStateCodec(Account))
        cached = CachedStore(accounts, cache)
        await cached.load(account_id)

        async def ours() -> int:
            for _ in range(loads):
                account = await cached.load(account_id)
            assert account.version == 1_000
            return loads

        async def floor() -> int:
            for _ in range(loads):
                await cache.get(account_id)
                events = await store.read_stream(account_id, after_version=1_000).collect()
            assert events == []
            return loads

        yield {"ours": ours, "read and get": floor}


def _size(_: object, kept: tuple[int, bytes]) -> int:
    return len(kept[1]) + 200


LIBRARIES: dict[str, Callable[[], Any]] = {
    "cachebox, LRU by size": lambda: cachebox.LRUCache(COMPARED // 2 * 400, getsizeof=_size),
    "cachetools, LRU by size": lambda: cachetools.LRUCache(
        COMPARED // 2 * 400, getsizeof=lambda kept: _size(None, kept)
    ),
    "cachebox, TTL": lambda: cachebox.TTLCache(COMPARED // 2, 60),
    "cachetools, TTL": lambda: cachetools.TTLCache(COMPARED // 2, 60, timer=time.monotonic),
    "theine": lambda: theine.Cache(COMPARED // 2),
    "pylru": lambda: pylru.lrucache(COMPARED // 2),
}


@asynccontextmanager
async def libraries() -> AsyncIterator[Mapping[str, Side]]:
    """The libraries' own puts over their bound and gets of what is left."""
    keys = [str(TypeID.new("cart")) for _ in range(COMPARED)]
    value = (1, CODEC.encode(STATE)[:200])

    def side(make: Callable[[], Any]) -> Side:
        async def run() -> int:
            entries = make()
            if isinstance(entries, theine.Cache):
                for key in keys:
                    entries.set(key, value, MINUTE)
            else:
                for key in keys:
                    entries[key] = value
            for key in keys[-COMPARED // 4 :]:
                entries.get(key)
            return COMPARED + COMPARED // 4

        return run

    yield {
        "ours": side(LIBRARIES["cachetools, LRU by size"]),
        **{name: side(make) for name, make in LIBRARIES.items()},
    }


WORKLOADS = [
    *(
        Workload(
            f"caches.{name}_{what}",
            f"{name.capitalize()}: {what} of a 1 KiB state",
            [Bar("floor", 0.7)],
            on_server(name, put=what == "put"),
            9,
        )
        for name in SERVERS
        for what in ("get", "put")
    ),
    *(
        Workload(
            f"caches.{name}_shared",
            f"in process, {name}: get, share_values=True",
            [Bar("floor", 0.5)],
            shared(name),
            9,
        )
        for name in IN_PROCESS
    ),
    *(
        Workload(
            f"caches.{name}_decoded",
            f"in process, {name}: get, decoded",
            [Bar("decoding alone", 0.6)],
            decoded(name),
            9,
        )
        for name in DECODED
    ),
    Workload(
        "caches.warm_load",
        "CachedStore.load, 1,000-event aggregate on PostgreSQL, warm, default freshness",
        [Bar.time("read and get", 1.5)],
        warm_load,
        9,
    ),
    Workload(
        "caches.libraries",
        "in-process libraries: puts over the bound, and gets; 'ours' is the one taken, by size",
        [Bar("theine", 1)],
        libraries,
    ),
]
