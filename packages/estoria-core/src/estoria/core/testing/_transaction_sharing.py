"""Clauses on working inside the caller's transaction."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import pytest

from estoria.core import (
    DuplicateEventError,
    EventStore,
    Expect,
    GlobalReader,
    InvalidEventError,
    NewEvent,
    StreamNotFoundError,
    StreamVersionMismatchError,
    TransactionRequiredError,
    TransactionSharing,
    TypeID,
)
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._samples import new_events, versions, written


class SharingEventStore(EventStore, TransactionSharing, Protocol):
    """An event store that can work inside the caller's transaction."""


Transaction = Callable[[], AbstractAsyncContextManager[Any]]


class TransactionSharingAcceptance(Acceptance):
    """What every `TransactionSharing` store promises.

    Asks for the fixture `store`, and for two more: `transaction`, a function that opens a
    connection with a transaction in an async context, which commits at its end and rolls
    back when an exception passes; and `idle_connection`, one without a transaction.
    """

    @pytest.fixture
    async def transaction(self) -> Transaction:
        """Opens a transaction on a connection of the caller's."""
        raise TypeError(f"{type(self).__name__} has no fixture called transaction: override it")

    @pytest.fixture
    async def idle_connection(self) -> Any:
        """A connection of the caller's without a transaction."""
        raise TypeError(f"{type(self).__name__} has no fixture idle_connection: override it")

    async def test_it_shares_transactions(self, store: SharingEventStore) -> None:
        """`isinstance` finds the ability."""
        assert isinstance(store, TransactionSharing)

    async def test_nobody_sees_it_before_the_commit(
        self, store: SharingEventStore, transaction: Transaction
    ) -> None:
        """Except the transaction itself; afterwards everybody."""
        old, new = await written(store, events=2), TypeID.new("account")
        async with transaction() as connection:
            inside = store.within(connection)
            first = await inside.append_stream(new, new_events(2), expect=Expect.NO_STREAM)
            second = await inside.append_stream(old, new_events(1), expect=2)

            assert await versions(inside, new) == [1, 2]
            assert await versions(inside, old, reverse=True) == [3, 2, 1]
            assert await versions(store, old) == [1, 2]
            with pytest.raises(StreamNotFoundError):
                await store.read_stream(new).collect()

        assert first == await store.read_stream(new).collect()
        assert second == await store.read_stream(old, after_version=2).collect()

    async def test_what_is_rolled_back_never_was(
        self, store: SharingEventStore, transaction: Transaction
    ) -> None:
        """No event, no version; the same events may be written again."""
        stream_id, batch = await written(store, events=1), new_events(2)
        with pytest.raises(ZeroDivisionError):
            async with transaction() as connection:
                await store.within(connection).append_stream(stream_id, batch, expect=1)
                raise ZeroDivisionError

        assert await versions(store, stream_id) == [1]
        again = await store.append_stream(stream_id, batch, expect=1)
        assert [event.stream_version for event in again] == [2, 3]

    async def test_readers_pass_no_gap_that_it_leaves(
        self, store: SharingEventStore, transaction: Transaction
    ) -> None:
        """Where there are global reads: nothing before the commit, everything after it."""
        if not isinstance(store, GlobalReader):
            return
        head = await store.head_position()
        stream_id = TypeID.new("account")
        async with transaction() as connection:
            await store.within(connection).append_stream(stream_id, new_events(2))
            assert await store.read_all(after_position=head).collect() == []
            assert head == await store.head_position()

        events = await store.read_all(after_position=head).collect()
        assert [event.stream_version for event in events] == [1, 2]

    async def test_a_mismatch_leaves_the_transaction_usable(
        self, store: SharingEventStore, transaction: Transaction
    ) -> None:
        """The caller may go on, and commit what it did besides."""
        stream_id, other = await written(store, events=2), TypeID.new("account")
        async with transaction() as connection:
            inside = store.within(connection)
            await inside.append_stream(other, new_events(1))
            for expect in (1, 3, Expect.NO_STREAM):
                with pytest.raises(StreamVersionMismatchError) as caught:
                    await inside.append_stream(stream_id, new_events(2), expect=expect)
                assert caught.value.actual == 2
            await inside.append_stream(stream_id, new_events(1), expect=2)

        assert await versions(store, stream_id) == [1, 2, 3]
        assert await versions(store, other) == [1]

    async def test_a_refused_batch_leaves_nothing_behind(
        self, store: SharingEventStore, transaction: Transaction
    ) -> None:
        """Also when the caller catches the error and commits."""
        stream_id, batch = TypeID.new("account"), new_events(2)
        (fresh,) = new_events(1)
        await store.append_stream(stream_id, batch)
        async with transaction() as connection:
            inside = store.within(connection)
            with pytest.raises(DuplicateEventError):
                await inside.append_stream(stream_id, [fresh, batch[0]])
            with pytest.raises(InvalidEventError):
                await inside.append_stream(stream_id, [fresh, NewEvent("", b"")])

        assert await versions(store, stream_id) == [1, 2]

    async def test_a_repeat_in_the_transaction_returns_the_first_result(
        self, store: SharingEventStore, transaction: Transaction
    ) -> None:
        """Whether the first was in the transaction or before it."""
        stream_id, before, within = await written(store, events=1), new_events(1), new_events(2)
        first = await store.append_stream(stream_id, before, expect=1)
        async with transaction() as connection:
            inside = store.within(connection)
            second = await inside.append_stream(stream_id, within, expect=2)

            assert first == await inside.append_stream(stream_id, before, expect=1)
            assert second == await inside.append_stream(stream_id, within, expect=2)

        assert await versions(store, stream_id) == [1, 2, 3, 4]

    async def test_it_reads_like_the_store(
        self, store: SharingEventStore, transaction: Transaction
    ) -> None:
        """The same bounds, errors and knowledge of the stream."""
        stream_id = await written(store, events=5)
        async with transaction() as connection:
            inside = store.within(connection)

            assert await versions(inside, stream_id, after_version=2, count=2) == [3, 4]
            async with inside.read_stream(stream_id, after_version=5) as events:
                assert events.stream.version == 5
            with pytest.raises(StreamNotFoundError):
                await inside.read_stream(TypeID.new("account")).collect()
            with pytest.raises(ValueError, match="count"):
                inside.read_stream(stream_id, count=0)

    async def test_it_reads_no_global_order(
        self, store: SharingEventStore, transaction: Transaction
    ) -> None:
        """What isn't committed has no place in it yet."""
        async with transaction() as connection:
            assert not isinstance(store.within(connection), GlobalReader)

    async def test_a_transaction_must_be_open(
        self, store: SharingEventStore, idle_connection: Any
    ) -> None:
        """Else the append would commit by itself, or half of it."""
        with pytest.raises(TransactionRequiredError):
            await store.within(idle_connection).append_stream(TypeID.new("account"), new_events(1))
