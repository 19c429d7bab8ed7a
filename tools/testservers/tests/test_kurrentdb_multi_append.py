import json

import pytest
from estoria_testservers import fresh_name
from kurrentdbclient import NewEvent, NewEvents, NewRecord, StreamState, StreamStateCheck
from kurrentdbclient.exceptions import (
    ConsistencyChecksFailedError,
    MultiAppendToSameStreamError,
    ProgrammingError,
    RecordMaxSizeExceededError,
    StreamTombstonedError,
    TransactionMaxSizeExceededError,
    WrongCurrentVersionError,
)

DELETED, TOMBSTONED = -5, -6
MEGABYTE = b"x" * 2**20


@pytest.fixture
def names():
    return [fresh_name("left"), fresh_name("right")]


@pytest.fixture
def batches(names, some_events):
    """Two events for each of two new streams."""
    return [NewEvents(name, some_events(2, name), StreamState.NO_STREAM) for name in names]


@pytest.fixture
def records(names):
    """Five records, which alternate between two streams."""
    return [NewRecord(names[n % 2], f"Recorded{n}", b'{"n": %d}' % n) for n in range(5)]


def ids(events):
    return [event.id for event in events]


def test_several_streams_are_appended_to_at_once(client, batches):
    at = client.multi_append_to_stream(batches)

    for batch in batches:
        recorded = client.get_stream(batch.stream_name)
        assert [*recorded] == batch.events
        assert [event.stream_position for event in recorded] == [0, 1]
    assert at == client.get_commit_position() == recorded[-1].commit_position


def test_a_single_batch_is_taken_alone(client, batches):
    client.multi_append_to_stream(batches[0])

    assert [*client.get_stream(batches[0].stream_name)] == batches[0].events


@pytest.mark.parametrize(
    ("content_type", "format"),
    [("application/json", "Json"), ("application/octet-stream", "Bytes")],
)
def test_metadata_come_back_with_what_the_server_adds(client, stream, content_type, format):
    event = NewEvent("Happened", b"{}", b'{"a": "1"}', content_type)

    client.multi_append_to_stream(NewEvents(stream, [event], StreamState.ANY))

    [recorded] = client.get_stream(stream)
    assert (recorded.type, recorded.data) == ("Happened", b"{}")
    assert recorded.content_type == content_type
    assert json.loads(recorded.metadata) == {
        "a": "1",
        "$schema.format": format,
        "$schema.name": "Happened",
    }


@pytest.mark.parametrize(
    "metadata", [b"\xf5d\xc5W", b'"abcdef"', b'{"a": 1}', b'{"a": false}', b'{"a": {}}']
)
def test_metadata_that_are_no_strings_are_refused_by_the_client(client, stream, metadata):
    event = NewEvent("Happened", b"{}", metadata)

    with pytest.raises(ProgrammingError):
        client.multi_append_to_stream(NewEvents(stream, [event], StreamState.ANY))

    assert client.get_current_version(stream) is StreamState.NO_STREAM


@pytest.mark.parametrize("wrong", [StreamState.EXISTS, 0])
def test_a_wrong_version_of_one_stream_keeps_all_from_being_written(
    client, names, batches, some_events, wrong
):
    batches[1] = NewEvents(names[1], batches[1].events, wrong)

    with pytest.raises(WrongCurrentVersionError) as caught:
        client.multi_append_to_stream(batches)

    assert caught.value.stream_name == names[1]
    assert caught.value.actual_version is StreamState.NO_STREAM
    assert caught.value.expected_version == wrong
    assert client.get_current_version(names[0]) is StreamState.NO_STREAM


def test_the_right_versions_are_accepted(client, names, batches, some_events):
    client.multi_append_to_stream(batches)

    client.multi_append_to_stream(
        [
            NewEvents(names[0], some_events(1), 1),
            NewEvents(names[1], some_events(1), StreamState.EXISTS),
            NewEvents(fresh_name("third"), some_events(1), StreamState.ANY),
        ]
    )

    assert [client.get_current_version(name) for name in names] == [2, 2]


def test_a_retry_is_answered_as_the_first_try_was(client, names, batches, some_events):
    at = client.multi_append_to_stream(batches)
    client.append_to_stream(names[0], current_version=1, events=some_events(1, "Later"))

    assert client.multi_append_to_stream(batches) == at

    assert [client.get_current_version(name) for name in names] == [2, 1]


def test_a_retry_for_one_stream_only_is_refused(client, names, batches):
    client.multi_append_to_stream(batches[0])

    with pytest.raises(WrongCurrentVersionError):
        client.multi_append_to_stream(batches)

    assert client.get_current_version(names[1]) is StreamState.NO_STREAM


def test_a_stream_comes_once_in_a_call(client, names, batches):
    with pytest.raises(MultiAppendToSameStreamError) as caught:
        client.multi_append_to_stream([batches[0], batches[0]])

    assert caught.value.stream_name == names[0]
    assert client.get_current_version(names[0]) is StreamState.NO_STREAM


def test_a_tombstoned_stream_is_named(client, names, batches):
    client.tombstone_stream(names[1], current_version=StreamState.ANY)

    with pytest.raises(StreamTombstonedError) as caught:
        client.multi_append_to_stream(batches)

    assert caught.value.stream_name == names[1]
    assert client.get_current_version(names[0]) is StreamState.NO_STREAM


def test_a_record_that_is_too_large_is_named(client, names):
    event = NewEvent("Large", MEGABYTE * 16)

    with pytest.raises(RecordMaxSizeExceededError) as caught:
        client.multi_append_to_stream(NewEvents(names[0], [event], StreamState.ANY))

    assert (caught.value.stream_name, caught.value.event_id) == (names[0], event.id)
    assert caught.value.size > caught.value.max_size


def test_records_that_are_too_large_together_are_refused(client, names):
    batches = [
        NewEvents(name, [NewEvent("Large", MEGABYTE) for _ in range(9)], StreamState.ANY)
        for name in names
    ]

    with pytest.raises(TransactionMaxSizeExceededError) as caught:
        client.multi_append_to_stream(batches)

    assert caught.value.size > caught.value.max_size


def test_records_of_several_streams_keep_their_order(client, names, records):
    result = client.append_records(records)

    written = [*client.read_all(backwards=True, limit=5)][::-1]
    assert ids(written) == ids(records)
    assert result.commit_position == written[-1].commit_position
    assert {each.stream_name: each.stream_position for each in result.stream_positions} == {
        names[0]: 2,
        names[1]: 1,
    }


def test_a_single_record_is_taken_alone(client, names, records):
    client.append_records(records[0])

    [recorded] = client.get_stream(names[0])
    assert (recorded.id, recorded.type) == (records[0].id, "Recorded0")


def test_checks_that_hold_let_the_records_through(client, names, records, some_events):
    guard = fresh_name("guard")
    client.append_to_stream(guard, current_version=StreamState.ANY, events=some_events(2))
    client.append_to_stream(names[1], current_version=StreamState.ANY, events=some_events(1))

    client.append_records(
        records,
        checks=[
            StreamStateCheck(names[0], StreamState.NO_STREAM),
            StreamStateCheck(names[1], StreamState.EXISTS),
            StreamStateCheck(guard, 1),
        ],
    )

    assert [client.get_current_version(name) for name in [*names, guard]] == [2, 2, 1]


def test_checks_that_fail_are_named_and_nothing_is_written(client, names, records, some_events):
    there, deleted, gone = (fresh_name(state) for state in ("there", "deleted", "gone"))
    for name in (there, deleted, gone):
        client.append_to_stream(name, current_version=StreamState.ANY, events=some_events(2))
    client.delete_stream(deleted, current_version=1)
    client.tombstone_stream(gone, current_version=1)
    checks = [
        StreamStateCheck(names[0], 4),
        StreamStateCheck(names[1], StreamState.NO_STREAM),
        StreamStateCheck(there, StreamState.NO_STREAM),
        StreamStateCheck(deleted, StreamState.EXISTS),
        StreamStateCheck(gone, StreamState.NO_STREAM),
    ]

    with pytest.raises(ConsistencyChecksFailedError) as caught:
        client.append_records(records, checks=checks)

    failures = [(each.check_index, each.stream_state_failure) for each in caught.value.failures]
    assert [(index, found.stream_name, found.actual_state) for index, found in failures] == [
        (0, names[0], -1),
        (2, there, 1),
        (3, deleted, DELETED),
        (4, gone, TOMBSTONED),
    ]
    assert failures[0][1].expected_state == 4
    assert client.get_current_version(names[0]) is StreamState.NO_STREAM


def test_a_deleted_stream_passes_for_one_that_never_was(client, names, records, some_events):
    client.append_to_stream(names[0], current_version=StreamState.ANY, events=some_events(2))
    client.delete_stream(names[0], current_version=1)

    client.append_records(records, checks=StreamStateCheck(names[0], StreamState.NO_STREAM))

    assert [event.stream_position for event in client.get_stream(names[0])] == [2, 3, 4]


def test_records_that_are_sent_again_are_answered_as_before(client, names, records):
    checks = [StreamStateCheck(name, StreamState.NO_STREAM) for name in names]
    first = client.append_records(records, checks=checks)

    assert client.append_records(records, checks=checks) == first
    assert client.append_records(records) == first

    assert [client.get_current_version(name) for name in names] == [2, 1]


def test_records_for_a_tombstoned_stream_are_refused(client, names, records):
    client.tombstone_stream(names[1], current_version=StreamState.ANY)

    with pytest.raises(StreamTombstonedError):
        client.append_records(records)

    assert client.get_current_version(names[0]) is StreamState.NO_STREAM


def test_a_check_says_where_ids_are_compared(client, names, records):
    """Records that stand earlier in a stream are new ones at a version behind them."""
    client.append_records(records)
    checks = [StreamStateCheck(names[0], 2), StreamStateCheck(names[1], 1)]

    client.append_records(records, checks=checks)

    assert [client.get_current_version(name) for name in names] == [5, 3]
