"""Clauses on reading all streams in one order."""

import asyncio
import gc
import random
from typing import Any, Protocol

import pytest

from estoria.core import (
    Event,
    EventIteratorClosedError,
    EventStore,
    GlobalReader,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._samples import new_events, written

WRITERS = 50


class GlobalEventStore(EventStore, GlobalReader, Protocol):
    """An event store that keeps one order over all its streams."""


class GlobalReaderAcceptance(Acceptance):
    """What every `GlobalReader` promises; asks for the fixture `store`.

    The clauses start from the head that they find, so that other streams don't disturb.
    """

    async def test_it_is_a_global_reader(self, store: GlobalEventStore) -> None:
        """`isinstance` finds the ability."""
        assert isinstance(store, GlobalReader)

    async def test_all_streams_read_in_one_order(self, store: GlobalEventStore) -> None:
        """Every event once, by position, the same events as in their streams."""
        head = await store.head_position()
        first, second = await written(store, events=2), await written(store, events=3)
        await store.append_stream(first, new_events(2))

        events = await store.read_all(after_position=head).collect()

        assert [first, first, second, second, second, first, first] == [
            event.stream_id for event in events
        ]
        assert [event for event in events if event.stream_id == first] == (
            await store.read_stream(first).collect()
        )
        positions = [event.global_position for event in events]
        assert positions == sorted(set(positions))
        assert positions[0] > head

    async def test_a_read_goes_on_after_any_position(self, store: GlobalEventStore) -> None:
        """After that of an event, or of a gap between two."""
        head = await store.head_position()
        await written(store, events=5)
        events = await store.read_all(after_position=head).collect()
        positions = [event.global_position for event in events]

        for after in range(max(head, positions[0] - 2), min(positions[-1], positions[0] + 50)):
            rest = await store.read_all(after_position=after).collect()
            assert [event for event in events if event.global_position > after] == rest

    async def test_the_head_bounds_what_is_there(self, store: GlobalEventStore) -> None:
        """Never below an event that was acknowledged; never 0 after one."""
        before = await store.head_position()
        stream_id = await written(store, events=2)
        after = await store.head_position()

        events = await store.read_stream(stream_id).collect()
        assert before < events[0].global_position
        assert events[-1].global_position <= after

    async def test_nothing_to_read_is_no_error(self, store: GlobalEventStore) -> None:
        """Caught up, far beyond the end, and with filters that match nothing."""
        await written(store, events=2)
        head = await store.head_position()

        assert await store.read_all(after_position=head).collect() == []
        assert await store.read_all(after_position=2**80).collect() == []
        assert await store.read_all(after_position=head, count=3).collect() == []
        assert await store.read_all(stream_types=[f"none-{head}"]).collect() == []
        assert await store.read_all(event_types=[f"none-{head}"]).collect() == []

    async def test_a_count_limits_it(self, store: GlobalEventStore) -> None:
        """The first so many, or fewer where there are no more."""
        head = await store.head_position()
        await written(store, events=4)
        events = await store.read_all(after_position=head).collect()

        for count in (1, 3, 4, 9):
            some = await store.read_all(after_position=head, count=count).collect()
            assert events[:count] == some

    @pytest.mark.parametrize("drained", ["at once", "slowly", "empty", "counted"])
    async def test_a_read_is_finite(self, store: GlobalEventStore, drained: str) -> None:
        """What commits after its opening is for the next read."""
        head = await store.head_position()
        if drained != "empty":
            await written(store, events=3)
        count = 5 if drained == "counted" else None
        async with store.read_all(after_position=head, count=count) as events:
            await written(store, events=2)
            seen = []
            async for event in events:
                seen.append(event)
                assert len(seen) <= 3, "the read goes on with what came later"
                if drained == "slowly":
                    await written(store, events=2)
            await written(store, events=2)
            assert await events.collect() == []

        assert (0 if drained == "empty" else 3) == len(seen)

    async def test_a_stream_that_grows_while_it_is_read_ends(self, store: GlobalEventStore) -> None:
        """Also over many pages: the frontier is settled once."""
        head = await store.head_position()
        await written(store, events=2_500)
        seen = 0

        async with store.read_all(after_position=head) as events:
            await written(store, events=1_000)
            async for _ in events:
                seen += 1
                assert seen <= 2_500, "the read goes on with what came later"

        assert seen == 2_500

    async def test_filters_select_streams_and_events(self, store: GlobalEventStore) -> None:
        """By type, alone and together, in the same order as without."""
        head = await store.head_position()
        for stream_type in ("account", "account_old", "order"):
            stream_id = TypeID.new(stream_type)
            for event_type in ("opened", "closed", "opened again"):
                await store.append_stream(stream_id, new_events(1, type=event_type))
        everything = await store.read_all(after_position=head).collect()

        async def selected(**filters: Any) -> list[Event]:
            return await store.read_all(after_position=head, **filters).collect()

        for streams in (["account"], ["account", "order"], ["none", "account_old"]):
            for types in (["opened"], ["opened", "closed"], ["none"]):
                by_stream = [e for e in everything if e.stream_id.type in streams]
                assert by_stream == await selected(stream_types=streams)
                assert [e for e in everything if e.type in types] == (
                    await selected(event_types=types)
                )
                assert [e for e in by_stream if e.type in types] == (
                    await selected(stream_types=streams, event_types=set(types))
                )

    async def test_filters_and_a_count_go_together(self, store: GlobalEventStore) -> None:
        """The count is of what the filter lets through, many pages apart."""
        head = await store.head_position()
        for _ in range(3):
            await store.append_stream(TypeID.new("filler"), new_events(1_100))
            await store.append_stream(TypeID.new("wanted"), new_events(1))

        async def wanted(count: int | None) -> int:
            read = store.read_all(after_position=head, stream_types=["wanted"], count=count)
            return len(await read.collect())

        assert [await wanted(count) for count in (1, 2, 3, None)] == [1, 2, 3, 3]

    @pytest.mark.parametrize(
        "options",
        [
            {"after_position": -1},
            {"after_position": True},
            {"count": 0},
            {"stream_types": []},
            {"event_types": []},
            {"stream_types": "account"},
            {"event_types": ["nul\0"]},
        ],
        ids=str,
    )
    async def test_nonsense_is_refused_by_the_call(
        self, store: GlobalEventStore, options: dict[str, Any]
    ) -> None:
        """Before anything is opened, where the mistake was made."""
        with pytest.raises(ValueError, match="position|count|types"):
            store.read_all(**options)

    async def test_the_library_s_own_streams_show_only_when_asked_for(
        self, store: GlobalEventStore
    ) -> None:
        """Snapshots in the event store are nobody's events."""
        head = await store.head_position()
        stream_type = "estoria.snapshot.account"
        own = await written(store, events=2, stream_type=stream_type)
        account = await written(store, events=1)

        shown = await store.read_all(after_position=head).collect()
        asked = await store.read_all(after_position=head, stream_types=[stream_type]).collect()

        assert [account] == [event.stream_id for event in shown]
        assert [own, own] == [event.stream_id for event in asked]

    async def test_a_closed_read_says_so(self, store: GlobalEventStore) -> None:
        """After the end of its context, as with a stream."""
        await written(store, events=2)
        async with store.read_all() as events:
            await anext(events)

        with pytest.raises(EventIteratorClosedError):
            await anext(events)

    async def test_abandoned_reads_leave_the_store_usable(self, store: GlobalEventStore) -> None:
        """More of them than any pool has connections."""
        head = await store.head_position()
        await written(store, events=3)
        kept = [store.read_all(after_position=head) for _ in range(40)]
        for events in kept:
            await anext(events)
        for _ in range(40):
            await anext(store.read_all(after_position=head))
        gc.collect()

        await written(store, events=1)

        assert len(await store.read_all(after_position=head).collect()) == 4

    async def test_a_refused_append_leaves_no_trace(self, store: GlobalEventStore) -> None:
        """It may burn positions, but readers neither stall at them nor see anything."""
        head = await store.head_position()
        stream_id = await written(store, events=1)
        for _ in range(3):
            with pytest.raises(StreamVersionMismatchError):
                await store.append_stream(stream_id, new_events(2), expect=9)
        await store.append_stream(stream_id, new_events(1))

        events = await store.read_all(after_position=head).collect()

        assert [event.stream_version for event in events] == [1, 2]

    async def test_readers_see_a_stable_prefix_while_many_write(
        self, store: GlobalEventStore
    ) -> None:
        """Tailing from their last position, each sees every event once and in order."""
        head = await store.head_position()
        writing = True

        async def write(stream_id: TypeID, seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(6):
                await store.append_stream(stream_id, new_events(rng.randint(1, 3)))

        async def tail() -> list[Event]:
            seen: list[Event] = []
            last_round = False
            while True:
                after = seen[-1].global_position if seen else head
                seen += await store.read_all(after_position=after).collect()
                if last_round:
                    return seen
                last_round = not writing
                await asyncio.sleep(0)

        readers = [asyncio.ensure_future(tail()) for _ in range(3)]
        stream_ids = [TypeID.new("account") for _ in range(WRITERS)]
        await asyncio.gather(*(write(s, seed) for seed, s in enumerate(stream_ids)))
        writing = False
        everything = await store.read_all(after_position=head).collect()

        for seen in await asyncio.gather(*readers):
            assert everything == seen
        assert set(stream_ids) == {event.stream_id for event in everything}
