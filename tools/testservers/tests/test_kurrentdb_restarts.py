"""The test double is stopped and killed, and comes back on its journal."""

import contextlib
import threading
from itertools import islice

import pytest
from estoria_testservers import kurrentdb_double, start_kurrentdb
from estoria_testservers.kurrentdb import ProtocolServer
from kurrentdbclient import KurrentDBClient, NewEvent, StreamState
from kurrentdbclient.exceptions import (
    KurrentDBClientError,
    NotFoundError,
    StreamIsDeletedError,
    WrongCurrentVersionError,
)


@pytest.fixture
def server(fresh_server):
    return fresh_server(start_kurrentdb, kurrentdb_double())


@pytest.fixture
def client(connect, server):
    return connect(server.url)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_everything_is_there_after_the_end(server, client, some_events, end):
    events = some_events(5)
    for stream in ("kept", "cut", "deleted", "gone"):
        at = client.append_to_stream(stream, current_version=StreamState.ANY, events=events)
    client.set_stream_metadata("cut", metadata={"$tb": 3, "foo": "bar"})
    client.delete_stream("deleted", current_version=4)
    client.tombstone_stream("gone", current_version=4)
    everything = [*client.read_all(filter_exclude=[])]

    getattr(server, end)()
    server.start()

    assert [*client.get_stream("kept")] == events
    assert [*client.get_stream("cut")] == events[3:]
    assert client.get_stream_metadata("cut") == ({"$tb": 3, "foo": "bar"}, 0)
    with pytest.raises(NotFoundError):
        client.get_stream("deleted")
    with pytest.raises(StreamIsDeletedError):
        client.get_stream("gone")
    assert [*client.read_all(filter_exclude=[])] == everything
    assert client.append_to_stream("kept", current_version=4, events=some_events(1, "More")) > at


def test_a_retry_is_known_after_a_kill(server, client, some_events):
    events = some_events(3)
    at = client.append_to_stream("kept", current_version=StreamState.NO_STREAM, events=events)

    server.kill()
    server.start()

    again = client.append_to_stream("kept", current_version=StreamState.NO_STREAM, events=events)
    assert again == at
    with pytest.raises(WrongCurrentVersionError):
        client.append_to_stream(
            "kept", current_version=StreamState.NO_STREAM, events=some_events(1)
        )


@pytest.mark.parametrize("lost", [1, 30])
def test_a_commit_that_was_cut_off_is_no_commit(server, client, some_events, lost):
    whole, torn = some_events(3), some_events(3, "Torn")
    client.append_to_stream("kept", current_version=StreamState.NO_STREAM, events=whole)
    client.append_to_stream("kept", current_version=2, events=torn)
    server.kill()
    file = server._folder / "records"
    file.write_bytes(file.read_bytes()[:-lost])

    server.start()

    assert [*client.get_stream("kept")] == whole
    client.append_to_stream("kept", current_version=2, events=torn)
    server.restart()
    assert [*client.get_stream("kept")] == whole + torn


def test_what_was_acknowledged_before_a_kill_in_mid_append_is_there(server, some_events):
    """A writer goes on until the server dies under it; batches are there whole or not at all."""
    acknowledged = []
    enough = threading.Event()

    def write():
        with contextlib.closing(KurrentDBClient(server.url)) as client:
            with contextlib.suppress(KurrentDBClientError):
                for number in range(1_000_000):
                    client.append_to_stream(
                        "kept",
                        current_version=3 * number - 1 if number else StreamState.NO_STREAM,
                        events=some_events(3, f"Batch{number}_"),
                    )
                    acknowledged.append(number)
                    if number == 20:
                        enough.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert enough.wait(120)
    server.kill()
    writer.join()
    server.start()

    with contextlib.closing(KurrentDBClient(server.url)) as client:
        recorded = client.get_stream("kept")
    assert [event.stream_position for event in recorded] == [*range(len(recorded))]
    assert len(recorded) % 3 == 0
    assert len(recorded) // 3 - len(acknowledged) in (0, 1)


def test_a_subscription_is_resumed_after_a_kill(server, client, some_events):
    events = some_events(3)
    client.append_to_stream("kept", current_version=StreamState.NO_STREAM, events=events)
    received = []

    with (
        pytest.raises(KurrentDBClientError),
        client.subscribe_to_all() as subscription,
    ):
        received += islice(subscription, 3)
        server.kill()
        next(subscription)

    server.start()
    more = some_events(2, "More")
    client.append_to_stream("kept", current_version=2, events=more)
    with client.subscribe_to_all(commit_position=received[-1].commit_position) as subscription:
        received += islice(subscription, 2)
    assert received == events + more


def test_persistent_subscriptions_are_there_after_a_kill(server, client, some_events, until, taken):
    events = some_events(5)
    client.append_to_stream("kept", current_version=StreamState.NO_STREAM, events=events)
    client.create_subscription_to_stream(
        "group", "kept", min_checkpoint_count=1, max_checkpoint_count=1, max_retry_count=7
    )
    client.create_subscription_to_all("group", filter_include=["Happened4"])
    with client.read_subscription_to_stream("group", "kept") as subscription:
        taken(1, subscription)
        subscription.nack(next(subscription), "park")
        taken(1, subscription)
        until(
            lambda: (
                client.get_subscription_info("group", "kept").last_checkpointed_event_position
                == "2"
            )
        )

    server.kill()
    server.start()

    info = client.get_subscription_info("group", "kept")
    assert (info.max_retry_count, info.parked_message_count) == (7, 1)
    client.replay_parked_events("group", "kept")
    with client.read_subscription_to_stream("group", "kept") as subscription:
        assert taken(3, subscription) == [events[1], *events[3:]]
    with client.read_subscription_to_all("group") as subscription:
        assert taken(1, subscription) == events[4:]


def test_changed_persistent_subscriptions_are_there_after_a_kill(server, client):
    client.create_subscription_to_all("kept")
    client.create_subscription_to_all("deleted")
    client.delete_subscription("deleted")

    server.kill()
    server.start()

    assert [info.group_name for info in client.list_subscriptions()] == ["kept"]
    client.update_subscription_to_all("kept", max_retry_count=3)

    server.kill()
    server.start()

    assert client.get_subscription_info("kept").max_retry_count == 3


def test_without_a_file_a_double_is_empty_again(connect, loop_thread, some_events):
    """The importable server, in this process."""

    async def started(**options):
        server = ProtocolServer(**options)
        await server.start()
        return server

    first = loop_thread.run(started)
    client = connect(first.url)
    client.append_to_stream("lost", current_version=StreamState.ANY, events=some_events(2))
    loop_thread.run(first.stop)
    second = loop_thread.run(lambda: started(port=first.port))

    with pytest.raises(NotFoundError):
        client.get_stream("lost")
    client.append_to_stream("lost", current_version=StreamState.ANY, events=NewEvent("New", b"{}"))
    loop_thread.run(second.stop)
