"""Clauses on truncating streams."""

from typing import Any, Protocol

import pytest

from estoria.core import (
    EventStore,
    Expect,
    StreamChangedError,
    StreamNotFoundError,
    StreamTruncator,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._samples import new_events, versions, written


class TruncatingEventStore(EventStore, StreamTruncator, Protocol):
    """An event store that can forget the first events of a stream."""


class StreamTruncatorAcceptance(Acceptance):
    """What every `StreamTruncator` promises; asks for the fixture `store`."""

    async def test_it_is_a_stream_truncator(self, store: TruncatingEventStore) -> None:
        """`isinstance` finds the ability."""
        assert isinstance(store, StreamTruncator)

    async def test_later_events_keep_their_versions(self, store: TruncatingEventStore) -> None:
        """Those at or below the version are gone, in both directions; other streams aren't."""
        stream_id, other = await written(store, events=5), await written(store, events=2)

        await store.truncate_stream(stream_id, 3)

        assert await versions(store, stream_id) == [4, 5]
        assert await versions(store, stream_id, reverse=True) == [5, 4]
        assert await versions(store, stream_id, after_version=1, count=1) == [4]
        assert await versions(store, stream_id, reverse=True, before_version=4) == []
        assert await versions(store, other) == [1, 2]

    async def test_the_stream_knows_its_first_version(self, store: TruncatingEventStore) -> None:
        """In reads and in later appends; the tip and the origin are unchanged."""
        stream_id = await written(store, events=5)
        await store.truncate_stream(stream_id, 3)

        async with store.read_stream(stream_id) as events:
            read = events.stream
        appended = (await store.append_stream(stream_id, new_events(1), expect=5)).stream

        assert (read.version, read.first_version, read.origin) == (5, 4, 0)
        assert (appended.version, appended.first_version, appended.origin) == (6, 4, 0)

    async def test_an_emptied_stream_still_exists(self, store: TruncatingEventStore) -> None:
        """It has nothing to give, and the next append continues from the old tip."""
        stream_id = await written(store, events=3)

        await store.truncate_stream(stream_id, 3)

        async with store.read_stream(stream_id) as events:
            stream = events.stream
            assert await events.collect() == []
        assert (stream.version, stream.first_version) == (3, 4)
        assert await versions(store, stream_id, reverse=True) == []
        appended = await store.append_stream(stream_id, new_events(2), expect=3)
        assert [event.stream_version for event in appended] == [4, 5]

    @pytest.mark.parametrize("expect", [Expect.NO_STREAM, 0, 1, 2, 4], ids=str)
    async def test_a_stale_writer_is_still_refused(
        self, store: TruncatingEventStore, expect: Expect | int
    ) -> None:
        """An emptied stream is at its tip, not missing."""
        stream_id = await written(store, events=3)
        await store.truncate_stream(stream_id, 3)

        with pytest.raises(StreamVersionMismatchError) as caught:
            await store.append_stream(stream_id, new_events(1), expect=expect)

        assert caught.value.actual == 3

    @pytest.mark.parametrize("to_version", [4, 2**40, 2**80, 0, -1, True, "1"], ids=repr)
    async def test_a_version_that_isn_t_there_is_refused(
        self, store: TruncatingEventStore, to_version: Any
    ) -> None:
        """Beyond the tip or below 1: nothing happens."""
        stream_id = await written(store, events=3)

        with pytest.raises(ValueError, match="to_version"):
            await store.truncate_stream(stream_id, to_version)

        assert await versions(store, stream_id) == [1, 2, 3]

    async def test_a_missing_stream_can_t_be_truncated(self, store: TruncatingEventStore) -> None:
        """It has no events to forget."""
        stream_id = TypeID.new("account")

        with pytest.raises(StreamNotFoundError) as caught:
            await store.truncate_stream(stream_id, 1)

        assert stream_id == caught.value.stream_id

    async def test_an_earlier_truncation_is_never_undone(self, store: TruncatingEventStore) -> None:
        """A lower version changes nothing; a higher one goes on."""
        stream_id = await written(store, events=5)
        await store.truncate_stream(stream_id, 3)

        await store.truncate_stream(stream_id, 1)
        assert await versions(store, stream_id) == [4, 5]

        await store.truncate_stream(stream_id, 4)
        assert await versions(store, stream_id) == [5]

    async def test_a_reader_between_two_pages_is_told(self, store: TruncatingEventStore) -> None:
        """When what it should read next is gone: it never ends short."""
        stream_id = await written(store, events=2_500)
        forwards = store.read_stream(stream_id)
        backwards = store.read_stream(stream_id, reverse=True)
        await anext(forwards)
        await anext(backwards)

        await store.truncate_stream(stream_id, 2_400)

        for events in (forwards, backwards):
            with pytest.raises(StreamChangedError):
                await events.collect()

    async def test_a_reader_that_is_past_it_goes_on(self, store: TruncatingEventStore) -> None:
        """What it lost it had seen already."""
        stream_id = await written(store, events=2_500)
        events = store.read_stream(stream_id, after_version=1)
        await anext(events)

        await store.truncate_stream(stream_id, 2)

        assert list(range(3, 2_501)) == [e.stream_version for e in await events.collect()]
