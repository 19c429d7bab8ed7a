"""The switch of the test double: what goes wrong when it is asked to, and only then."""

from contextlib import closing
from itertools import islice

import pytest
from estoria_testservers import kurrentdb_double, start_kurrentdb
from kurrentdbclient import NewEvents, NewRecord, StreamState
from kurrentdbclient.exceptions import (
    AbortedByServerError,
    ConsumerTooSlowError,
    DeadlineExceededError,
    ExceptionThrownByHandlerError,
    FailedPreconditionError,
    GrpcDeadlineExceededError,
    InternalError,
    KurrentDBClientError,
    NotFoundError,
    ServiceUnavailableError,
    UnauthenticatedError,
    UnknownError,
)


def append_one(client, stream, events):
    return client.append_to_stream(stream, current_version=StreamState.ANY, events=events[0])


def append_batch(client, stream, events):
    return client.append_to_stream(stream, current_version=StreamState.ANY, events=events)


def append_session(client, stream, events):
    return client.multi_append_to_stream(NewEvents(stream, events, StreamState.ANY))


def append_records(client, stream, events):
    records = [NewRecord(stream, each.type, each.data, id=each.id) for each in events]
    return client.append_records(records).commit_position


APPENDS = [append_one, append_batch, append_session, append_records]


@pytest.fixture(params=APPENDS, ids=lambda append: append.__name__)
def append(request):
    return request.param


@pytest.fixture
def method(append, client):
    """The call behind an append; the async client has its own mind about single events."""
    if append is append_one:
        return "Append" if "Async" not in type(client).__name__ else "BatchAppend"
    return {
        append_batch: "BatchAppend",
        append_session: "AppendSession",
        append_records: "AppendRecords",
    }[append]


def test_a_call_that_fails_once_is_tried_again(
    client, control, stream, some_events, append, method
):
    control.inject(method, status="UNAVAILABLE", details="for a moment")

    at = append(client, stream, some_events(2))

    assert control.calls()[method] == 2
    assert client.get_stream(stream)[-1].commit_position == at


def test_a_call_that_fails_again_and_again_is_an_error(
    client, control, stream, some_events, append, method
):
    control.inject(method, times=20, status="UNAVAILABLE", details="for long")

    with pytest.raises(ServiceUnavailableError):
        append(client, stream, some_events(2))

    control.clear()
    assert client.get_current_version(stream) is StreamState.NO_STREAM


def test_an_answer_that_is_lost_does_not_double_an_append(
    client, control, stream, some_events, append, method
):
    control.inject(method, performed=True, status="UNAVAILABLE", details="it was written")

    at = append(client, stream, some_events(2))

    assert control.calls()[method] == 2
    recorded = client.get_stream(stream)
    assert len(recorded) == (1 if append is append_one else 2)
    assert recorded[-1].commit_position == at


def test_a_dropped_answer_is_waited_for_and_does_not_double_an_append(
    client, control, stream, some_events, append, method
):
    control.inject(method, performed=True, status="CANCELLED")

    at = append(_WithOptions(client, {"timeout": 2}), stream, some_events(2))

    assert control.calls()[method] == 2
    recorded = client.get_stream(stream)
    assert len(recorded) == (1 if append is append_one else 2)
    assert recorded[-1].commit_position == at


def test_a_dropped_answer_leaves_the_events_written(client, control, stream, some_events):
    control.inject("BatchAppend", times=2, performed=True, status="CANCELLED")

    with pytest.raises(DeadlineExceededError):
        append_batch(_WithOptions(client, {"timeout": 2}), stream, some_events(2))

    assert client.get_current_version(stream) == 1


class _WithOptions:
    """A client whose calls all get these options."""

    def __init__(self, client, options):
        self._client, self._options = client, options

    def __getattr__(self, name):
        def call(*args, **options):
            return getattr(self._client, name)(*args, **options, **self._options)

        return call


def test_a_delay_lets_a_deadline_pass(client, control, stream, some_events, append, method):
    control.inject(method, times=2, delay=30)

    with pytest.raises(GrpcDeadlineExceededError):
        append(_WithOptions(client, {"timeout": 0.5}), stream, some_events(2))

    assert client.get_current_version(stream) is StreamState.NO_STREAM


def test_writing_has_the_deadline_of_the_connection(connect, shared_double, control, stream):
    client = connect(f"{shared_double.url}&DefaultDeadline=1")
    control.inject("Tombstone", times=2, delay=60)

    with pytest.raises(GrpcDeadlineExceededError):
        client.tombstone_stream(stream, current_version=StreamState.ANY)


def test_a_delay_alone_changes_nothing_else(client, control, stream, some_events):
    control.inject("BatchAppend", delay=0.05)
    events = some_events(2)

    append_batch(client, stream, events)

    assert [*client.get_stream(stream)] == events
    assert control.calls()["BatchAppend"] == 1


def test_the_nth_call_is_struck_and_no_other(client, control, stream, some_events):
    control.inject("BatchAppend", nth=3, status="UNAVAILABLE")

    for number in range(4):
        append_batch(client, stream, some_events(2, f"Round{number}_"))
        assert control.calls()["BatchAppend"] == number + 1 + (number >= 2)

    assert len(client.get_stream(stream)) == 8


def test_so_many_calls_are_struck(client, control, stream, some_events):
    append_batch(client, stream, some_events(2))
    control.inject("Read", nth=2, times=2, status="INTERNAL", details="broken")

    for expected in [None, InternalError, InternalError, None]:
        response = client.read_stream(stream)
        if expected is None:
            assert len([*response]) == 2
        else:
            with pytest.raises(expected):
                next(response)


def test_a_fault_of_one_method_leaves_the_others_alone(client, control, stream, some_events):
    control.inject("Read", times=20, status="UNAVAILABLE")

    append_batch(client, stream, some_events(2))

    control.clear()
    assert len(client.get_stream(stream)) == 2


@pytest.mark.parametrize(
    ("status", "details", "error"),
    [
        ("UNKNOWN", "Exception was thrown by handler.", ExceptionThrownByHandlerError),
        ("UNKNOWN", "something", UnknownError),
        ("ABORTED", "Consumer too slow to handle event", ConsumerTooSlowError),
        ("ABORTED", "something", AbortedByServerError),
        ("CANCELLED", "something", KurrentDBClientError),
        ("DEADLINE_EXCEEDED", "something", GrpcDeadlineExceededError),
        ("UNAUTHENTICATED", "something", UnauthenticatedError),
        ("UNAVAILABLE", "something", ServiceUnavailableError),
        ("NOT_FOUND", "something", NotFoundError),
        ("FAILED_PRECONDITION", "something", FailedPreconditionError),
        ("INTERNAL", "something", InternalError),
    ],
)
def test_a_status_is_what_the_client_is_told(
    client, control, stream, some_events, status, details, error
):
    append_batch(client, stream, some_events(2))
    control.inject("Read", status=status, details=details)

    with pytest.raises(error):
        next(client.read_stream(stream))


def test_a_denial_is_what_the_client_is_told(client, control, stream, denied):
    control.inject("Read", status="PERMISSION_DENIED", details="something")

    with pytest.raises(denied):
        next(client.read_stream(stream))


@pytest.mark.parametrize("what", ["read_stream", "subscribe_to_stream"])
def test_reading_breaks_off_after_so_many_messages(client, control, stream, some_events, what):
    events = some_events(5)
    append_batch(client, stream, events)
    confirmation = what == "subscribe_to_stream"
    control.inject("Read", messages=2 + confirmation, status="ABORTED", details="too slow")
    received = []

    with pytest.raises(AbortedByServerError):
        for event in getattr(client, what)(stream):
            received.append(event)

    # The async client forgets what it has received but not yet handed out.
    assert received == events[: len(received)]
    assert len(received) <= 2


def test_getting_a_stream_is_tried_again_and_reading_it_is_not(
    client, control, stream, some_events
):
    events = some_events(5)
    append_batch(client, stream, events)
    control.inject("Read", messages=2, status="UNAVAILABLE")
    assert [*client.get_stream(stream)] == events

    control.inject("Read", messages=2, status="UNAVAILABLE")
    with pytest.raises(ServiceUnavailableError):
        [*client.read_stream(stream)]


def test_a_subscription_that_is_not_confirmed_is_tried_again(client, control, stream, some_events):
    events = some_events(2)
    append_batch(client, stream, events)
    control.inject("Read", status="UNAVAILABLE")

    with client.subscribe_to_stream(stream) as subscription:
        assert [*islice(subscription, 2)] == events


def test_a_persistent_subscription_breaks_off(client, control, group, stream, some_events, taken):
    events = some_events(3)
    append_batch(client, stream, events)
    client.create_subscription_to_stream(group, stream)
    control.inject("Persistent.Read", messages=1, status="ABORTED", details="too slow")

    with (
        pytest.raises(AbortedByServerError),
        client.read_subscription_to_stream(group, stream, stopping_grace=0) as subscription,
    ):
        taken(3, subscription)

    with client.read_subscription_to_stream(group, stream) as subscription:
        assert {event.id for event in taken(3, subscription)} == {event.id for event in events}


@pytest.mark.parametrize("how", ["delete_stream", "tombstone_stream"])
def test_deleting_is_tried_again(client, control, stream, some_events, how):
    append_batch(client, stream, some_events(2))
    method = "Delete" if how == "delete_stream" else "Tombstone"
    control.inject(method, status="UNAVAILABLE")

    getattr(client, how)(stream, current_version=1)

    assert control.calls()[method] == 2


def test_calls_and_messages_are_counted(client, control, stream, some_events):
    append_batch(client, stream, some_events(5))
    client.get_stream(stream)
    client.get_stream(stream, limit=2)

    assert control.calls() == {"BatchAppend": 1, "Read": 2}
    assert control.messages() == {"Read": 7}


def test_a_node_that_lags_behind_misses_the_last_records(client, control, stream, some_events):
    events = some_events(5)
    append_batch(client, stream, events)

    def in_all():
        return [*client.read_all(filter_include=[stream], filter_by_stream_name=True)]

    control.lag(2)
    assert in_all() == events[:3]
    control.lag(0)
    assert in_all() == events


def test_a_legacy_transaction_is_one_position(connect, fresh_server, stream):
    """On a server of its own, since what is shared may rely on positions that differ."""
    server = fresh_server(start_kurrentdb, kurrentdb_double())
    with closing(server.control()) as control:
        control.legacy_transaction(stream, ["First", "Second", "Third"])

    recorded = connect(server.url).get_stream(stream)
    assert [event.type for event in recorded] == ["First", "Second", "Third"]
    assert len({event.commit_position for event in recorded}) == 1
    assert len({event.prepare_position for event in recorded}) == 3


@pytest.mark.parametrize("wrong", [{"method": "Reed"}, {"method": "Read", "status": "BAD"}])
def test_a_fault_that_can_not_happen_is_refused(control, wrong):
    with pytest.raises(ValueError, match="no such"):
        control.inject(**wrong)
