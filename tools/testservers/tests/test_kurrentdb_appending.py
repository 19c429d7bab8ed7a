from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from kurrentdbclient import NewEvent, StreamState
from kurrentdbclient.exceptions import (
    MaximumAppendSizeExceededError,
    NotFoundError,
    WrongCurrentVersionError,
)


@pytest.fixture
def three(client, stream, some_events):
    """Three events, and where the last of them stands in the database."""
    events = some_events(3)
    at = client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events)
    return events, at


def test_an_event_comes_back_as_it_was_recorded(client, stream):
    id = uuid4()
    event = NewEvent("ImageCreated", b"\x00\xff", b'{"a": 1}', "application/octet-stream", id)
    before = datetime.now(UTC) - timedelta(seconds=1)

    at = client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=event)

    [recorded] = client.get_stream(stream)
    assert (recorded.type, recorded.data, recorded.metadata) == (
        "ImageCreated",
        b"\x00\xff",
        b'{"a": 1}',
    )
    assert recorded.content_type == "application/octet-stream"
    assert recorded.id == id
    assert (recorded.stream_name, recorded.stream_position) == (stream, 0)
    assert recorded.commit_position == recorded.prepare_position == at
    assert before < recorded.recorded_at < datetime.now(UTC) + timedelta(seconds=1)
    assert recorded.link is None
    assert recorded.retry_count is None
    assert recorded.ack_id == id


def test_an_event_is_json_without_metadata_where_nothing_else_is_said(client, stream):
    client.append_to_stream(
        stream, current_version=StreamState.NO_STREAM, events=[NewEvent("OrderCreated", b"{}")]
    )

    [recorded] = client.get_stream(stream)
    assert (recorded.content_type, recorded.metadata) == ("application/json", b"")
    assert isinstance(recorded.id, UUID)
    assert not recorded.is_system_event
    assert not recorded.is_link_event
    assert not recorded.is_resolved_event
    assert not recorded.is_checkpoint
    assert not recorded.is_caught_up
    assert not recorded.is_fell_behind


def test_stream_positions_count_from_0_without_gaps_and_commit_positions_rise(
    client, stream, some_events
):
    first = client.append_to_stream(
        stream, current_version=StreamState.NO_STREAM, events=some_events(1)
    )
    last = client.append_to_stream(stream, current_version=0, events=some_events(2))

    recorded = client.get_stream(stream)
    assert [event.stream_position for event in recorded] == [0, 1, 2]
    positions = [event.commit_position for event in recorded]
    assert positions == sorted(set(positions))
    assert (positions[0], positions[-1]) == (first, last)
    assert all(after - before > 1 for before, after in pairwise(positions))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "wrong", [StreamState.NO_STREAM, 0, 1, 3, 10], ids=lambda wrong: f"expected {wrong}"
)
def test_a_wrong_version_of_a_stream_is_refused_with_the_right_one(
    client, stream, three, some_events, wrong, count
):
    events = some_events(count)

    with pytest.raises(WrongCurrentVersionError) as caught:
        client.append_to_stream(
            stream, current_version=wrong, events=events[0] if count == 1 else events
        )

    assert caught.value.actual_version == 2
    assert caught.value.stream_name == stream
    assert [*client.get_stream(stream)] == three[0]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("wrong", [StreamState.EXISTS, 0, 7], ids=lambda wrong: f"expected {wrong}")
def test_a_version_of_a_missing_stream_is_refused(client, stream, some_events, wrong, count):
    events = some_events(count)

    with pytest.raises(WrongCurrentVersionError) as caught:
        client.append_to_stream(
            stream, current_version=wrong, events=events[0] if count == 1 else events
        )

    assert caught.value.actual_version is StreamState.NO_STREAM
    with pytest.raises(NotFoundError):
        client.get_stream(stream)


@pytest.mark.parametrize("relaxed", [StreamState.ANY, StreamState.EXISTS])
def test_without_concurrency_control_events_are_appended_at_the_end(
    client, stream, three, some_events, relaxed
):
    more = some_events(2, "More")

    client.append_to_stream(stream, current_version=relaxed, events=more)

    assert [*client.get_stream(stream)] == three[0] + more


def test_any_also_makes_the_stream(client, stream, some_events):
    events = some_events(2)

    client.append_to_stream(stream, current_version=StreamState.ANY, events=events)

    assert [*client.get_stream(stream)] == events


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("version", [0, StreamState.ANY, StreamState.EXISTS])
def test_a_retry_is_answered_as_the_first_try_was(client, stream, some_events, version, count):
    first, *events = some_events(1 + count)
    client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=first)
    again = events[0] if count == 1 else events
    at = client.append_to_stream(stream, current_version=0, events=again)
    client.append_to_stream(stream, current_version=count, events=some_events(1, "Later"))

    assert client.append_to_stream(stream, current_version=version, events=again) == at

    assert len(client.get_stream(stream)) == 2 + count


def test_a_retry_of_the_first_events_is_answered_as_the_first_try_was(
    client, stream, three, some_events
):
    events, at = three
    client.append_to_stream(stream, current_version=2, events=some_events(1, "Later"))

    assert at == client.append_to_stream(
        stream, current_version=StreamState.NO_STREAM, events=events
    )

    assert len(client.get_stream(stream)) == 4


def test_a_retry_with_a_new_event_in_it_is_refused(client, stream, three, some_events):
    events, _ = three

    with pytest.raises(WrongCurrentVersionError):
        client.append_to_stream(
            stream, current_version=0, events=[*events[1:], *some_events(1, "New")]
        )

    assert [*client.get_stream(stream)] == events


def test_ids_are_compared_at_their_place_only(client, stream, three, some_events):
    """An id that stands earlier in the stream does not make an append a retry."""
    events, _ = three

    client.append_to_stream(stream, current_version=2, events=events[1:])

    assert [*client.get_stream(stream)] == [*events, *events[1:]]


def test_ids_of_one_stream_are_free_in_another(client, stream, three):
    events, at = three

    there = client.append_to_stream(
        f"{stream}_other", current_version=StreamState.NO_STREAM, events=events
    )

    assert there > at
    assert [*client.get_stream(f"{stream}_other")] == events


def test_an_append_that_is_too_large_writes_nothing(client, stream):
    events = [NewEvent("Large", b"x" * 1024 * 1024) for _ in range(17)]

    with pytest.raises(MaximumAppendSizeExceededError):
        client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events)

    with pytest.raises(NotFoundError):
        client.get_stream(stream)


def test_an_append_that_just_fits_is_written(client, stream):
    events = [NewEvent("Large", b"x" * 1024 * 1024) for _ in range(15)]

    client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events)

    assert sum(len(event.data) for event in client.get_stream(stream)) == 15 * 1024 * 1024
