import pytest
from kurrentdbclient import NewEvent, StreamState
from kurrentdbclient.exceptions import (
    FailedPreconditionError,
    NotFoundError,
    StreamIsDeletedError,
    WrongCurrentVersionError,
)

MAX_LONG = 2**63 - 1


@pytest.fixture
def five(client, stream, some_events):
    events = some_events(5)
    client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events)
    return events


def test_a_stream_has_no_metadata_before_they_are_set(client, stream, five):
    assert client.get_stream_metadata(stream) == ({}, StreamState.NO_STREAM)


def test_metadata_come_back_with_their_version(client, stream, five):
    for version, value in [(StreamState.NO_STREAM, "bar"), (0, "baz")]:
        metadata, current = client.get_stream_metadata(stream)
        assert current == version
        metadata["foo"] = value
        client.set_stream_metadata(stream, metadata=metadata, current_version=current)

    assert client.get_stream_metadata(stream) == ({"foo": "baz"}, 1)


def test_metadata_are_set_before_the_first_event(client, stream, five):
    client.set_stream_metadata(f"{stream}_later", metadata={"foo": "bar"})

    assert client.get_stream_metadata(f"{stream}_later") == ({"foo": "bar"}, 0)
    assert client.get_current_version(f"{stream}_later") is StreamState.NO_STREAM


def test_metadata_of_another_version_are_refused(client, stream, five):
    client.set_stream_metadata(stream, metadata={"foo": "bar"})

    with pytest.raises(WrongCurrentVersionError):
        client.set_stream_metadata(stream, metadata={"foo": "baz"}, current_version=10)

    assert client.get_stream_metadata(stream) == ({"foo": "bar"}, 0)


def test_metadata_are_system_events_of_a_stream_beside_it(client, stream, five):
    client.set_stream_metadata(stream, metadata={"foo": "bar"})

    [event] = client.read_all(filter_include=[rf"\$\${stream}"], filter_by_stream_name=True)

    assert (event.type, event.data) == ("$metadata", b'{"foo": "bar"}')
    assert event.is_system_event


@pytest.mark.parametrize(
    ("metadata", "left"),
    [
        ({"$tb": 3}, [3, 4]),
        ({"$tb": 0}, [0, 1, 2, 3, 4]),
        ({"$tb": 5}, []),
        ({"$maxCount": 2}, [3, 4]),
        ({"$maxCount": 9}, [0, 1, 2, 3, 4]),
        ({"$tb": 4, "$maxCount": 3}, [4]),
        ({"$tb": 1, "$maxCount": 2}, [3, 4]),
        ({"$maxAge": 3600}, [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_metadata_truncate_a_stream(client, stream, five, metadata, left):
    client.set_stream_metadata(stream, metadata=metadata)

    assert [*client.get_stream(stream)] == [five[n] for n in left]
    assert [*client.get_stream(stream, backwards=True)] == [five[n] for n in reversed(left)]


def test_a_count_moves_on_with_the_stream(client, stream, five, some_events):
    client.set_stream_metadata(stream, metadata={"$maxCount": 2})
    client.append_to_stream(stream, current_version=4, events=some_events(1, "More"))

    assert [event.stream_position for event in client.get_stream(stream)] == [4, 5]


def test_events_are_gone_when_they_are_too_old(client, stream, five, until):
    client.set_stream_metadata(stream, metadata={"$maxAge": 1})

    until(lambda: not client.get_stream(stream))

    client.append_to_stream(stream, current_version=4, events=NewEvent("Young", b"{}"))
    assert client.get_current_version(stream) == 5


def test_a_truncated_stream_keeps_its_versions(client, stream, five, some_events):
    client.set_stream_metadata(stream, metadata={"$tb": 5})

    with pytest.raises(WrongCurrentVersionError):
        client.append_to_stream(
            stream, current_version=StreamState.NO_STREAM, events=some_events(1)
        )
    client.append_to_stream(stream, current_version=4, events=some_events(1))

    assert [event.stream_position for event in client.get_stream(stream)] == [5]


def test_truncated_events_are_in_all_until_they_are_scavenged(client, control, stream, five):
    client.set_stream_metadata(stream, metadata={"$tb": 3})

    def in_all():
        return [*client.read_all(filter_include=[stream], filter_by_stream_name=True)]

    assert in_all() == five
    assert control.scavenge() >= 3
    assert in_all() == five[3:]


@pytest.mark.parametrize("version", [4, StreamState.ANY, StreamState.EXISTS])
def test_a_deleted_stream_is_not_found(client, stream, five, version):
    client.delete_stream(stream, current_version=version)

    with pytest.raises(NotFoundError):
        client.get_stream(stream)
    assert client.get_current_version(stream) is StreamState.NO_STREAM
    assert client.get_stream_metadata(stream) == ({"$tb": MAX_LONG}, 0)


@pytest.mark.parametrize("version", [StreamState.NO_STREAM, StreamState.ANY, 4])
def test_a_deleted_stream_goes_on_from_its_last_version(client, stream, five, some_events, version):
    client.delete_stream(stream, current_version=4)
    more = some_events(2, "More")

    client.append_to_stream(stream, current_version=version, events=more)

    recorded = client.get_stream(stream)
    assert [*recorded] == more
    assert [event.stream_position for event in recorded] == [5, 6]
    assert client.get_stream_metadata(stream)[0] == {"$tb": 5}


@pytest.mark.parametrize("version", [4, StreamState.ANY])
def test_a_deleted_stream_is_deleted_again(client, stream, five, version):
    client.delete_stream(stream, current_version=4)

    client.delete_stream(stream, current_version=version)
    with pytest.raises(WrongCurrentVersionError):
        client.delete_stream(stream, current_version=3)

    with pytest.raises(NotFoundError):
        client.get_stream(stream)


@pytest.mark.parametrize("version", [4, StreamState.ANY])
def test_a_deleted_stream_is_tombstoned(client, stream, five, version):
    client.delete_stream(stream, current_version=4)

    client.tombstone_stream(stream, current_version=version)

    with pytest.raises(StreamIsDeletedError):
        client.get_stream(stream)


def test_a_deleted_stream_does_not_exist_for_those_who_ask_that(client, stream, five, some_events):
    client.delete_stream(stream, current_version=4)

    for count in (1, 2):
        events = some_events(count)
        with pytest.raises((StreamIsDeletedError, FailedPreconditionError)):
            client.append_to_stream(
                stream,
                current_version=StreamState.EXISTS,
                events=events if count > 1 else events[0],
            )
    for how in (client.delete_stream, client.tombstone_stream):
        with pytest.raises(StreamIsDeletedError):
            how(stream, current_version=StreamState.EXISTS)


@pytest.mark.parametrize("version", [StreamState.ANY, StreamState.EXISTS, StreamState.NO_STREAM])
def test_a_missing_stream_is_not_deleted(client, stream, version):
    with pytest.raises(NotFoundError):
        client.delete_stream(stream, current_version=version)


def test_a_missing_stream_may_be_tombstoned(client, stream, some_events):
    client.tombstone_stream(stream, current_version=StreamState.ANY)

    with pytest.raises(StreamIsDeletedError):
        client.append_to_stream(stream, current_version=StreamState.ANY, events=some_events(2))


@pytest.mark.parametrize("how", ["delete_stream", "tombstone_stream"])
def test_a_stream_of_another_version_is_not_deleted(client, stream, five, how):
    with pytest.raises(WrongCurrentVersionError) as caught:
        getattr(client, how)(stream, current_version=3)

    assert caught.value.actual_version == 4
    assert [*client.get_stream(stream)] == five


@pytest.mark.parametrize("how", ["delete_stream", "tombstone_stream"])
def test_a_version_of_a_missing_stream_is_not_deleted(client, stream, how):
    with pytest.raises(NotFoundError):
        getattr(client, how)(stream, current_version=3)


@pytest.mark.parametrize("version", [4, StreamState.ANY])
def test_a_tombstone_retires_a_name_for_good(client, stream, five, some_events, version):
    client.tombstone_stream(stream, current_version=version)

    with pytest.raises(StreamIsDeletedError):
        client.get_stream(stream)
    with pytest.raises(StreamIsDeletedError):
        client.get_current_version(stream)
    with pytest.raises(StreamIsDeletedError):
        client.append_to_stream(stream, current_version=StreamState.ANY, events=some_events(2))
    with pytest.raises((StreamIsDeletedError, FailedPreconditionError)):
        client.append_to_stream(stream, current_version=StreamState.ANY, events=some_events(1)[0])
    with pytest.raises((StreamIsDeletedError, FailedPreconditionError)):
        client.delete_stream(stream, current_version=StreamState.ANY)
    with pytest.raises((StreamIsDeletedError, FailedPreconditionError)):
        client.tombstone_stream(stream, current_version=StreamState.ANY)


def test_metadata_of_a_tombstoned_stream_are_not_read(client, stream, five):
    client.set_stream_metadata(stream, metadata={"foo": "bar"})
    client.tombstone_stream(stream, current_version=4)

    with pytest.raises(StreamIsDeletedError):
        client.get_stream_metadata(stream)


def test_a_tombstone_stands_in_all(client, stream, five):
    client.tombstone_stream(stream, current_version=4)

    found = client.read_all(
        filter_include=[stream], filter_by_stream_name=True, backwards=True, limit=1
    )

    assert [event.type for event in found] == ["$streamDeleted"]
