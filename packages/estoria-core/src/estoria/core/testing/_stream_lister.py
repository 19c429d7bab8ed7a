"""Clauses on listing streams."""

from typing import Any, Protocol

import pytest

from estoria.core import EventStore, StreamDeleter, StreamInfo, StreamLister, TypeID
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._samples import new_events, written


class ListingEventStore(EventStore, StreamLister, Protocol):
    """An event store that can tell which streams it holds."""


async def listed(store: ListingEventStore, **options: Any) -> list[StreamInfo]:
    """What the store lists."""
    return [stream async for stream in store.list_streams(**options)]


class StreamListerAcceptance(Acceptance):
    """What every `StreamLister` promises; asks for the fixture `store`.

    The clauses use types of their own, so that other streams don't disturb.
    """

    async def test_it_is_a_stream_lister(self, store: ListingEventStore) -> None:
        """`isinstance` finds the ability."""
        assert isinstance(store, StreamLister)

    async def test_streams_of_a_type_are_listed_in_order(self, store: ListingEventStore) -> None:
        """By UUID, each once, as the stream is now, and no other type."""
        stream_type = str(TypeID.new("of"))
        stream_ids = [TypeID.new(stream_type) for _ in range(5)]
        for size, stream_id in enumerate(reversed(stream_ids), start=1):
            await store.append_stream(stream_id, new_events(size))
        await written(store, stream_type=stream_type + "x")

        streams = await listed(store, stream_type=stream_type)

        assert sorted(stream_ids) == [stream.stream_id for stream in streams]
        assert {5, 4, 3, 2, 1} == {stream.version for stream in streams}
        assert {(1, 0)} == {(stream.first_version, stream.origin) for stream in streams}

    async def test_types_are_ordered_by_code_points(self, store: ListingEventStore) -> None:
        """Whatever the backend's locale: capitals first, accents and astral letters last."""
        mark = str(TypeID.new("of"))
        types = [mark + name for name in ("Z", "a", "a b", "a.b", "aB", "a_b", "b", "é", "￿", "𝔘")]
        for name in reversed(types):
            await written(store, events=1, stream_type=name)

        names = [stream.stream_id.type for stream in await listed(store)]

        assert sorted(types) == [name for name in names if name.startswith(mark)]
        assert sorted(names) == names

    async def test_a_list_goes_on_after_any_id(self, store: ListingEventStore) -> None:
        """Of a stream, also of one that isn't there; a count limits it."""
        stream_type = str(TypeID.new("of"))
        stream_ids = sorted(TypeID.new(stream_type) for _ in range(6))
        for stream_id in stream_ids:
            if stream_id != stream_ids[2]:
                await store.append_stream(stream_id, new_events(1))

        after = await listed(store, stream_type=stream_type, after=stream_ids[2])
        some = await listed(store, stream_type=stream_type, after=stream_ids[0], count=2)

        assert stream_ids[3:] == [stream.stream_id for stream in after]
        assert [stream_ids[1], stream_ids[3]] == [stream.stream_id for stream in some]

    async def test_many_streams_are_listed_whole(self, store: ListingEventStore) -> None:
        """More than a page, and streams that come while it is read don't disturb."""
        stream_type = str(TypeID.new("of"))
        stream_ids = [TypeID.new(stream_type) for _ in range(1_200)]
        for stream_id in stream_ids:
            await store.append_stream(stream_id, new_events(1))

        seen = []
        async for stream in store.list_streams(stream_type=stream_type):
            seen.append(stream.stream_id)
            if len(seen) == 3:
                await store.append_stream(TypeID.new("other" + stream_type), new_events(1))

        assert sorted(stream_ids) == seen

    async def test_deleted_streams_are_not_listed(self, store: ListingEventStore) -> None:
        """Where streams can be deleted: until they are written again."""
        if not isinstance(store, StreamDeleter):
            return
        stream_type = str(TypeID.new("of"))
        stream_id = await written(store, events=2, stream_type=stream_type)
        await store.delete_stream(stream_id)

        assert await listed(store, stream_type=stream_type) == []
        await store.append_stream(stream_id, new_events(1))
        assert [StreamInfo(stream_id, 4, 4, 3)] == await listed(store, stream_type=stream_type)

    async def test_the_library_s_own_streams_show_only_when_asked_for(
        self, store: ListingEventStore
    ) -> None:
        """Snapshots in the event store are nobody's streams."""
        own = await written(store, events=1, stream_type="estoria.snapshot.account")

        shown = [stream.stream_id for stream in await listed(store)]
        asked = [stream.stream_id for stream in await listed(store, stream_type=own.type)]

        assert own not in shown
        assert own in asked

    @pytest.mark.parametrize(
        "options", [{"count": 0}, {"count": True}, {"stream_type": ""}, {"stream_type": "$x"}]
    )
    async def test_nonsense_is_refused_by_the_call(
        self, store: ListingEventStore, options: dict[str, Any]
    ) -> None:
        """Before anything is opened, where the mistake was made."""
        with pytest.raises(ValueError, match="count|type"):
            store.list_streams(**options)
