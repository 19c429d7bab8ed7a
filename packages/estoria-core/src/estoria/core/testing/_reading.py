"""Clauses on reading one stream."""

import asyncio
import gc
from typing import Any

import pytest

from estoria.core import (
    EventIteratorClosedError,
    EventStore,
    StoreMisusedError,
    StreamNotFoundError,
    TypeID,
)
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._samples import as_given, first_difference, new_events, versions, written


class ReadingAcceptance(Acceptance):
    """How a stream reads."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, [1, 2, 3, 4, 5]),
            ({"after_version": 2}, [3, 4, 5]),
            ({"count": 2}, [1, 2]),
            ({"after_version": 1, "count": 2}, [2, 3]),
            ({"after_version": 4, "count": 9}, [5]),
            ({"after_version": 5}, []),
            ({"after_version": 6}, []),
            ({"after_version": 2**80}, []),
            ({"reverse": True}, [5, 4, 3, 2, 1]),
            ({"reverse": True, "before_version": 4}, [3, 2, 1]),
            ({"reverse": True, "count": 2}, [5, 4]),
            ({"reverse": True, "before_version": 4, "count": 2}, [3, 2]),
            ({"reverse": True, "before_version": 2, "count": 9}, [1]),
            ({"reverse": True, "before_version": 1}, []),
            ({"reverse": True, "before_version": 0}, []),
            ({"reverse": True, "before_version": 2**80}, [5, 4, 3, 2, 1]),
        ],
        ids=str,
    )
    async def test_a_read_gives_the_versions_between_its_bounds(
        self, store: EventStore, options: dict[str, Any], expected: list[int]
    ) -> None:
        """Both bounds are exclusive: the last version seen is where the next page goes on."""
        stream_id = await written(store, events=5)

        assert expected == await versions(store, stream_id, **options)

    @pytest.mark.parametrize(
        "options",
        [
            {"after_version": -1},
            {"after_version": True},
            {"after_version": "1"},
            {"before_version": 3},
            {"reverse": True, "before_version": -1},
            {"reverse": True, "after_version": 1},
            {"count": 0},
            {"count": -1},
            {"count": True},
        ],
        ids=str,
    )
    async def test_a_nonsensical_bound_is_refused_by_the_call(
        self, store: EventStore, options: dict[str, Any]
    ) -> None:
        """Before anything is opened, where the mistake was made."""
        with pytest.raises(ValueError, match="version|count"):
            store.read_stream(TypeID.new("account"), **options)

    async def test_a_missing_stream_is_reported_when_the_read_opens(
        self, store: EventStore
    ) -> None:
        """Not by the call, and by each way of opening."""
        stream_id = TypeID.new("account")

        for options in ({}, {"after_version": 3}, {"reverse": True}, {"count": 1}):
            with pytest.raises(StreamNotFoundError) as caught:
                await store.read_stream(stream_id, **options).collect()
            assert stream_id == caught.value.stream_id
        with pytest.raises(StreamNotFoundError):
            await anext(store.read_stream(stream_id))
        with pytest.raises(StreamNotFoundError):
            async with store.read_stream(stream_id):
                pass

    async def test_it_yields_nothing_past_the_tip(self, store: EventStore) -> None:
        """A stream that exists and has no newer events is empty, not missing."""
        stream_id = await written(store, events=3)

        assert await store.read_stream(stream_id, after_version=3).collect() == []

    async def test_streams_don_t_mix(self, store: EventStore) -> None:
        """Neither with another stream of the type nor with the same UUID under another type."""
        stream_id = await written(store, events=2)
        await written(store, events=2)
        namesake = TypeID("account_old", stream_id.uuid)
        await store.append_stream(namesake, new_events(1))

        events = await store.read_stream(stream_id).collect()

        assert [(stream_id, 1), (stream_id, 2)] == [
            (event.stream_id, event.stream_version) for event in events
        ]

    async def test_the_read_knows_the_stream(self, store: EventStore) -> None:
        """As it was when the read opened, also if nothing is read."""
        stream_id = await written(store, events=4)

        async with store.read_stream(stream_id, after_version=4) as events:
            await store.append_stream(stream_id, new_events(1))
            stream = events.stream

        assert (stream.stream_id, stream.version) == (stream_id, 4)
        assert (stream.first_version, stream.origin) == (1, 0)

    async def test_a_read_ends_at_the_version_of_its_opening(self, store: EventStore) -> None:
        """What is appended later is for the next read, however slowly this one goes."""
        stream_id = await written(store, events=3)

        seen = []
        async for event in store.read_stream(stream_id):
            seen.append(event.stream_version)
            await store.append_stream(stream_id, new_events(2))

        assert seen == [1, 2, 3]

    async def test_an_exhausted_read_stays_exhausted(self, store: EventStore) -> None:
        """Later events don't revive it."""
        stream_id = await written(store, events=1)
        events = store.read_stream(stream_id)
        assert len(await events.collect()) == 1

        await store.append_stream(stream_id, new_events(1))

        assert await events.collect() == []
        with pytest.raises(StopAsyncIteration):
            await anext(events)

    async def test_collect_gives_what_is_left(self, store: EventStore) -> None:
        """After single steps it goes on from there."""
        events = store.read_stream(await written(store, events=3))

        first = await anext(events)

        assert first.stream_version == 1
        assert [event.stream_version for event in await events.collect()] == [2, 3]

    async def test_a_closed_read_says_so(self, store: EventStore) -> None:
        """After the end of its context, and after aclose, opened or not."""
        stream_id = await written(store, events=3)
        async with store.read_stream(stream_id) as left_early:
            await anext(left_early)
        never_opened = store.read_stream(stream_id)
        await never_opened.aclose()

        for events in (left_early, never_opened):
            with pytest.raises(EventIteratorClosedError):
                await anext(events)
            with pytest.raises(EventIteratorClosedError):
                await events.collect()
            await events.aclose()

    async def test_a_long_stream_reads_whole_in_both_directions(self, store: EventStore) -> None:
        """Ten thousand events, many pages: each once, in order, as they were written."""
        stream_id, given = TypeID.new("account"), new_events(10_000)
        for start in range(0, len(given), 2_500):
            await store.append_stream(stream_id, given[start : start + 2_500], expect=start)

        forwards = await store.read_stream(stream_id).collect()
        backwards = await store.read_stream(stream_id, reverse=True).collect()
        middle = await versions(store, stream_id, after_version=1_234, count=4_321)

        assert None is first_difference(given, as_given(forwards))
        assert None is first_difference(forwards, backwards[::-1])
        assert None is first_difference(range(1_235, 5_556), middle)

    async def test_abandoned_reads_leave_the_store_usable(self, store: EventStore) -> None:
        """More of them than any pool has connections, dropped half-way or kept open."""
        stream_id = await written(store, events=5)
        kept = [store.read_stream(stream_id) for _ in range(40)]
        for events in kept:
            await anext(events)
        for _ in range(40):
            await anext(store.read_stream(stream_id))
        gc.collect()

        await store.append_stream(stream_id, new_events(1), expect=5)

        assert await versions(store, stream_id) == [1, 2, 3, 4, 5, 6]
        assert [event.stream_version for event in await kept[0].collect()] == [2, 3, 4, 5]

    async def test_a_cancelled_read_goes_on_or_starts_anew(self, store: EventStore) -> None:
        """Cancelled at any step, it has lost nothing, and the store is usable."""
        stream_id = await written(store, events=3)
        for steps in range(12):
            events = store.read_stream(stream_id)
            step = asyncio.ensure_future(anext(events))
            for _ in range(steps):
                await asyncio.sleep(0)
            step.cancel()
            await asyncio.wait([step])
            seen = [] if step.cancelled() else [step.result()]
            seen += await events.collect()
            assert [event.stream_version for event in seen] == [1, 2, 3]

    async def test_another_event_loop_is_told(self, store: EventStore) -> None:
        """An error with a name, where a driver would hang or mix up answers."""
        stream_id = await written(store, events=1)

        def elsewhere() -> None:
            asyncio.run(store.append_stream(stream_id, new_events(1)))

        with pytest.raises(StoreMisusedError):
            await asyncio.to_thread(elsewhere)

        assert await versions(store, stream_id) == [1]
