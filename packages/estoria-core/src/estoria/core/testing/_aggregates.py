"""Clauses on the life of aggregates, over any event store."""

import asyncio
from dataclasses import dataclass

import pytest

from estoria.core import (
    Aggregate,
    AggregateNotFoundError,
    AggregateStore,
    EventSourcedStore,
    EventStore,
    NewEvent,
    StreamDeleter,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.testing._acceptance import Acceptance


@dataclass(frozen=True)
class Balance:
    """The state that the clauses keep."""

    amount: int = 0
    entries: int = 0


@dataclass(frozen=True)
class Deposited:
    """Money came in."""

    amount: int

    def apply_to(self, balance: Balance) -> Balance:
        """One more entry, and the amount."""
        return Balance(balance.amount + self.amount, balance.entries + 1)


class AggregatesAcceptance(Acceptance):
    """What `EventSourcedStore` promises over every event store; asks for the fixture `store`.

    Override `aggregates` to hold a decorated store to it.
    """

    @pytest.fixture
    async def aggregates(self, store: EventStore) -> AggregateStore[Balance]:
        """Aggregates straight from the events."""
        return EventSourcedStore(store, "wallet", Balance, events=[Deposited])

    async def test_what_is_saved_is_loaded(self, aggregates: AggregateStore[Balance]) -> None:
        """State and version are the sum of the events."""
        wallet = aggregates.new()
        wallet.append(Deposited(3), Deposited(4))
        await aggregates.save(wallet)
        wallet.append(Deposited(5))
        await aggregates.save(wallet)

        loaded = await aggregates.load(wallet.id)

        assert (Balance(12, 3), 3, ()) == (wallet.state, wallet.version, wallet.pending)
        assert (wallet.state, wallet.version) == (loaded.state, loaded.version)

    async def test_the_past_can_be_loaded(self, aggregates: AggregateStore[Balance]) -> None:
        """Each version of it."""
        wallet = aggregates.new()
        for amount in (1, 2, 3, 4):
            wallet.append(Deposited(amount))
            await aggregates.save(wallet)

        for version, amount in ((1, 1), (2, 3), (3, 6), (4, 10), (9, 10)):
            loaded = await aggregates.load(wallet.id, to_version=version)
            assert (amount, min(version, 4)) == (loaded.state.amount, loaded.version)

    async def test_what_was_never_saved_is_not_found(
        self, aggregates: AggregateStore[Balance]
    ) -> None:
        """By UUID and by typed id."""
        wallet_id = TypeID.new("wallet")

        for id in (wallet_id, wallet_id.uuid):
            with pytest.raises(AggregateNotFoundError) as caught:
                await aggregates.load(id)
            assert wallet_id == caught.value.aggregate_id

    async def test_of_two_savers_one_wins(self, aggregates: AggregateStore[Balance]) -> None:
        """The other's events stay pending, and its state is unchanged."""
        wallet = aggregates.new()
        wallet.append(Deposited(1))
        await aggregates.save(wallet)
        mine, theirs = await aggregates.load(wallet.id), await aggregates.load(wallet.id)
        mine.append(Deposited(2))
        theirs.append(Deposited(3))
        await aggregates.save(theirs)

        with pytest.raises(StreamVersionMismatchError) as caught:
            await aggregates.save(mine)

        assert (caught.value.expected, caught.value.actual) == (1, 2)
        assert (Balance(1, 1), 1, (Deposited(2),)) == (mine.state, mine.version, mine.pending)
        assert Balance(4, 2) == (await aggregates.load(wallet.id)).state

    async def test_commands_that_collide_all_take_effect(
        self, aggregates: AggregateStore[Balance]
    ) -> None:
        """Reloaded and tried again, each exactly once."""
        wallet_id = TypeID.new("wallet")

        async def deposit(amount: int) -> Aggregate[Balance]:
            return await aggregates.execute(
                wallet_id, lambda wallet: wallet.append(Deposited(amount)), attempts=40
            )

        saved = await asyncio.gather(*(deposit(amount) for amount in range(1, 21)))

        loaded = await aggregates.load(wallet_id)
        assert (Balance(210, 20), 20) == (loaded.state, loaded.version)
        assert list(range(1, 21)) == sorted(wallet.version for wallet in saved)

    async def test_a_deleted_one_is_not_found(
        self, aggregates: AggregateStore[Balance], store: EventStore
    ) -> None:
        """Where streams can be deleted: a second life starts from nothing, at a later version."""
        if not isinstance(store, StreamDeleter):
            return
        wallet = aggregates.new()
        wallet.append(Deposited(1), Deposited(2))
        await aggregates.save(wallet)

        await aggregates.delete(wallet.id)

        with pytest.raises(AggregateNotFoundError):
            await aggregates.load(wallet.id)
        reborn = aggregates.new(wallet.id)
        reborn.append(Deposited(7))
        await aggregates.save(reborn)
        loaded = await aggregates.load(wallet.id)
        assert (Balance(7, 1), 4) == (loaded.state, loaded.version)

    async def test_an_aggregate_of_a_former_life_can_t_be_saved(
        self, aggregates: AggregateStore[Balance], store: EventStore
    ) -> None:
        """Where streams can be deleted: not even when the stream is as long again."""
        if not isinstance(store, StreamDeleter):
            return
        stale = aggregates.new()
        stale.append(Deposited(1), Deposited(2))
        await aggregates.save(stale)
        await aggregates.delete(stale.id)
        for amount in (10, 20, 30, 40):
            await aggregates.execute(stale.id, lambda w, a=amount: w.append(Deposited(a)))  # type: ignore[misc]  # the default binds the amount

        stale.append(Deposited(5))
        with pytest.raises(StreamVersionMismatchError):
            await aggregates.save(stale)

        assert Balance(100, 4) == (await aggregates.load(stale.id)).state

    async def test_a_long_life_loads_whole(
        self, aggregates: AggregateStore[Balance], store: EventStore
    ) -> None:
        """Over several pages."""
        wallet_id = TypeID.new("wallet")
        await store.append_stream(
            wallet_id,
            [NewEvent("Deposited", b'{"amount":1}', "application/json") for _ in range(3_500)],
        )

        loaded = await aggregates.load(wallet_id)

        assert (Balance(3_500, 3_500), 3_500) == (loaded.state, loaded.version)
