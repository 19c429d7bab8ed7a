"""Clauses on appending at once, and on being cancelled."""

import asyncio
from collections.abc import Callable
from time import perf_counter

import pytest

from estoria.core import (
    Event,
    EventStore,
    Expect,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._samples import as_given, new_events, versions, written

TASKS = 50


class ConcurrencyAcceptance(Acceptance):
    """What holds when many do it at once."""

    async def test_of_many_with_one_expected_version_one_wins(self, store: EventStore) -> None:
        """The others learn the true version: the winner's."""
        stream_id = await written(store, events=1)
        batches = [new_events(2) for _ in range(TASKS)]

        outcomes = await asyncio.gather(
            *(store.append_stream(stream_id, batch, expect=1) for batch in batches),
            return_exceptions=True,
        )

        refused = [o for o in outcomes if isinstance(o, StreamVersionMismatchError)]
        winners = [
            batch
            for batch, outcome in zip(batches, outcomes, strict=True)
            if not isinstance(outcome, BaseException)
        ]
        assert (len(winners), len(refused)) == (1, TASKS - 1), outcomes
        assert {3} == {error.actual for error in refused}
        stored = await store.read_stream(stream_id, after_version=1).collect()
        assert winners[0] == as_given(stored)

    async def test_of_many_who_create_a_stream_one_wins(self, store: EventStore) -> None:
        """`NO_STREAM` holds for one of them."""
        stream_id = TypeID.new("account")

        outcomes = await asyncio.gather(
            *(
                store.append_stream(stream_id, new_events(1), expect=Expect.NO_STREAM)
                for _ in range(TASKS)
            ),
            return_exceptions=True,
        )

        refused = [o for o in outcomes if isinstance(o, StreamVersionMismatchError)]
        assert len(refused) == TASKS - 1, outcomes
        assert {1} == {error.actual for error in refused}
        assert await versions(store, stream_id) == [1]

    async def test_refused_writers_who_try_again_lose_nothing(self, store: EventStore) -> None:
        """Every task gets its event in; versions have no gap; every refusal was needed."""
        stream_id = await written(store, events=1)
        refusals: list[StreamVersionMismatchError] = []

        async def insist() -> Event:
            version, batch = 1, new_events(1)
            for _ in range(2 * TASKS):
                try:
                    return (await store.append_stream(stream_id, batch, expect=version))[0]
                except StreamVersionMismatchError as error:
                    refusals.append(error)
                    version = error.actual
            raise AssertionError("refused more often than there are others")

        own = await asyncio.gather(*(insist() for _ in range(TASKS)))

        stored = await store.read_stream(stream_id, after_version=1).collect()
        assert list(range(2, TASKS + 2)) == [event.stream_version for event in stored]
        assert stored == sorted(own, key=lambda event: event.stream_version)
        assert all(error.expected != error.actual for error in refusals)

    async def test_many_who_accept_any_version_all_succeed(self, store: EventStore) -> None:
        """On one stream that doesn't exist yet; each batch stays together."""
        stream_id = TypeID.new("account")
        batches = [new_events(3) for _ in range(TASKS)]

        results = await asyncio.gather(
            *(store.append_stream(stream_id, batch) for batch in batches)
        )

        stored = await store.read_stream(stream_id).collect()
        assert list(range(1, 3 * TASKS + 1)) == [event.stream_version for event in stored]
        for batch, result in zip(batches, results, strict=True):
            start = result[0].stream_version - 1
            assert batch == as_given(stored[start : start + 3])
            assert result == stored[start : start + 3]

    async def test_many_repeats_at_once_write_once(self, store: EventStore) -> None:
        """The first attempt may still be under way when the second arrives."""
        stream_id = await written(store, events=1)
        for expect in (Expect.ANY, Expect.STREAM_EXISTS, 5):
            batch = new_events(2)

            results = await asyncio.gather(
                *(store.append_stream(stream_id, batch, expect=expect) for _ in range(8))
            )

            assert all(result == results[0] for result in results)

        assert await versions(store, stream_id) == [1, 2, 3, 4, 5, 6, 7]

    async def test_many_streams_at_once(self, store: EventStore) -> None:
        """Fifty tasks on fifty streams: nobody's events end up elsewhere."""

        async def write(stream_id: TypeID) -> None:
            for version in range(5):
                await store.append_stream(stream_id, new_events(1), expect=version)

        stream_ids = [TypeID.new("account") for _ in range(TASKS)]
        await asyncio.gather(*map(write, stream_ids))

        for stream_id in stream_ids:
            assert await versions(store, stream_id) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("expect", ["exact", "any"])
    async def test_a_cancelled_append_happened_or_didn_t(
        self, store: EventStore, expect: str
    ) -> None:
        """All of it or nothing, at whatever point; repeated, it is there once."""
        stream_id = await written(store, events=1)
        version = 1
        for delay in await self._delays(store):
            batch = new_events(3)
            expected: Expect | int = version if expect == "exact" else Expect.ANY
            append = asyncio.ensure_future(store.append_stream(stream_id, batch, expect=expected))
            await delay()
            append.cancel()
            await asyncio.wait([append])

            stored = await store.read_stream(stream_id, after_version=version).collect()
            assert as_given(stored) in ([], batch)
            repeated = await store.append_stream(stream_id, batch, expect=expected)
            assert batch == as_given(repeated)
            version += 3

        assert list(range(1, version + 1)) == await versions(store, stream_id)

    async def test_cancelled_appends_leave_the_store_usable(self, store: EventStore) -> None:
        """More of them than any pool has connections, all at once."""
        batches = {TypeID.new("account"): new_events(2) for _ in range(60)}
        appends = [
            asyncio.ensure_future(store.append_stream(stream_id, batch))
            for stream_id, batch in batches.items()
        ]
        for _ in range(5):
            await asyncio.sleep(0)
        for append in appends:
            append.cancel()
        await asyncio.wait(appends)

        for stream_id, batch in batches.items():
            # One that was cancelled on its way may still arrive; repeated, it is there once.
            await store.append_stream(stream_id, batch)
            await store.append_stream(stream_id, new_events(1), expect=2)
            stored = await store.read_stream(stream_id).collect()
            assert batch == as_given(stored[:2])
            assert len(stored) == 3

    async def _delays(self, store: EventStore) -> list[Callable[[], "asyncio.Future[None]"]]:
        """Pauses that end at each of the first steps, and then spread over an append's time."""
        start = perf_counter()
        for _ in range(3):
            await written(store, events=3)
        whole = (perf_counter() - start) / 3

        async def steps(number: int) -> None:
            for _ in range(number):
                await asyncio.sleep(0)

        def stepping(number: int) -> Callable[[], "asyncio.Future[None]"]:
            return lambda: asyncio.ensure_future(steps(number))

        def pausing(seconds: float) -> Callable[[], "asyncio.Future[None]"]:
            return lambda: asyncio.ensure_future(asyncio.sleep(seconds))

        return [*map(stepping, range(10)), *(pausing(whole * n / 12) for n in range(1, 15))]
