"""Clauses on deleting streams."""

from typing import Protocol

import pytest

from estoria.core import (
    EventStore,
    Expect,
    GlobalReader,
    StreamChangedError,
    StreamDeleter,
    StreamNotFoundError,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._samples import as_given, new_events, versions, written


class DeletingEventStore(EventStore, StreamDeleter, Protocol):
    """An event store that can forget a stream."""


class StreamDeleterAcceptance(Acceptance):
    """What every `StreamDeleter` promises; asks for the fixture `store`."""

    async def test_it_is_a_stream_deleter(self, store: DeletingEventStore) -> None:
        """`isinstance` finds the ability."""
        assert isinstance(store, StreamDeleter)

    async def test_a_deleted_stream_reads_as_missing(self, store: DeletingEventStore) -> None:
        """In both directions, and others are untouched."""
        deleted, other = await written(store, events=3), await written(store, events=2)

        await store.delete_stream(deleted)

        for options in ({}, {"reverse": True}, {"after_version": 2}):
            with pytest.raises(StreamNotFoundError):
                await store.read_stream(deleted, **options).collect()
        assert await versions(store, other) == [1, 2]

    async def test_what_doesn_t_exist_can_t_be_deleted(self, store: DeletingEventStore) -> None:
        """Never written, or deleted before."""
        deleted = await written(store, events=1)
        await store.delete_stream(deleted)

        for stream_id in (deleted, TypeID.new("account")):
            with pytest.raises(StreamNotFoundError) as caught:
                await store.delete_stream(stream_id)
            assert stream_id == caught.value.stream_id

    async def test_versions_never_go_back(self, store: DeletingEventStore) -> None:
        """A stream deleted at 3 starts again at 5, deleted at 6 at 8."""
        stream_id = await written(store, events=3)
        await store.delete_stream(stream_id)

        appended = await store.append_stream(stream_id, new_events(2), expect=Expect.NO_STREAM)
        assert (
            appended.stream.version,
            appended.stream.first_version,
            appended.stream.origin,
        ) == (6, 5, 4)
        assert await versions(store, stream_id) == [5, 6]
        assert await versions(store, stream_id, reverse=True) == [6, 5]

        await store.delete_stream(stream_id)
        again = await store.append_stream(stream_id, new_events(1))
        assert (again.stream.version, again.stream.first_version, again.stream.origin) == (8, 8, 7)

    @pytest.mark.parametrize("expect", [Expect.ANY, Expect.NO_STREAM, 0], ids=str)
    async def test_a_deleted_stream_meets_these_expectations(
        self, store: DeletingEventStore, expect: Expect | int
    ) -> None:
        """To a writer it is a missing stream."""
        stream_id = await written(store, events=3)
        await store.delete_stream(stream_id)

        appended = await store.append_stream(stream_id, new_events(1), expect=expect)

        assert [event.stream_version for event in appended] == [5]

    @pytest.mark.parametrize("expect", [Expect.STREAM_EXISTS, 2, 3, 4, 5], ids=str)
    async def test_a_deleted_stream_refuses_those_who_expect_one(
        self, store: DeletingEventStore, expect: Expect | int
    ) -> None:
        """Its last version included, and the retired one."""
        stream_id = await written(store, events=3)
        await store.delete_stream(stream_id)

        with pytest.raises(StreamVersionMismatchError) as caught:
            await store.append_stream(stream_id, new_events(1), expect=expect)

        assert caught.value.actual == 0

    async def test_a_writer_of_the_former_life_is_refused_for_ever(
        self, store: DeletingEventStore
    ) -> None:
        """However far the stream has come since: its version 3 will never be again."""
        stream_id = await written(store, events=3)
        await store.delete_stream(stream_id)
        for tip in range(5, 10):
            await store.append_stream(stream_id, new_events(1))
            for expect in (3, 4):
                with pytest.raises(StreamVersionMismatchError) as caught:
                    await store.append_stream(stream_id, new_events(1), expect=expect)
                assert tip == caught.value.actual

    async def test_ids_of_a_deleted_stream_are_forgotten(self, store: DeletingEventStore) -> None:
        """The same batch may be written again: that is a new append."""
        stream_id, batch = TypeID.new("account"), new_events(2)
        await store.append_stream(stream_id, batch)
        await store.delete_stream(stream_id)

        again = await store.append_stream(stream_id, batch)

        assert batch == as_given(again)
        assert [event.stream_version for event in again] == [4, 5]

    async def test_a_repeat_in_a_second_life_returns_the_first_result(
        self, store: DeletingEventStore
    ) -> None:
        """`NO_STREAM` means the beginning of this life, not version 1."""
        stream_id, batch = await written(store, events=2), new_events(2)
        await store.delete_stream(stream_id)
        first = await store.append_stream(stream_id, batch, expect=Expect.NO_STREAM)

        second = await store.append_stream(stream_id, batch, expect=Expect.NO_STREAM)

        assert first == second

    @pytest.mark.parametrize("again", [False, True], ids=["deleted", "written again"])
    async def test_a_reader_between_two_pages_is_told(
        self, store: DeletingEventStore, again: bool
    ) -> None:
        """It never ends short and never goes on in another life."""
        stream_id = await written(store, events=2_500)
        forwards = store.read_stream(stream_id)
        backwards = store.read_stream(stream_id, reverse=True)
        await anext(forwards)
        await anext(backwards)

        await store.delete_stream(stream_id)
        if again:
            await store.append_stream(stream_id, new_events(2_600))

        for events in (forwards, backwards):
            with pytest.raises(StreamChangedError):
                await events.collect()

    async def test_global_reads_forget_the_events(self, store: DeletingEventStore) -> None:
        """Where there are global reads: they neither stall at the gap nor use it again."""
        if not isinstance(store, GlobalReader):
            return
        start = await store.head_position()
        deleted = await written(store, events=3)
        head = await store.head_position()

        await store.delete_stream(deleted)

        assert head <= await store.head_position()
        assert await store.read_all(after_position=start).collect() == []
        await store.append_stream(deleted, new_events(1))
        events = await store.read_all(after_position=start).collect()
        assert [event.stream_version for event in events] == [5]
        assert events[0].global_position > head
