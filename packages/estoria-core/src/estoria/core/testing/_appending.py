"""Clauses on appending: expectations, results, repeats, refusals."""

from copy import deepcopy
from datetime import UTC, datetime, timedelta

import pytest

from estoria.core import (
    DuplicateEventError,
    EventStore,
    Expect,
    InvalidEventError,
    NewEvent,
    StreamNotFoundError,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._samples import as_given, new_events, versions, written


class AppendingAcceptance(Acceptance):
    """How an append answers, one caller at a time."""

    async def test_what_is_returned_is_what_is_read(self, store: EventStore) -> None:
        """A caller may go on with the result instead of reading it back."""
        stream_id = TypeID.new("account")

        first = await store.append_stream(stream_id, new_events(2))
        second = await store.append_stream(stream_id, new_events(3), expect=2)

        assert [*first, *second] == await store.read_stream(stream_id).collect()

    async def test_what_is_stored_is_what_was_given(self, store: EventStore) -> None:
        """Id, type, bytes, content type and metadata come back verbatim."""
        batch = [
            NewEvent("opened", b'{"by":"me"}', "application/json", {"who": "me", "why": ""}),
            NewEvent("seen", b"\x00\xff", "application/octet-stream"),
            NewEvent("ended", b""),
        ]
        stream_id = TypeID.new("account")

        await store.append_stream(stream_id, batch)

        stored = await store.read_stream(stream_id).collect()
        assert batch == as_given(stored)
        assert [stream_id] * 3 == [event.stream_id for event in stored]

    async def test_versions_start_at_one_and_have_no_gaps(self, store: EventStore) -> None:
        """A version says how many events came before."""
        stream_id = TypeID.new("account")

        await store.append_stream(stream_id, new_events(2))
        await store.append_stream(stream_id, new_events(1))
        await store.append_stream(stream_id, new_events(4))

        assert await versions(store, stream_id) == [1, 2, 3, 4, 5, 6, 7]

    async def test_positions_grow_within_and_between_streams(self, store: EventStore) -> None:
        """One order over everything, whichever stream an event is in."""
        positions = []
        for _ in range(3):
            stream_id = await written(store, events=2)
            positions += [
                event.global_position for event in await store.read_stream(stream_id).collect()
            ]

        assert positions == sorted(set(positions))
        assert all(isinstance(position, int) and position > 0 for position in positions)

    async def test_timestamps_are_the_appenders_clock_in_utc(self, store: EventStore) -> None:
        """Aware, and the moment of the append, not of the commit or of the server."""
        before = datetime.now(UTC)
        appended = await store.append_stream(TypeID.new("account"), new_events(1))
        after = datetime.now(UTC)

        assert appended[0].timestamp.utcoffset() == timedelta(0)
        assert before <= appended[0].timestamp <= after

    async def test_timestamps_keep_microseconds(self, store: EventStore) -> None:
        """A clock cut to milliseconds would show on one of these, 999 times of 1,000."""
        fractions = set()
        for _ in range(5):
            stream_id = await written(store, events=1)
            events = await store.read_stream(stream_id).collect()
            fractions.add(events[0].timestamp.microsecond % 1000)

        assert fractions != {0}

    async def test_the_result_knows_the_stream(self, store: EventStore) -> None:
        """Its tip, its first stored version and its origin, after the append."""
        stream_id = TypeID.new("account")
        await store.append_stream(stream_id, new_events(2))

        stream = (await store.append_stream(stream_id, new_events(3))).stream

        assert (stream.stream_id, stream.version) == (stream_id, 5)
        assert (stream.first_version, stream.origin) == (1, 0)

    async def test_no_events_change_nothing(self, store: EventStore) -> None:
        """An empty batch is no append: nothing is checked and no stream created."""
        stream_id = TypeID.new("account")

        assert await store.append_stream(stream_id, [], expect=7) == []
        with pytest.raises(StreamNotFoundError):
            await store.read_stream(stream_id).collect()

    async def test_what_is_given_is_not_changed(self, store: EventStore) -> None:
        """The caller's events stay the caller's."""
        batch = new_events(3)
        before = deepcopy(batch)

        appended = await store.append_stream(TypeID.new("account"), batch)
        appended[0].metadata["n"] = "changed"

        assert before == batch

    async def test_what_is_given_may_change_later(self, store: EventStore) -> None:
        """What was stored doesn't follow a dict that the caller goes on using."""
        batch = new_events(1)
        stream_id = TypeID.new("account")
        await store.append_stream(stream_id, batch)

        batch[0].metadata["n"] = "changed"

        stored = await store.read_stream(stream_id).collect()
        assert stored[0].metadata["n"] != "changed"

    async def test_what_is_read_belongs_to_the_reader(self, store: EventStore) -> None:
        """A reader that changes a dict changes nobody else's."""
        stream_id = TypeID.new("account")
        await store.append_stream(stream_id, [NewEvent("seen", b"", "", {})])
        for event in await store.read_stream(stream_id).collect():
            event.metadata["mine"] = "yes"

        again = await store.read_stream(stream_id).collect()

        assert [event.metadata for event in again] == [{}]

    @pytest.mark.parametrize("expect", [Expect.ANY, Expect.NO_STREAM, 0], ids=str)
    async def test_a_new_stream_meets_these_expectations(
        self, store: EventStore, expect: Expect | int
    ) -> None:
        """Nothing is there, and that is what they expect or accept."""
        appended = await store.append_stream(TypeID.new("account"), new_events(2), expect=expect)

        assert [event.stream_version for event in appended] == [1, 2]

    @pytest.mark.parametrize("expect", [Expect.STREAM_EXISTS, 1, 2**40, 2**80], ids=str)
    async def test_a_missing_stream_is_at_version_zero(
        self, store: EventStore, expect: Expect | int
    ) -> None:
        """Whoever expects it to exist learns that it doesn't, and creates nothing."""
        stream_id = TypeID.new("account")

        with pytest.raises(StreamVersionMismatchError) as caught:
            await store.append_stream(stream_id, new_events(1), expect=expect)

        assert (caught.value.stream_id, caught.value.expected) == (stream_id, expect)
        assert caught.value.actual == 0
        with pytest.raises(StreamNotFoundError):
            await store.read_stream(stream_id).collect()

    @pytest.mark.parametrize("expect", [Expect.ANY, Expect.STREAM_EXISTS, 3], ids=str)
    async def test_an_existing_stream_meets_these_expectations(
        self, store: EventStore, expect: Expect | int
    ) -> None:
        """At version 3, as expected or accepted."""
        stream_id = await written(store, events=3)

        appended = await store.append_stream(stream_id, new_events(1), expect=expect)

        assert [event.stream_version for event in appended] == [4]

    @pytest.mark.parametrize("expect", [Expect.NO_STREAM, 0, 1, 2, 4, 2**40, 2**80], ids=str)
    async def test_a_wrong_expectation_changes_nothing(
        self, store: EventStore, expect: Expect | int
    ) -> None:
        """Lower, higher or none: refused with the true version, and no version is burnt."""
        stream_id = await written(store, events=3)

        with pytest.raises(StreamVersionMismatchError) as caught:
            await store.append_stream(stream_id, new_events(2), expect=expect)
        await store.append_stream(stream_id, new_events(1), expect=3)

        assert caught.value.actual == 3
        assert (expect or Expect.NO_STREAM) == caught.value.expected
        assert await versions(store, stream_id) == [1, 2, 3, 4]

    @pytest.mark.parametrize("expect", [-1, True, False, 1.0, "3", None], ids=repr)
    async def test_a_nonsensical_expectation_is_refused(
        self, store: EventStore, expect: int
    ) -> None:
        """Neither an expectation nor a version: a mistake in the caller's code."""
        stream_id = await written(store, events=1)

        with pytest.raises(ValueError, match="expect"):
            await store.append_stream(stream_id, new_events(1), expect=expect)

        assert await versions(store, stream_id) == [1]

    @pytest.mark.parametrize(
        "expect", [Expect.ANY, Expect.STREAM_EXISTS, 3], ids=["any", "exists", "exact"]
    )
    async def test_a_repeated_append_returns_the_first_result(
        self, store: EventStore, expect: Expect | int
    ) -> None:
        """Its acknowledgement was lost; the caller can't know, and needn't."""
        stream_id = await written(store, events=3)
        batch = new_events(2)
        first = await store.append_stream(stream_id, batch, expect=expect)

        second = await store.append_stream(stream_id, batch, expect=expect)

        assert first == second
        assert first.stream == second.stream
        assert await versions(store, stream_id) == [1, 2, 3, 4, 5]

    async def test_a_repeated_first_append_returns_the_first_result(
        self, store: EventStore
    ) -> None:
        """The stream exists because of this very batch."""
        stream_id, batch = TypeID.new("account"), new_events(2)
        first = await store.append_stream(stream_id, batch, expect=Expect.NO_STREAM)

        second = await store.append_stream(stream_id, batch, expect=Expect.NO_STREAM)

        assert first == second

    @pytest.mark.parametrize("expect", [Expect.ANY, Expect.STREAM_EXISTS, 1], ids=str)
    async def test_a_repeat_counts_also_when_others_went_on(
        self, store: EventStore, expect: Expect | int
    ) -> None:
        """Events that others appended meanwhile don't make it a conflict."""
        stream_id = await written(store, events=1)
        batch = new_events(2)
        first = await store.append_stream(stream_id, batch, expect=expect)
        await store.append_stream(stream_id, new_events(2))

        second = await store.append_stream(stream_id, batch, expect=expect)

        assert first == second
        assert second.stream.version == 5

    async def test_a_repeat_at_another_version_is_refused(self, store: EventStore) -> None:
        """The batch stands there, but not where it is expected now."""
        stream_id = await written(store, events=1)
        batch = new_events(2)
        await store.append_stream(stream_id, batch, expect=1)

        for expect in (3, 2, 9, Expect.NO_STREAM):
            with pytest.raises(DuplicateEventError):
                await store.append_stream(stream_id, batch, expect=expect)

        assert await versions(store, stream_id) == [1, 2, 3]

    async def test_a_batch_that_stands_there_in_part_is_refused(self, store: EventStore) -> None:
        """Neither a repeat nor new: a mistake, and nothing of it is written."""
        stream_id, batch = TypeID.new("account"), new_events(4)
        await store.append_stream(stream_id, batch[:3])
        (fresh,) = new_events(1)

        mixtures = (
            [batch[2], batch[3]],
            [batch[3], batch[0]],
            [batch[1], batch[0]],
            [batch[0], batch[2]],
            [batch[0], fresh, batch[1]],
        )
        for mixture in mixtures:
            for expect in (Expect.ANY, Expect.STREAM_EXISTS, 3):
                with pytest.raises(DuplicateEventError) as caught:
                    await store.append_stream(stream_id, mixture, expect=expect)
                assert caught.value.event_id in {event.id for event in batch[:3]}

        assert batch[:3] == as_given(await store.read_stream(stream_id).collect())

    async def test_the_same_id_twice_in_a_batch_is_refused(self, store: EventStore) -> None:
        """Ids are unique within a stream."""
        stream_id, (event,) = TypeID.new("account"), new_events(1)

        with pytest.raises(ValueError, match="twice"):
            await store.append_stream(stream_id, [event, event])

        with pytest.raises(StreamNotFoundError):
            await store.read_stream(stream_id).collect()

    async def test_ids_may_recur_in_other_streams(self, store: EventStore) -> None:
        """They are unique within a stream, no further."""
        batch = new_events(2)
        first = await store.append_stream(TypeID.new("account"), batch)

        second = await store.append_stream(TypeID.new("account"), batch)

        assert as_given(first) == as_given(second)
        assert first[0].stream_id != second[0].stream_id

    @pytest.mark.parametrize(
        "bad",
        [
            NewEvent("", b""),
            NewEvent("$system", b""),
            NewEvent("x" * 256, b""),
            NewEvent("nul\0", b""),
            NewEvent("surrogate\ud800", b""),
            NewEvent("seen", b"", "nul\0"),
            NewEvent("seen", b"", "surrogate\udfff"),
            NewEvent("seen", b"", "", {"estoria.mine": "x"}),
            NewEvent("seen", b"", "", {"nul\0": "x"}),
            NewEvent("seen", b"", "", {"key": "nul\0"}),
            NewEvent("seen", b"", "", {"key": "\udc00"}),
            NewEvent("seen", b"", "", {"key": 1}),  # type: ignore[dict-item]  # on purpose
            NewEvent("seen", "text"),  # type: ignore[arg-type]  # on purpose
            NewEvent("seen", bytearray(b"x")),  # type: ignore[arg-type]  # on purpose
            NewEvent("seen", b"", id="no uuid"),  # type: ignore[arg-type]  # on purpose
        ],
        ids=range(15),
    )
    async def test_an_event_that_no_store_may_keep_is_refused(
        self, store: EventStore, bad: NewEvent
    ) -> None:
        """Alike on every backend, with its index, and nothing of its batch is written."""
        stream_id, (good,) = TypeID.new("account"), new_events(1)

        with pytest.raises(InvalidEventError) as caught:
            await store.append_stream(stream_id, [good, bad])

        assert (stream_id, 1) == (caught.value.stream_id, caught.value.index)
        with pytest.raises(StreamNotFoundError):
            await store.read_stream(stream_id).collect()

    async def test_setup_may_run_again(self, store: EventStore) -> None:
        """It creates what is missing and leaves alone what is there."""
        stream_id = await written(store, events=2)

        await store.setup()

        assert await versions(store, stream_id) == [1, 2]
