"""Snapshots, caches and hooks around an aggregate store, alone and stacked."""

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import permutations

import pytest

from estoria.core import (
    AggregateNotFoundError,
    AggregateStore,
    CachedAggregate,
    CachedStore,
    EventsAppendedError,
    EventSourcedStore,
    EventStreamSnapshotStore,
    EveryNEvents,
    HistoryTruncatedError,
    HookedStore,
    JSONStateCodec,
    Snapshot,
    SnapshottingStore,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.memory import MemoryAggregateCache, MemoryEventStore, MemorySnapshotStore
from estoria.core.testing import AggregatesAcceptance, Balance, Deposited

pytestmark = pytest.mark.anyio
CODEC = JSONStateCodec(Balance)


class CountingEvents(MemoryEventStore):
    """Remembers after which version each read began."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def read_stream(self, stream_id, **options):
        self.reads.append(options.get("after_version", 0))
        return super().read_stream(stream_id, **options)


@pytest.fixture
def events():
    return CountingEvents()


@pytest.fixture
def inner(events):
    return EventSourcedStore(events, "wallet", Balance, events=[Deposited])


async def saved(store, *amounts, id=None):
    wallet = store.new(id)
    for amount in amounts:
        wallet.append(Deposited(amount))
        await store.save(wallet)
    return wallet


def snapshot(id, version, data, content_type=CODEC.content_type):
    return Snapshot(id, version, datetime.now(UTC), data, content_type)


class TestSnapshots:
    @pytest.fixture
    def snapshots(self):
        return MemorySnapshotStore()

    @pytest.fixture
    def store(self, inner, snapshots):
        return SnapshottingStore(inner, snapshots, EveryNEvents(3), CODEC)

    async def test_one_is_taken_when_it_is_due(self, store, snapshots):
        wallet = await saved(store, 1, 2)
        assert await snapshots.read_snapshot(wallet.id) is None
        wallet.append(Deposited(3), Deposited(4))
        await store.save(wallet)

        taken = await snapshots.read_snapshot(wallet.id)

        assert taken is not None
        assert (taken.aggregate_version, CODEC.decode(taken.data)) == (4, Balance(10, 4))

    async def test_a_load_reads_the_snapshot_and_what_came_after(self, store, events):
        wallet = await saved(store, 1, 2, 3, 4)
        events.reads.clear()

        loaded = await store.load(wallet.id)

        assert (loaded.version, loaded.state) == (4, Balance(10, 4))
        assert events.reads == [3]

    async def test_the_past_is_loaded_from_an_older_snapshot(self, store, events):
        wallet = await saved(store, *range(1, 10))
        for version, after in ((9, 9), (8, 6), (6, 6), (2, 0)):
            events.reads.clear()
            loaded = await store.load(wallet.id, to_version=version)
            assert loaded.version == version
            assert loaded.state == Balance(sum(range(1, version + 1)), version)
            assert events.reads == [after]

    @pytest.mark.parametrize(
        "bad",
        [
            (b'{"amount":1000,"entries":1}', "application/json"),
            (b'{"amount":1000,"entries":1}', "application/json; schema=other"),
            (b"not json", CODEC.content_type),
            (b'{"amount":"x"}', CODEC.content_type),
            (b"", CODEC.content_type),
        ],
    )
    async def test_one_that_can_t_be_read_is_passed_over(self, store, snapshots, bad):
        wallet = await saved(store, 1, 2)
        await snapshots.write_snapshot(snapshot(wallet.id, 2, *bad))

        assert (await store.load(wallet.id)).state == Balance(3, 2)

    async def test_one_ahead_of_its_stream_is_dropped(self, store, snapshots):
        wallet = await saved(store, 1, 2)
        await snapshots.write_snapshot(snapshot(wallet.id, 9, b'{"amount":99,"entries":9}'))

        assert (await store.load(wallet.id)).state == Balance(3, 2)
        assert await snapshots.read_snapshot(wallet.id) is None

    @pytest.mark.parametrize("later", [0, 1, 5])
    async def test_one_of_a_former_life_is_dropped(self, store, snapshots, inner, later):
        """Also when the stream is as long again, and longer."""
        wallet = await saved(store, 1, 2, 3)
        left_over = await snapshots.read_snapshot(wallet.id)
        await inner.delete(wallet.id)
        with pytest.raises(AggregateNotFoundError):
            await store.load(wallet.id)
        await saved(inner, *[10] * (later + 1), id=wallet.id)
        await snapshots.write_snapshot(left_over)

        loaded = await store.load(wallet.id)

        assert loaded.state == Balance(10 * (later + 1), later + 1)
        assert await snapshots.read_snapshot(wallet.id) is None

    async def test_it_stands_in_for_truncated_events(self, store, events, inner):
        wallet = await saved(store, 1, 2, 3, 4)
        behind = await inner.load(wallet.id, to_version=2)
        await events.truncate_stream(wallet.id, 3)

        assert (await store.load(wallet.id)).state == Balance(10, 4)
        await store.hydrate(behind)
        assert (behind.version, behind.state) == (4, Balance(10, 4))
        with pytest.raises(HistoryTruncatedError):
            await store.load(wallet.id, to_version=2)

    async def test_deleting_takes_the_snapshots_along(self, store, snapshots):
        wallet = await saved(store, 1, 2, 3)

        await store.delete(wallet.id)

        assert await snapshots.read_snapshot(wallet.id) is None
        with pytest.raises(AggregateNotFoundError):
            await store.load(wallet.id)

    async def test_a_deletion_that_stopped_half_way_may_be_repeated(self, store, snapshots, inner):
        wallet = await saved(store, 1, 2, 3)
        await inner.delete(wallet.id)

        with pytest.raises(AggregateNotFoundError):
            await store.delete(wallet.id)

        assert await snapshots.read_snapshot(wallet.id) is None

    async def test_a_broken_snapshot_store_breaks_nothing(self, inner, caplog):
        class Broken:
            async def read_snapshot(self, aggregate_id, *, max_version=None):
                raise ConnectionError

            write_snapshot = delete_snapshots = read_snapshot

        store = SnapshottingStore(inner, Broken(), EveryNEvents(1), CODEC)

        with caplog.at_level(logging.WARNING):
            wallet = await saved(store, 1, 2)
            assert (await store.load(wallet.id)).state == Balance(3, 2)

        assert {r.levelname for r in caplog.records} == {"WARNING"}
        assert caplog.records[0].aggregate_id == str(wallet.id)

    async def test_a_state_that_can_t_be_encoded_fails_no_save(self, inner, caplog):
        class BadCodec(JSONStateCodec):
            def encode(self, state):
                raise ZeroDivisionError

        store = SnapshottingStore(inner, MemorySnapshotStore(), EveryNEvents(1), BadCodec(Balance))

        assert (await saved(store, 1)).version == 1

    @pytest.mark.parametrize("n", [0, -1, True, "2"])
    def test_a_nonsensical_policy_can_t_be_made(self, n):
        with pytest.raises(ValueError, match="n is"):
            EveryNEvents(n)

    @pytest.mark.parametrize("keep", [0, -1, True])
    def test_a_nonsensical_retention_can_t_be_made(self, keep, events):
        for make in (MemorySnapshotStore, lambda **k: EventStreamSnapshotStore(events, **k)):
            with pytest.raises(ValueError, match="keep_newest"):
                make(keep_newest=keep)


class CountingCache(MemoryAggregateCache):
    """Counts its calls, and fails or hangs when told to."""

    def __init__(self):
        super().__init__()
        self.calls, self.failure, self.hangs = [], None, False

    async def _note(self, call):
        self.calls.append(call)
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure:
            raise self.failure

    async def get(self, aggregate_id):
        await self._note("get")
        return await super().get(aggregate_id)

    async def put(self, aggregate_id, entry):
        await self._note("put")
        await super().put(aggregate_id, entry)

    async def evict(self, aggregate_id):
        await self._note("evict")
        await super().evict(aggregate_id)


class TestCaches:
    @pytest.fixture
    def cache(self):
        return CountingCache()

    @pytest.fixture
    def store(self, inner, cache):
        return CachedStore(inner, cache)

    @pytest.fixture
    def trusting(self, inner, cache):
        return CachedStore(inner, cache, trust_cache=True)

    async def test_a_hit_costs_one_call_and_a_read_of_what_is_new(self, store, events, cache):
        wallet = await saved(store, 1, 2, 3)
        events.reads.clear()
        cache.calls.clear()

        loaded = await store.load(wallet.id)

        assert (loaded.version, loaded.state) == (3, Balance(6, 3))
        assert (events.reads, cache.calls) == ([3], ["get"])

    async def test_a_trusted_hit_reads_nothing(self, trusting, events, cache):
        wallet = await saved(trusting, 1, 2, 3)
        events.reads.clear()
        cache.calls.clear()

        assert (await trusting.load(wallet.id)).state == Balance(6, 3)
        assert (events.reads, cache.calls) == ([], ["get"])

    async def test_another_process_s_writes_are_seen(self, store, inner, cache):
        wallet = await saved(store, 1)
        other = await inner.load(wallet.id)
        other.append(Deposited(5))
        await inner.save(other)

        assert (await store.load(wallet.id)).state == Balance(6, 2)
        assert await cache.get(wallet.id) == CachedAggregate(2, Balance(6, 2))

    @pytest.mark.parametrize("trust", [False, True])
    async def test_a_conflict_evicts_and_the_retry_sees_fresh_state(self, inner, cache, trust):
        store = CachedStore(inner, cache, trust_cache=trust)
        wallet = await saved(store, 1)
        other = await inner.load(wallet.id)
        other.append(Deposited(5))
        await inner.save(other)
        seen = []

        def command(mine):
            seen.append(mine.state.amount)
            mine.append(Deposited(10))

        done = await store.execute(wallet.id, command)

        assert seen == ([1, 6] if trust else [6])
        assert done.state == Balance(16, 3)

    async def test_a_conflict_is_not_trusted_again_though_evicting_failed(
        self, trusting, inner, cache
    ):
        wallet = await saved(trusting, 1)
        other = await inner.load(wallet.id)
        other.append(Deposited(5))
        await inner.save(other)
        evict, cache.evict = cache.evict, cache.get
        seen = []

        def command(mine):
            seen.append(mine.state.amount)
            mine.append(Deposited(10))

        await trusting.execute(wallet.id, command)

        cache.evict = evict
        assert seen == [1, 6]

    async def test_only_what_is_durable_is_cached(self, store, cache, inner):
        wallet = await saved(store, 1)
        stale = await inner.load(wallet.id)
        await store.execute(wallet.id, lambda w: w.append(Deposited(2)))
        stale.append(Deposited(50))

        with pytest.raises(StreamVersionMismatchError):
            await store.save(stale)

        assert await cache.get(wallet.id) is None
        assert (await store.load(wallet.id)).state == Balance(3, 2)

    async def test_the_past_bypasses_the_cache(self, store, cache):
        wallet = await saved(store, 1, 2, 3)
        cache.calls.clear()

        assert (await store.load(wallet.id, to_version=2)).state == Balance(3, 2)

        assert cache.calls == []
        assert await cache.get(wallet.id) == CachedAggregate(3, Balance(6, 3))

    @pytest.mark.parametrize("later", [0, 1, 5])
    async def test_an_entry_of_a_former_life_is_dropped(self, store, cache, inner, later):
        wallet = await saved(store, 1, 2)
        left_over = await cache.get(wallet.id)
        await inner.delete(wallet.id)
        with pytest.raises(AggregateNotFoundError):
            await store.load(wallet.id)
        await saved(inner, *[10] * (later + 1), id=wallet.id)
        await cache.put(wallet.id, left_over)

        loaded = await store.load(wallet.id)

        assert loaded.state == Balance(10 * (later + 1), later + 1)
        assert await cache.get(wallet.id) == CachedAggregate(loaded.version, loaded.state)

    async def test_an_entry_ahead_of_its_stream_is_dropped(self, store, cache):
        wallet = await saved(store, 1)
        await cache.put(wallet.id, CachedAggregate(9, Balance(99, 9)))

        assert (await store.load(wallet.id)).state == Balance(1, 1)

    async def test_an_entry_before_a_truncation_is_dropped(self, events, inner, cache):
        snapshots = SnapshottingStore(inner, MemorySnapshotStore(), EveryNEvents(3), CODEC)
        store = CachedStore(snapshots, cache)
        wallet = await saved(snapshots, 1, 2, 3, 4)
        await cache.put(wallet.id, CachedAggregate(1, Balance(1, 1)))
        await events.truncate_stream(wallet.id, 3)

        assert (await store.load(wallet.id)).state == Balance(10, 4)

    async def test_deleting_evicts(self, store, cache):
        wallet = await saved(store, 1)

        await store.delete(wallet.id)

        assert await cache.get(wallet.id) is None

    @pytest.mark.parametrize("failure", [ConnectionError(), ValueError(), KeyError("x")])
    async def test_a_broken_cache_costs_speed_and_no_error(self, store, cache, failure, caplog):
        cache.failure = failure

        with caplog.at_level(logging.WARNING):
            wallet = await saved(store, 1, 2)
            assert (await store.load(wallet.id)).state == Balance(3, 2)
            await store.delete(wallet.id)

        assert {r.operation for r in caplog.records} == {"get", "put", "evict"}

    async def test_a_cache_that_isn_t_even_async_costs_no_error(self, inner):
        class Plain:
            def get(self, aggregate_id):
                raise ConnectionError

            evict = get

            def put(self, aggregate_id, entry):
                return None

        store = CachedStore(inner, Plain())

        wallet = await saved(store, 1, 2)
        assert (await store.load(wallet.id)).state == Balance(3, 2)
        await store.delete(wallet.id)

    async def test_a_slow_cache_is_given_up_after_the_timeout(self, inner, cache):
        store = CachedStore(inner, cache, timeout=0.01)
        cache.hangs = True

        wallet = await saved(store, 1)

        assert (await store.load(wallet.id)).state == Balance(1, 1)

    @pytest.mark.parametrize("timeout", [0, -1, float("nan")])
    def test_a_nonsensical_timeout_is_refused(self, inner, cache, timeout):
        with pytest.raises(ValueError, match="timeout"):
            CachedStore(inner, cache, timeout=timeout)

    async def test_cancelling_a_load_is_no_cache_failure(self, store, cache, caplog):
        cache.hangs = True
        load = asyncio.ensure_future(store.load(TypeID.new("wallet")))
        await asyncio.sleep(0)
        load.cancel()

        with pytest.raises(asyncio.CancelledError):
            await load
        assert not caplog.records

    async def test_callers_share_no_state(self, cache):
        @dataclass
        class Cart:
            items: list

        @dataclass
        class Added:
            item: str

            def apply_to(self, cart):
                return Cart([*cart.items, self.item])

        inner = EventSourcedStore(MemoryEventStore(), "cart", lambda: Cart([]), events=[Added])
        carts = CachedStore(inner, cache)
        cart = await carts.execute(TypeID.new("cart"), lambda c: c.append(Added("a")))
        cart.state.items.append("poison")
        (await carts.load(cart.id)).state.items.append("poison")

        assert (await carts.load(cart.id)).state == Cart(["a"])


class TestHooks:
    async def test_hooks_run_in_order_around_each_operation(self, inner):
        calls = []

        def hook(name):
            return lambda argument: calls.append((name, type(argument).__name__))

        async def slow(_):
            await asyncio.sleep(0)
            calls.append(("slow", ""))

        operations = ("load", "hydrate", "save")
        names = [f"{when}_{what}" for what in operations for when in ("before", "after")]
        store = HookedStore(inner, **{name: [hook(name), slow] for name in names})

        wallet = await saved(store, 1)
        await store.load(wallet.id)
        await store.hydrate(wallet)

        assert calls == [
            ("before_save", "Aggregate"),
            ("slow", ""),
            ("after_save", "Aggregate"),
            ("slow", ""),
            ("before_load", "TypeID"),
            ("slow", ""),
            ("after_load", "Aggregate"),
            ("slow", ""),
            ("before_hydrate", "Aggregate"),
            ("slow", ""),
            ("after_hydrate", "Aggregate"),
            ("slow", ""),
        ]

    async def test_a_hook_before_a_save_may_stop_it(self, inner, events):
        def refuse(_):
            raise PermissionError

        store = HookedStore(inner, before_save=[refuse])

        with pytest.raises(PermissionError):
            await saved(store, 1)
        assert await events.head_position() == 0

    async def test_a_hook_that_fails_after_a_save_tells_that_it_is_durable(self, inner):
        def fail(_):
            raise PermissionError

        store = HookedStore(inner, after_save=[fail])
        wallet = store.new()
        wallet.append(Deposited(1))

        with pytest.raises(EventsAppendedError) as caught:
            await store.save(wallet)

        assert (caught.value.aggregate_id, caught.value.version) == (wallet.id, 1)
        assert isinstance(caught.value.__cause__, PermissionError)
        assert (await inner.load(wallet.id)).state == Balance(1, 1)
        with pytest.raises(PermissionError):
            await store.save(wallet)

    async def test_execute_runs_the_hooks(self, inner):
        seen = []
        store = HookedStore(inner, after_save=[lambda w: seen.append(w.version)])

        await store.execute(TypeID.new("wallet"), lambda w: w.append(Deposited(1)))

        assert seen == [1]


def cached(inner):
    return CachedStore(inner, MemoryAggregateCache())


def trusting(inner):
    return CachedStore(inner, MemoryAggregateCache(), trust_cache=True)


def snapshotting(inner):
    return SnapshottingStore(inner, MemorySnapshotStore(), EveryNEvents(2), CODEC)


def hooked(inner):
    return HookedStore(inner, before_save=[lambda _: None])


STACKS = [
    *permutations([cached, snapshotting, hooked]),
    *permutations([trusting, snapshotting]),
]


@pytest.mark.parametrize(
    "stack", STACKS, ids=lambda stack: "-".join(layer.__name__ for layer in stack)
)
class TestStacks(AggregatesAcceptance):
    @pytest.fixture
    async def store(self):
        return MemoryEventStore()

    @pytest.fixture
    async def aggregates(self, store, stack):
        aggregates = EventSourcedStore(store, "wallet", Balance, events=[Deposited])
        for layer in stack:
            aggregates = layer(aggregates)
        assert isinstance(aggregates, AggregateStore)
        return aggregates
