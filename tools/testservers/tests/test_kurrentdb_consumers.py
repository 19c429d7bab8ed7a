"""Persistent subscriptions: what consumers make of their events, and how they share them."""

from contextlib import ExitStack
from itertools import islice

import pytest
from kurrentdbclient import NewEvent, StreamState
from kurrentdbclient.exceptions import MaximumSubscriptionsReachedError

pytestmark = pytest.mark.usefixtures("three")


def test_an_acknowledged_event_is_not_sent_again(source, three, some_events, taken):
    source.create()
    with source.read() as subscription:
        taken(3, subscription)
        source.wait_until_idle()
    last = some_events(1, "Last")
    source.append(*last)

    with source.read() as subscription:
        assert taken(1, subscription) == last


def test_an_event_is_acknowledged_by_its_id(source, three):
    source.create()

    with source.read() as subscription:
        for event in islice(subscription, 3):
            subscription.ack(event.ack_id)
        source.wait_until_idle()

    assert source.info().retry_buffer_count == 0


def test_what_a_consumer_leaves_behind_is_sent_to_the_next(source, three, taken):
    source.create()
    with source.read() as subscription:
        taken(1, subscription)
        next(subscription)

    with source.read() as subscription:
        events = taken(2, subscription)

    assert events == three[1:]
    assert [event.retry_count for event in events] == [1, 1]


@pytest.mark.parametrize("action", ["retry", "unknown"])
def test_an_event_is_retried_when_that_is_asked_for(source, three, taken, action):
    source.create()

    with source.read() as subscription:
        event = next(subscription)
        while event.retry_count < 3:
            assert event == three[0] or event.retry_count == 0
            if event == three[0]:
                subscription.nack(event, action)
            else:
                subscription.ack(event)
            event = next(subscription)

    assert event == three[0]


def test_a_skipped_event_is_neither_sent_again_nor_parked(source, three, some_events, taken):
    source.create()
    with source.read() as subscription:
        for event in islice(subscription, 3):
            subscription.nack(event, "skip")
        source.wait_until_idle()
    assert source.info().parked_message_count == 0
    last = some_events(1, "Last")
    source.append(*last)

    with source.read() as subscription:
        assert taken(1, subscription) == last


def test_a_parked_event_is_sent_again_when_it_is_replayed(source, three, until, taken):
    source.create()

    with source.read() as subscription:
        taken(1, subscription)
        subscription.nack(next(subscription), "park")
        taken(1, subscription)
        until(lambda: source.info().parked_message_count == 1)
        source.replay_parked()
        [event] = taken(1, subscription)
        source.wait_until_idle()

    assert event == three[1]
    assert event.is_resolved_event
    assert event.link.is_link_event
    assert event.ack_id == event.link.id != event.id
    assert source.info().parked_message_count == 0


def test_a_replayed_event_can_be_parked_again(source, three, until):
    source.create()

    with source.read() as subscription:
        subscription.nack(next(subscription), "park")
        for event in islice(subscription, 2):
            subscription.ack(event)
        for _ in range(2):
            until(lambda: source.info().parked_message_count == 1)
            source.replay_parked()
            event = next(subscription)
            assert event == three[0]
            subscription.nack(event, "park")
        until(lambda: source.info().parked_message_count == 1)


def test_parked_events_are_links_in_a_stream_of_their_own(client, source, three, until):
    source.create()
    with source.read() as subscription:
        subscription.nack(next(subscription), "park")
        until(lambda: source.info().parked_message_count == 1)

    where = "$all" if source.to_all else source.stream
    [link] = client.get_stream(f"$persistentsubscription-{where}::{source.group}-parked")
    assert link.is_link_event
    assert link.data == f"0@{source.stream}".encode()


def test_a_stopped_event_is_not_dealt_with(source, three, until, taken):
    source.create()
    with source.read() as subscription:
        subscription.nack(next(subscription), "stop")
        taken(2, subscription)
        until(lambda: source.info().total_in_flight_messages == 1)

    with source.read() as subscription:
        assert taken(1, subscription) == three[:1]


def test_an_event_is_parked_after_its_last_retry(source, three, until):
    source.create(max_retry_count=2)
    counts = []

    with source.read(event_buffer_size=1) as subscription:
        for event in subscription:
            if event != three[0]:
                subscription.ack(event)
                break
            counts.append(event.retry_count)
            subscription.nack(event, "retry")
        until(lambda: source.info().parked_message_count == 1)

    assert counts == [0, 1, 2]
    assert event == three[1]


def test_a_consumer_retries_and_parks_by_a_policy(source, three, until):
    """The consumer of the client's README, which gives an event up after five retries."""
    source.create()
    acked, nacked = {}, {}

    with source.read() as subscription:
        for event in subscription:
            if event != three[1]:
                subscription.ack(event)
                acked[event.id] = event.retry_count
            elif event.retry_count < 5:
                subscription.nack(event, "retry")
                nacked[event.id] = event.retry_count
            else:
                subscription.nack(event, "park")
                nacked[event.id] = event.retry_count
                subscription.stop()
        until(lambda: source.info().parked_message_count == 1)

    assert acked == {three[0].id: 0, three[2].id: 0}
    assert nacked == {three[1].id: 5}


def test_an_event_that_is_not_answered_in_time_is_sent_again(source, three):
    source.create(message_timeout=0.5)

    with source.read(event_buffer_size=1, max_ack_batch_size=1) as subscription:
        first, again = islice(subscription, 2)

    assert [first, again] == [three[0], three[0]]
    assert (first.retry_count, again.retry_count) == (0, 1)


def test_an_event_that_is_never_answered_is_parked(source, three, until):
    source.create(message_timeout=0.1, max_retry_count=2)

    with source.read(event_buffer_size=1) as subscription:
        counts = [event.retry_count for event in islice(subscription, 3)]
        until(lambda: source.info().parked_message_count >= 1)

    assert counts == [0, 1, 2]


def test_a_consumer_holds_no_more_than_it_has_room_for(source, three, taken, until):
    source.create()

    with source.read(event_buffer_size=2) as subscription:
        assert source.info().total_in_flight_messages == 2
        taken(1, subscription)
        until(lambda: source.info().total_items == 3)
        assert source.info().total_in_flight_messages == 2


def test_more_consumers_than_allowed_are_refused(source, until):
    source.create(max_subscriber_count=2)

    with source.read() as left:
        with source.read():
            with pytest.raises(MaximumSubscriptionsReachedError):
                source.read()
            assert len(source.info().connections) == 2
        until(lambda: len(source.info().connections) == 1)
        source.read().stop()
        assert left.subscription_id


@pytest.fixture
def readers(source):
    """Several consumers of one group, which wait for events."""
    with ExitStack() as stack:

        def reading(count, room, **options):
            source.create(from_end=True, **options)
            return [stack.enter_context(source.read(event_buffer_size=room)) for _ in range(count)]

        yield reading


def in_flight(source, count, until):
    """Wait until so many events are with consumers, and count each one's."""
    until(lambda: source.info().total_in_flight_messages == count)
    return [connection.in_flight_messages for connection in source.info().connections]


def test_one_consumer_is_filled_before_the_next(source, readers, some_events, until, taken):
    first, second = readers(2, room=2, consumer_strategy="DispatchToSingle")
    events = some_events(3, "More")

    source.append(*events)

    assert in_flight(source, 3, until) == [2, 1]
    assert taken(2, first) == events[:2]
    assert taken(1, second) == events[2:]


def test_consumers_take_turns(source, readers, some_events, until, taken):
    first, second = readers(2, room=10, consumer_strategy="RoundRobin")
    events = some_events(6, "More")

    source.append(*events)

    assert in_flight(source, 6, until) == [3, 3]
    assert taken(3, first) == events[::2]
    assert taken(3, second) == events[1::2]


def test_a_consumer_without_room_misses_its_turn(source, readers, some_events, until):
    readers(2, room=2, consumer_strategy="RoundRobin")

    source.append(*some_events(5, "More"))

    assert in_flight(source, 4, until) == [2, 2]


def test_a_stream_is_pinned_to_a_consumer(client, group, stream, some_events, taken, until):
    names = [f"{stream}_{n}" for n in range(4)]
    client.create_subscription_to_all(
        group,
        from_end=True,
        consumer_strategy="Pinned",
        filter_include=[f"{stream}_.*"],
        filter_by_stream_name=True,
    )

    with (
        client.read_subscription_to_all(group) as first,
        client.read_subscription_to_all(group) as second,
    ):
        for event in some_events(3):
            for name in names:
                client.append_to_stream(
                    name, current_version=StreamState.ANY, events=NewEvent(event.type, b"{}")
                )
        until(lambda: client.get_subscription_info(group).total_in_flight_messages == 12)
        shares = [
            [event.stream_name for event in taken(6, subscription)]
            for subscription in (first, second)
        ]

    assert all(share.count(name) in (0, 3) for share in shares for name in names)
    assert not {*shares[0]} & {*shares[1]}


def test_a_correlation_is_pinned_to_a_consumer(client, source, readers, taken, until):
    first, second = readers(2, room=10, consumer_strategy="PinnedByCorrelation")
    events = [
        NewEvent("Correlated", b"{}", b'{"$correlationId": "%d"}' % (n % 2)) for n in range(6)
    ]

    source.append(*events)

    until(lambda: source.info().total_in_flight_messages == 6)
    shares = [{event.metadata for event in taken(3, each)} for each in (first, second)]
    assert [len(share) for share in shares] == [1, 1]
    assert shares[0] != shares[1]


def test_a_pinned_stream_moves_when_its_consumer_leaves(source, readers, some_events, until, taken):
    first, second = readers(2, room=10, consumer_strategy="Pinned")
    events = some_events(2, "More")
    source.append(*events)
    until(lambda: source.info().total_in_flight_messages == 2)
    shares = [connection.in_flight_messages for connection in source.info().connections]
    holder, other = (first, second) if shares == [2, 0] else (second, first)

    holder.__exit__(None, None, None)

    assert taken(2, other) == events
