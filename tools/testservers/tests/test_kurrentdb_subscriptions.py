from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

import pytest
from estoria_testservers import fresh_name
from kurrentdbclient import NewEvent, NewRecord, StreamState
from kurrentdbclient.exceptions import (
    InvalidCommitPositionError,
    KurrentDBClientError,
    StreamIsDeletedError,
)


@pytest.fixture
def subscribe(client, stream):
    """Subscribes to all events, but the server sends only those of the test's own stream."""

    def subscribed(**options):
        return client.subscribe_to_all(
            filter_include=[stream], filter_by_stream_name=True, **options
        )

    return subscribed


def taken(count, subscription):
    return [*islice(subscription, count)]


def test_old_events_come_first_and_then_the_new_ones(client, stream, three, some_events, subscribe):
    with subscribe() as subscription:
        assert taken(3, subscription) == three
        more = some_events(2, "More")
        client.append_to_stream(stream, current_version=2, events=more)

        assert taken(2, subscription) == more


def test_a_subscription_to_all_leaves_system_events_out(client, stream, three, some_events):
    position = client.get_stream(stream)[0].commit_position

    with client.subscribe_to_all(commit_position=position) as subscription:
        assert taken(2, subscription) == three[1:]
        client.set_stream_metadata(stream, metadata={"foo": "bar"})
        more = some_events(1, "More")
        client.append_to_stream(stream, current_version=2, events=more)

        assert taken(1, subscription) == more


def test_a_subscription_without_a_filter_has_the_system_events_too(client, stream, three):
    position = client.get_stream(stream)[2].commit_position

    with client.subscribe_to_all(commit_position=position, filter_exclude=[]) as subscription:
        client.set_stream_metadata(stream, metadata={"foo": "bar"})

        [event] = taken(1, subscription)
    assert (event.type, event.stream_name) == ("$metadata", f"$${stream}")


def test_a_subscription_goes_on_behind_the_event_at_the_position(
    client, stream, three, some_events, subscribe
):
    with subscribe() as subscription:
        last = taken(2, subscription)[-1]

    with subscribe(commit_position=last.commit_position) as subscription:
        assert taken(1, subscription) == three[2:]
        more = some_events(3, "More")
        client.append_to_stream(stream, current_version=2, events=more)
        assert taken(3, subscription) == more


def test_a_subscription_from_a_position_where_no_event_stands_is_refused(client, stream, three):
    position = client.get_stream(stream)[1].commit_position + 1

    with pytest.raises(InvalidCommitPositionError):
        next(client.subscribe_to_all(commit_position=position))


def test_a_subscription_from_the_end_has_only_what_comes_later(
    client, stream, three, some_events, subscribe
):
    with subscribe(from_end=True) as subscription:
        more = some_events(1, "More")
        client.append_to_stream(stream, current_version=2, events=more)

        assert taken(1, subscription) == more


def test_a_position_is_stronger_than_the_end(client, stream, three, subscribe):
    position = client.get_stream(stream)[0].commit_position

    with subscribe(commit_position=position, from_end=True) as subscription:
        assert taken(2, subscription) == three[1:]


def test_a_subscription_can_be_stopped(three, subscribe):
    subscription = subscribe()

    next(subscription)
    subscription.stop()

    assert [*subscription] == []


def test_each_subscription_has_an_id_of_its_own(three, subscribe):
    with subscribe() as left, subscribe() as right:
        assert left.subscription_id
        assert left.subscription_id != right.subscription_id


def test_events_are_excluded_by_type(client, stream, three, some_events):
    position = client.get_stream(stream)[0].commit_position
    exclude = [r"\$.+", "Happened1", "More.*"]

    with client.subscribe_to_all(commit_position=position, filter_exclude=exclude) as subscription:
        assert taken(1, subscription) == three[2:]
        client.append_to_stream(stream, current_version=2, events=some_events(2, "More"))
        last = some_events(1, "Last")
        client.append_to_stream(stream, current_version=4, events=last)
        assert taken(1, subscription) == last


def test_being_caught_up_is_said_behind_the_old_events(client, stream, three, subscribe):
    before = datetime.now(UTC) - timedelta(seconds=1)
    head = client.get_commit_position(filter_exclude=[])

    with subscribe(include_caught_up=True) as subscription:
        *events, caught_up = taken(4, subscription)

    assert events == three
    assert caught_up.is_caught_up
    assert caught_up.commit_position >= head
    assert before < caught_up.recorded_at < datetime.now(UTC) + timedelta(seconds=1)


def test_falling_behind_is_said_and_then_being_caught_up_again(
    client, stream, three, some_events, subscribe
):
    """More events at once than a live subscription buffers."""
    many = some_events(100, "Many")

    with subscribe(include_caught_up=True, include_fell_behind=True) as subscription:
        assert taken(4, subscription)[-1].is_caught_up
        client.append_to_stream(stream, current_version=2, events=many)
        fell_behind, *events, caught_up = taken(102, subscription)

    assert fell_behind.is_fell_behind
    assert fell_behind.commit_position > 0
    assert events == many
    assert caught_up.is_caught_up


def test_checkpoints_show_how_far_the_filter_has_looked(client, stream, three, subscribe):
    foreign = fresh_name("foreign")
    events = [NewEvent("Foreign", b"{}") for _ in range(500)]
    with subscribe(
        from_end=True, include_checkpoints=True, window_size=10, checkpoint_interval_multiplier=5
    ) as subscription:
        client.append_to_stream(foreign, current_version=StreamState.ANY, events=events)
        checkpoints = taken(8, subscription)

    assert all(checkpoint.is_checkpoint for checkpoint in checkpoints)
    positions = [checkpoint.commit_position for checkpoint in checkpoints]
    assert positions == sorted(set(positions))
    with subscribe(commit_position=positions[-1]) as subscription:
        last = NewEvent("Last", b"{}")
        client.append_to_stream(stream, current_version=2, events=[last])
        assert taken(1, subscription) == [last]


def test_checkpoints_come_between_the_events(client, stream, three, subscribe):
    own = [NewRecord(stream, "Own", b"{}") for _ in range(2)]
    foreign = [NewRecord(fresh_name("foreign"), "Foreign", b"{}") for _ in range(25)]
    with subscribe(
        from_end=True, include_checkpoints=True, window_size=10, checkpoint_interval_multiplier=1
    ) as subscription:
        client.append_records([own[0], *foreign, own[1]])
        received = [*takewhile(lambda each: each.id != own[1].id, subscription)]

    received = received[[each.id for each in received].index(own[0].id) + 1 :]
    assert all(each.is_checkpoint for each in received)
    assert len(received) >= 2


def test_checkpoints_are_left_out_until_they_are_asked_for(client, stream, three, subscribe):
    with subscribe(window_size=1, checkpoint_interval_multiplier=1) as subscription:
        assert taken(3, subscription) == three


def test_a_stream_is_followed_from_its_beginning(client, stream, three, some_events):
    with client.subscribe_to_stream(stream) as subscription:
        assert taken(3, subscription) == three
        client.append_to_stream(
            f"{stream}_other", current_version=StreamState.ANY, events=some_events(1, "Other")
        )
        more = some_events(2, "More")
        client.append_to_stream(stream, current_version=2, events=more)
        assert taken(2, subscription) == more


def test_a_stream_is_followed_from_behind_a_position(client, stream, three):
    with client.subscribe_to_stream(stream, stream_position=1) as subscription:
        assert taken(1, subscription) == three[2:]


def test_a_stream_is_followed_from_its_end(client, stream, three, some_events):
    with client.subscribe_to_stream(stream, from_end=True) as subscription:
        more = some_events(1, "More")
        client.append_to_stream(stream, current_version=2, events=more)

        assert taken(1, subscription) == more


def test_a_stream_is_followed_before_it_exists(client, stream, some_events):
    with client.subscribe_to_stream(stream) as subscription:
        events = some_events(2)
        client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events)

        assert taken(2, subscription) == events


def test_being_caught_up_with_a_stream_is_said_with_its_version(client, stream, three, some_events):
    with client.subscribe_to_stream(
        stream, include_caught_up=True, include_fell_behind=True
    ) as subscription:
        *events, caught_up = taken(4, subscription)
        many = some_events(100, "Many")
        client.append_to_stream(stream, current_version=2, events=many)
        fell_behind, *later, again = taken(102, subscription)

    assert (events, later) == (three, many)
    assert caught_up.is_caught_up
    assert (caught_up.stream_position, caught_up.commit_position) == (2, 0)
    assert fell_behind.is_fell_behind
    assert fell_behind.stream_position == 2
    assert again.is_caught_up
    assert again.stream_position == 102


def test_a_stream_subscription_can_be_stopped(client, stream, three):
    subscription = client.subscribe_to_stream(stream)

    next(subscription)
    subscription.stop()

    assert [*subscription] == []


def test_a_tombstone_ends_a_stream_subscription(client, stream, three):
    with (
        pytest.raises(StreamIsDeletedError),
        client.subscribe_to_stream(stream) as subscription,
    ):
        assert taken(3, subscription) == three
        client.tombstone_stream(stream, current_version=2)
        next(subscription)


@pytest.mark.parametrize("resolve", [False, True])
def test_links_are_resolved_when_that_is_asked_for(client, stream, three, resolve):
    links = fresh_name("links")

    with client.subscribe_to_stream(links, resolve_links=resolve) as subscription:
        link = NewEvent("$>", f"1@{stream}".encode(), content_type="application/octet-stream")
        client.append_to_stream(links, current_version=StreamState.ANY, events=[link])
        [event] = taken(1, subscription)

    assert event == (three[1] if resolve else link)
    assert event.is_resolved_event == resolve


@pytest.mark.parametrize("prefix", ["", "$idx-"])
def test_an_index_is_followed_behind_a_position(client, stream, prefix):
    kind = fresh_name("Kind")
    events = [NewEvent(kind, b"{}"), NewEvent("Other", b"{}"), NewEvent(kind, b"{}")]
    client.append_to_stream(stream, current_version=StreamState.ANY, events=events)

    with client.subscribe_to_index(f"{prefix}et-{kind}") as subscription:
        first, last = taken(2, subscription)
    with client.subscribe_to_index(
        f"et-{kind}", commit_position=first.commit_position
    ) as subscription:
        assert [first, last] == [events[0], events[2]]
        assert taken(1, subscription) == [last]
        client.append_to_stream(stream, current_version=2, events=events[:1])
        assert taken(1, subscription) == events[:1]


def test_closing_a_client_ends_its_subscriptions(connect, shared_double, stream, three):
    closing = connect(shared_double.url)
    subscription = closing.subscribe_to_stream(stream)
    assert taken(3, subscription) == three

    closing.close()

    with pytest.raises((KurrentDBClientError, StopIteration)):
        next(subscription)
