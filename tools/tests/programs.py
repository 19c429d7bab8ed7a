"""What tests of caches run in processes of their own.

``programs.py STORE CACHE TRUST SECONDS SEED``, with the URL of a store, and the URL or the name of
a cache.

Commands run on a few accounts that all processes share, through a cache and snapshots, and every
event says how many its command had seen: whoever decides on a stale state leaves a mark. Prints
how many commands ran, and how many conflicts they met.
"""

import asyncio
import json
import random
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis
from valkey.asyncio import Valkey

from estoria.core import (
    CachedStore,
    EventSourcedStore,
    EveryNEvents,
    JSONStateCodec,
    SnapshottingStore,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.memcache import LRUAggregateCache, SizedAggregateCache, TTLAggregateCache
from estoria.postgres import PostgresEventStore, PostgresSnapshotStore
from estoria.redis import RedisAggregateCache, RedisSnapshotStore
from estoria.sqlite import SQLiteDatabase, SQLiteEventStore, SQLiteSnapshotStore
from estoria.valkey import ValkeyAggregateCache, ValkeySnapshotStore

ACCOUNTS = [TypeID("account", UUID(int=n)) for n in range(1, 5)]


@dataclass(frozen=True)
class Account:
    entries: int = 0
    total: int = 0


@dataclass(frozen=True)
class Booked:
    seen: int
    amount: int

    def apply_to(self, account):
        return Account(account.entries + 1, account.total + self.amount)


CODEC = JSONStateCodec(Account)
IN_PROCESS = {
    "lru": lambda: LRUAggregateCache(100, codec=CODEC),
    "lru-shared": lambda: LRUAggregateCache(100, share_values=True),
    "sized": lambda: SizedAggregateCache(100_000, codec=CODEC),
    "ttl": lambda: TTLAggregateCache(timedelta(seconds=0.1), codec=CODEC),
}
ON_SERVER = {
    "redis": (Redis, RedisAggregateCache, RedisSnapshotStore),
    "valkey": (Valkey, ValkeyAggregateCache, ValkeySnapshotStore),
}


async def opened(stack, store_url, cache_url):
    """The event store, a snapshot store and a cache."""
    if store_url.startswith("sqlite"):
        path = store_url.removeprefix("sqlite:///")
        database = await stack.enter_async_context(SQLiteDatabase.open(path))
        events, snapshots = SQLiteEventStore(database), SQLiteSnapshotStore(database)
    else:
        pool = AsyncConnectionPool(store_url, open=False)
        await stack.enter_async_context(pool)
        events, snapshots = PostgresEventStore(pool), PostgresSnapshotStore(pool)
    await events.setup()
    await snapshots.setup()
    if cache_url in IN_PROCESS:
        return events, snapshots, IN_PROCESS[cache_url]()
    driver, cache, snapshot_store = ON_SERVER[cache_url.partition(":")[0]]
    client = await stack.enter_async_context(driver.from_url(cache_url))
    return events, snapshot_store(client), cache(client, CODEC)


async def main(store_url, cache_url, trust, seconds, seed):
    rng = random.Random(seed)
    commands = conflicts = 0
    async with AsyncExitStack() as stack:
        events, snapshots, cache = await opened(stack, store_url, cache_url)
        plain = EventSourcedStore(events, "account", Account, events=[Booked])
        store = CachedStore(
            SnapshottingStore(plain, snapshots, EveryNEvents(7), CODEC),
            cache,
            trust_cache=trust == "trust",
            timeout=5,
        )
        deadline = time.monotonic() + float(seconds)

        async def work():
            nonlocal commands, conflicts
            while time.monotonic() < deadline:
                attempts = 0

                def book(account):
                    nonlocal attempts
                    attempts += 1
                    account.append(Booked(account.state.entries, rng.randint(-5, 5)))

                try:
                    await store.execute(rng.choice(ACCOUNTS), book, attempts=50)
                    commands += 1
                except StreamVersionMismatchError:
                    pass
                conflicts += attempts - 1

        await asyncio.gather(*(work() for _ in range(4)))
        if trust != "trust":
            for account_id in ACCOUNTS:
                cached = await store.load(account_id)
                replayed = await plain.load(account_id, to_version=cached.version)
                assert (cached.version, cached.state) == (replayed.version, replayed.state)
    print(json.dumps({"commands": commands, "conflicts": conflicts}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
