"""Clauses on aggregate caches."""

import asyncio
import random

import msgspec
import pytest

from estoria.core import AggregateCache, CachedAggregate, JSONStateCodec, StateCodec, TypeID
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._data import ODD_TEXTS


class Cart(msgspec.Struct):
    """The state that the clauses cache; mutable, so that sharing one would show."""

    owner: str
    items: list[str]


class AggregateCacheAcceptance(Acceptance):
    """What every `AggregateCache` promises.

    Override the fixture `cache`; it keeps states of the class `Cart`, by `codec` if it needs
    one, and is large enough for a few thousand of them.
    """

    codec: StateCodec[Cart] = JSONStateCodec(Cart)

    @pytest.fixture
    async def cache(self) -> AggregateCache:
        """The cache under test, empty."""
        raise TypeError(f"{type(self).__name__} has no fixture called cache: override it")

    async def test_it_is_an_aggregate_cache(self, cache: AggregateCache) -> None:
        """`isinstance` finds the protocol."""
        assert isinstance(cache, AggregateCache)

    async def test_a_miss_is_none(self, cache: AggregateCache) -> None:
        """Not an error."""
        assert None is await cache.get(TypeID.new("cart"))

    async def test_an_entry_comes_back(self, cache: AggregateCache) -> None:
        """The same state at the same version."""
        cart_id, entry = TypeID.new("cart"), CachedAggregate(3, Cart("é🧾", ["a", "b"]))

        await cache.put(cart_id, entry)

        assert entry == await cache.get(cart_id)

    async def test_a_newer_version_replaces_an_older_one(self, cache: AggregateCache) -> None:
        """As does the same version."""
        cart_id = TypeID.new("cart")
        for version, owner in ((1, "first"), (2, "second"), (2, "third"), (9, "last")):
            await cache.put(cart_id, CachedAggregate(version, Cart(owner, [])))
            assert CachedAggregate(version, Cart(owner, [])) == await cache.get(cart_id)

    async def test_a_slow_writer_never_replaces_a_newer_version(
        self, cache: AggregateCache
    ) -> None:
        """It lost the race, and nobody is told an old state for it."""
        cart_id = TypeID.new("cart")
        await cache.put(cart_id, CachedAggregate(10, Cart("new", [])))

        await cache.put(cart_id, CachedAggregate(9, Cart("old", [])))

        assert CachedAggregate(10, Cart("new", [])) == await cache.get(cart_id)

    async def test_versions_compare_as_numbers(self, cache: AggregateCache) -> None:
        """Also beyond 2**53, where a float would stumble."""
        cart_id = TypeID.new("cart")
        for version in (9, 10, 2**53, 2**53 + 1):
            await cache.put(cart_id, CachedAggregate(version, Cart(str(version), [])))
        await cache.put(cart_id, CachedAggregate(2**53, Cart("old", [])))

        assert CachedAggregate(2**53 + 1, Cart(str(2**53 + 1), [])) == await cache.get(cart_id)

    async def test_an_evicted_entry_is_a_miss(self, cache: AggregateCache) -> None:
        """No other is touched, nothing to evict is no error, and an older one may come."""
        evicted, other = TypeID.new("cart"), TypeID.new("cart")
        for cart_id in (evicted, other):
            await cache.put(cart_id, CachedAggregate(5, Cart("me", [])))

        await cache.evict(evicted)
        await cache.evict(evicted)

        assert None is await cache.get(evicted)
        assert CachedAggregate(5, Cart("me", [])) == await cache.get(other)
        await cache.put(evicted, CachedAggregate(2, Cart("again", [])))
        assert CachedAggregate(2, Cart("again", [])) == await cache.get(evicted)

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
    async def test_the_whole_id_is_the_key(self, cache: AggregateCache, text: str) -> None:
        """Whatever the type's name holds, and not the UUID alone."""
        first = TypeID.new(f"x{text}x")
        second = TypeID(f"x{text}y", first.uuid)
        await cache.put(first, CachedAggregate(1, Cart("first", [])))
        await cache.put(second, CachedAggregate(1, Cart("second", [])))

        found = await cache.get(first), await cache.get(second)

        assert (
            CachedAggregate(1, Cart("first", [])),
            CachedAggregate(1, Cart("second", [])),
        ) == found

    async def test_callers_share_no_state(self, cache: AggregateCache) -> None:
        """Neither with the one who put it nor among those who got it."""
        cart_id, mine = TypeID.new("cart"), Cart("me", ["a"])
        await cache.put(cart_id, CachedAggregate(1, mine))
        mine.items.append("changed by the writer")
        first = await cache.get(cart_id)
        assert first is not None
        first.state.items.append("changed by a reader")

        assert CachedAggregate(1, Cart("me", ["a"])) == await cache.get(cart_id)

    async def test_many_at_once_lose_no_update(self, cache: AggregateCache) -> None:
        """Versions are put in any order; the newest remains."""
        cart_ids = [TypeID.new("cart") for _ in range(5)]
        puts = [(c, version) for c in cart_ids for version in range(1, 41)]
        random.Random(7).shuffle(puts)

        async def put(cart_id: TypeID, version: int) -> None:
            await cache.put(cart_id, CachedAggregate(version, Cart(str(version), [])))
            found = await cache.get(cart_id)
            assert found is not None
            assert str(found.version) == found.state.owner
            assert found.version >= version

        await asyncio.gather(*(put(cart_id, version) for cart_id, version in puts))

        for cart_id in cart_ids:
            assert CachedAggregate(40, Cart("40", [])) == await cache.get(cart_id)

    async def test_a_cancelled_call_leaves_it_usable(self, cache: AggregateCache) -> None:
        """At any step; the entry is the old or the new one."""
        cart_id = TypeID.new("cart")
        for version in range(1, 13):
            put = asyncio.ensure_future(
                cache.put(cart_id, CachedAggregate(version, Cart(str(version), [])))
            )
            for _ in range(version - 1):
                await asyncio.sleep(0)
            put.cancel()
            await asyncio.wait([put])
            found = await cache.get(cart_id)
            assert found is None or str(found.version) == found.state.owner

        await cache.put(cart_id, CachedAggregate(99, Cart("99", [])))
        assert CachedAggregate(99, Cart("99", [])) == await cache.get(cart_id)
