"""What is Redis' own: keys, scripts, schemas, round trips and everything that goes wrong."""

import asyncio
import contextlib
import threading
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from estoria_testservers import Proxy, start_redis, tls_in_front
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from estoria.core import (
    CachedAggregate,
    EventSourcedStore,
    JSONStateCodec,
    SchemaError,
    Snapshot,
    StoreBusyError,
    StoreFullError,
    StoreMisusedError,
    StoreReadOnlyError,
    StoreUnavailableError,
    TypeID,
)
from estoria.core import CachedStore as CachedAggregates
from estoria.core.memory import MemoryEventStore
from estoria.core.testing import Balance, Deposited
from estoria.redis import RedisAggregateCache, RedisSnapshotStore

pytestmark = pytest.mark.anyio

CART = TypeID.parse("cart_0190a6a1-0000-7000-8000-000000000001")


class Cart(msgspec.Struct, frozen=True):
    items: tuple[str, ...] = ()


class Renamed(msgspec.Struct, frozen=True):
    things: tuple[str, ...] = ()


CODEC = JSONStateCodec(Cart)
ENTRY = CachedAggregate(3, Cart(("tea",)))


def snapshot(version, data=b"state"):
    return Snapshot(CART, version, datetime(2024, 1, 1, tzinfo=UTC), data, "text/x")


@pytest.fixture
def cache(client, prefix):
    return RedisAggregateCache(client, CODEC, prefix=prefix)


@pytest.fixture
def store(client, prefix):
    return RedisSnapshotStore(client, prefix=prefix, keep_newest=2)


@contextlib.asynccontextmanager
async def opened(url, **options):
    async with Redis.from_url(url, **options) as client:
        yield RedisAggregateCache(client, CODEC), RedisSnapshotStore(client)


async def calls_of(cache, store):
    """Every call that there is, each under its name."""
    return {
        "get": lambda: cache.get(CART),
        "put": lambda: cache.put(CART, ENTRY),
        "evict": lambda: cache.evict(CART),
        "read": lambda: store.read_snapshot(CART),
        "write": lambda: store.write_snapshot(snapshot(1)),
        "delete": lambda: store.delete_snapshots(CART),
    }


async def test_each_call_is_one_round_trip(redis_server, prefix):
    """Counted on the wire, once the server has the scripts."""
    with Proxy(redis_server.host, redis_server.port) as proxy:
        async with opened(proxy.url(redis_server.url)) as (cache, store):
            calls = await calls_of(cache, store)
            for call in calls.values():
                await call()
            for name, call in calls.items():
                with proxy.counting() as traffic:
                    await call()
                assert traffic.round_trips == 1, name


async def test_a_server_that_lost_its_scripts_is_sent_them_again(client, cache, store):
    """After a restart, or SCRIPT FLUSH."""
    await cache.put(CART, ENTRY)
    await store.write_snapshot(snapshot(1))
    await client.script_flush()

    await cache.put(CART, CachedAggregate(4, Cart()))
    await store.write_snapshot(snapshot(2))

    assert (await cache.get(CART)).version == 4
    assert (await store.read_snapshot(CART)).aggregate_version == 2


async def test_keys_of_one_aggregate_share_a_slot(redis_cluster, prefix):
    """Whatever braces the type's name has; and other aggregates go elsewhere."""
    async with RedisCluster.from_url(redis_cluster.url) as client:
        slots = set()
        for name in ("cart", "c{ar}t", "{}", "}{", "a{b", "a}b", "%7B"):
            cart_id = TypeID.new(f"x{name}x")
            cache = RedisAggregateCache(client, CODEC, prefix=prefix)
            store = RedisSnapshotStore(client, prefix=prefix)
            await cache.put(cart_id, ENTRY)
            await store.write_snapshot(
                Snapshot(cart_id, 1, datetime(2024, 1, 1, tzinfo=UTC), b"", "")
            )
            keys = [key async for key in client.scan_iter(f"*{cart_id.uuid}*")]
            assert len(keys) == 2
            own = {client.keyslot(key) for key in keys}
            assert len(own) == 1
            slots |= own
        assert len(slots) > 3


async def test_another_release_s_entry_is_a_miss_and_gets_replaced(client, cache, prefix):
    """Also one of the same version; neither is decoded into the other's state."""
    theirs = RedisAggregateCache(client, JSONStateCodec(Renamed), prefix=prefix)
    await theirs.put(CART, CachedAggregate(7, Renamed(("a",))))

    assert await cache.get(CART) is None
    await cache.put(CART, CachedAggregate(7, Cart(("a",))))

    assert await cache.get(CART) == CachedAggregate(7, Cart(("a",)))
    assert await theirs.get(CART) is None


async def test_what_somebody_else_put_there_is_a_miss_and_gets_replaced(client, cache, prefix):
    """A text under our key is nothing that we know, and nothing to fail for."""
    await cache.put(CART, ENTRY)
    (key,) = [key async for key in client.scan_iter(f"{prefix}*")]
    for text in ("", "x", "9" * 19, "9" * 20 + "?", "99999999999999999x99rest"):
        await client.set(key, text)
        assert await cache.get(CART) is None
    await client.set(key, "not a version at all, and longer than one")
    await cache.put(CART, ENTRY)
    assert await cache.get(CART) == ENTRY


async def test_another_type_under_our_key_is_named(client, cache, store, prefix):
    """An error that says where, for every call that looks at the value."""
    await cache.put(CART, ENTRY)
    await store.write_snapshot(snapshot(1))
    async for key in client.scan_iter(f"{prefix}*"):
        await client.delete(key)
        await client.hset(key, "a", "b")

    for name, call in (await calls_of(cache, store)).items():
        if name not in ("evict", "delete"):
            with pytest.raises(SchemaError, match="another prefix"):
                await call()
    await cache.evict(CART)
    await store.delete_snapshots(CART)
    await cache.put(CART, ENTRY)


async def test_a_member_that_is_no_snapshot_is_named(client, store, prefix):
    await store.write_snapshot(snapshot(1))
    (key,) = [key async for key in client.scan_iter(f"{prefix}*")]
    await client.zadd(key, {"99999999999999999999 what is this": 0})

    with pytest.raises(SchemaError, match="another prefix"):
        await store.read_snapshot(CART)


async def test_entries_end_with_their_time(client, prefix):
    """Five minutes unless said otherwise, and as long as the server likes for None."""
    for ttl, least, most in (
        (timedelta(minutes=5), 290_000, 300_000),
        (timedelta(seconds=1.5), 1_000, 1_500),
        (None, -1, -1),
    ):
        cache = RedisAggregateCache(client, CODEC, prefix=prefix, ttl=ttl)
        await cache.put(CART, ENTRY)
        (key,) = [key async for key in client.scan_iter(f"{prefix}*")]
        assert least <= await client.pttl(key) <= most
    short = RedisAggregateCache(client, CODEC, prefix=prefix, ttl=timedelta(microseconds=1))
    await short.put(CART, ENTRY)
    await asyncio.sleep(0.02)
    assert await short.get(CART) is None


async def test_prefixes_keep_applications_apart(client, cache, prefix):
    await cache.put(CART, ENTRY)

    assert await RedisAggregateCache(client, CODEC, prefix=prefix + "x").get(CART) is None


async def test_nonsense_is_refused(client):
    for bad in ({"prefix": ""}, {"prefix": 1}, {"timeout": 0}, {"timeout": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            RedisAggregateCache(client, CODEC, **bad)
        with pytest.raises(ValueError, match=next(iter(bad))):
            RedisSnapshotStore(client, **bad)
    for ttl in (timedelta(0), timedelta(seconds=-1), 5):
        with pytest.raises(ValueError, match="ttl"):
            RedisAggregateCache(client, CODEC, ttl=ttl)
    with pytest.raises(ValueError, match="keep_newest"):
        RedisSnapshotStore(client, keep_newest=0)
    with pytest.raises(TypeError, match="TypeID"):
        await RedisAggregateCache(client, CODEC).get("cart")


@pytest.mark.parametrize("url", ["redis", "http://x", "redis://:se cret@host:no/0"])
async def test_a_url_that_can_t_be_read_is_refused(url):
    """Without a word of the password."""
    with pytest.raises(ValueError, match="redis://user") as caught:
        async with RedisAggregateCache.connect(url, CODEC) as cache:
            await cache.get(CART)
            pytest.fail("it was taken")
    assert "se cret" not in str(caught.value)


async def test_connect_opens_and_closes(redis_server, prefix):
    """And a cache whose server is down may still be opened."""
    async with (
        RedisAggregateCache.connect(redis_server.url, CODEC, prefix=prefix) as cache,
        RedisSnapshotStore.connect(redis_server.url, prefix=prefix) as store,
    ):
        for call in (await calls_of(cache, store)).values():
            await call()
    async with RedisAggregateCache.connect("redis://127.0.0.1:1", CODEC) as cache:
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1"):
            await cache.get(CART)


async def test_credentials_and_tls(fresh_server, tmp_path):
    """In the URL; a wrong password is named, and not said, and a stranger isn't trusted."""
    server = fresh_server(start_redis, settings={"requirepass": "geheim-1"})
    async with tls_in_front(server.host, server.port, tmp_path) as (port, authority):
        base = f"rediss://:geheim-1@127.0.0.1:{port}/0"
        trusting = f"?ssl_ca_certs={authority}"
        for url in (server.url, base + trusting):
            async with RedisAggregateCache.connect(url, CODEC) as cache:
                await cache.put(CART, ENTRY)
                assert await cache.get(CART) == ENTRY
        for url, what in (
            (server.url.replace("geheim-1", "geheim-2"), "refuses the user"),
            (server.url.replace(":geheim-1@", ""), "refuses the user"),
            (base.replace("geheim-1", "geheim-2") + trusting, "refuses the user"),
            (base, "reached"),
        ):
            async with RedisAggregateCache.connect(url, CODEC) as cache:
                with pytest.raises(StoreUnavailableError, match=what) as caught:
                    await cache.get(CART)
            assert "geheim" not in str(caught.value)


async def test_a_slow_server_is_given_up_within_the_timeout(redis_server, prefix):
    """Whatever the client's own patience, and the next call is served."""
    with Proxy(redis_server.host, redis_server.port) as proxy:
        async with Redis.from_url(proxy.url(redis_server.url)) as client:
            cache = RedisAggregateCache(client, CODEC, prefix=prefix, timeout=0.5)
            await cache.put(CART, ENTRY)
            proxy.stall()
            started = asyncio.get_running_loop().time()
            with pytest.raises(StoreUnavailableError, match=r"within 0\.5 s"):
                await cache.get(CART)
            assert asyncio.get_running_loop().time() - started < 5
            proxy.flow()

            other = TypeID.new("cart")
            assert await cache.get(other) is None
            assert await cache.get(CART) == ENTRY


async def test_a_full_server_is_named_and_nothing_is_half_done(fresh_server):
    """With `noeviction`; reading goes on, and the snapshot that stood there stands."""
    server = fresh_server(
        start_redis, settings={"maxmemory": "3mb", "maxmemory-policy": "noeviction"}
    )
    async with opened(server.url) as (cache, store), Redis.from_url(server.url) as client:
        await cache.put(CART, ENTRY)
        await store.write_snapshot(snapshot(1, b"first"))
        for size in (100_000, 1_000, 1):
            with pytest.raises(ResponseError):
                for n in range(100_000):
                    await client.set(f"filler{size}-{n}", b"x" * size)

        for call in (
            cache.put(CART, CachedAggregate(4, Cart())),
            store.write_snapshot(snapshot(1, b"second")),
        ):
            with pytest.raises(StoreFullError, match="maxmemory"):
                await call

        assert await cache.get(CART) == ENTRY
        assert (await store.read_snapshot(CART)).data == b"first"


async def test_a_read_only_replica_is_named(fresh_server):
    server = fresh_server(start_redis)
    async with opened(server.url) as (cache, store), Redis.from_url(server.url) as client:
        await cache.put(CART, ENTRY)
        await client.execute_command("REPLICAOF", "127.0.0.1", 1)

        for call in (
            cache.put(CART, ENTRY),
            cache.evict(CART),
            store.write_snapshot(snapshot(1)),
            store.delete_snapshots(CART),
        ):
            with pytest.raises(StoreReadOnlyError, match="master"):
                await call
        assert await cache.get(CART) == ENTRY


@pytest.mark.parametrize(
    ("kind", "options"), [(ConnectionPool, {}), (BlockingConnectionPool, {"timeout": 0.05})]
)
async def test_an_exhausted_pool_is_named(redis_server, kind, options):
    """It has one connection, and somebody else holds that."""
    pool = kind.from_url(redis_server.url, max_connections=1, **options)
    async with Redis(connection_pool=pool) as client:
        cache = RedisAggregateCache(client, CODEC, timeout=1)
        async with client.pubsub() as held:
            await held.subscribe("holds the connection")
            with pytest.raises(StoreBusyError, match="larger"):
                await cache.get(CART)
        await cache.get(CART)
    await pool.disconnect()


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("name", ["get", "put", "evict", "read", "write", "delete"])
async def test_a_connection_that_died_in_the_pool_is_replaced(redis_server, name, retries):
    """Nobody hears of it, also with a client that doesn't try again by itself."""
    with Proxy(redis_server.host, redis_server.port) as proxy:
        retry = Retry(NoBackoff(), retries)
        async with opened(proxy.url(redis_server.url), retry=retry) as (cache, store):
            call = (await calls_of(cache, store))[name]
            await call()
            proxy.cut_all()
            await call()
            proxy.cut_before_answer()
            await call()


async def test_a_server_that_is_gone_is_named_and_found_again(fresh_server):
    """Killed and started again on its port; the client reconnects by itself."""
    server = fresh_server(start_redis)
    async with opened(server.url) as (cache, store):
        calls = await calls_of(cache, store)
        await cache.put(CART, ENTRY)
        await asyncio.to_thread(server.kill)
        for call in calls.values():
            with pytest.raises(StoreUnavailableError, match="reached|within"):
                await call()

        await asyncio.to_thread(server.start)

        for call in calls.values():
            await call()


async def test_a_cancelled_call_never_mixes_up_answers(redis_server, prefix):
    """Cancelled while the answer is on its way: the next call gets its own."""
    with Proxy(redis_server.host, redis_server.port) as proxy:
        pool = BlockingConnectionPool.from_url(proxy.url(redis_server.url), max_connections=1)
        async with Redis(connection_pool=pool) as client:
            cache = RedisAggregateCache(client, CODEC, prefix=prefix)
            ids = [TypeID.new("cart") for _ in range(5)]
            for n, cart_id in enumerate(ids):
                await cache.put(cart_id, CachedAggregate(n, Cart((str(n),))))
            for n, cart_id in enumerate(ids):
                held = proxy.hold_answer()
                call = asyncio.ensure_future(cache.get(ids[n - 1]))
                await asyncio.to_thread(held.wait)
                call.cancel()
                await asyncio.wait([call])
                held.release()
                assert await cache.get(cart_id) == CachedAggregate(n, Cart((str(n),)))
        await pool.disconnect()


async def test_a_second_loop_is_told(cache):
    await cache.get(CART)
    caught = []

    def elsewhere():
        try:
            asyncio.run(cache.get(CART))
        except StoreMisusedError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert len(caught) == 1


async def test_the_application_goes_on_while_the_server_is_killed_and_started(fresh_server, caplog):
    """No error reaches it from `CachedStore`, and the cache is used again afterwards."""
    server = fresh_server(start_redis)
    events = MemoryEventStore()
    accounts = EventSourcedStore(events, "account", Balance, events=[Deposited])
    async with Redis.from_url(server.url) as client:
        cache = RedisAggregateCache(client, JSONStateCodec(Balance))
        store = CachedAggregates(accounts, cache, timeout=2)
        ids = [TypeID.new("account") for _ in range(10)]
        stop = asyncio.Event()
        booked = 0

        async def work(account_id):
            nonlocal booked
            while not stop.is_set():
                await store.execute(account_id, lambda account: account.append(Deposited(1)))
                booked += 1
                await asyncio.sleep(0)

        workers = [asyncio.ensure_future(work(account_id)) for account_id in ids]
        for _ in range(3):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.start)
        before = booked
        await asyncio.sleep(0.2)
        stop.set()
        await asyncio.gather(*workers)
        assert booked > before

        assert all([await store.load(account_id) for account_id in ids])
        total = 0
        for account_id in ids:
            cached = await cache.get(account_id)
            replayed = await accounts.load(account_id)
            assert cached == CachedAggregate(replayed.version, replayed.state)
            total += replayed.version
    assert total == booked
    assert any("aggregate cache failed" in record.message for record in caplog.records)
