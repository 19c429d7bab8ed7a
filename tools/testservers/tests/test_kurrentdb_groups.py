"""Persistent subscriptions: what is said about them, and how far they have come."""

import pytest

DEFAULTS = {
    "resolve_links": False,
    "consumer_strategy": "DispatchToSingle",
    "message_timeout": 30.0,
    "max_retry_count": 10,
    "min_checkpoint_count": 10,
    "max_checkpoint_count": 1000,
    "checkpoint_after": 2.0,
    "max_subscriber_count": 5,
    "live_buffer_size": 500,
    "read_batch_size": 200,
    "history_buffer_size": 500,
    "extra_statistics": False,
}
OTHERS = {
    "resolve_links": True,
    "consumer_strategy": "RoundRobin",
    "message_timeout": 15.0,
    "max_retry_count": 5,
    "min_checkpoint_count": 7,
    "max_checkpoint_count": 12,
    "checkpoint_after": 1.0,
    "max_subscriber_count": 10,
    "live_buffer_size": 300,
    "read_batch_size": 250,
    "history_buffer_size": 400,
    "extra_statistics": True,
}

pytestmark = pytest.mark.usefixtures("three")


def settings(info):
    return {name: getattr(info, name) for name in DEFAULTS}


def test_a_group_has_the_settings_of_the_readme(source):
    source.create()

    info = source.info()
    assert settings(info) == DEFAULTS
    assert info.group_name == source.group
    assert info.event_source == ("$all" if source.to_all else source.stream)
    assert info.start_from == ("C:0/P:0" if source.to_all else "0")
    assert info.connections == []
    assert info.parked_message_count == info.total_in_flight_messages == 0


def test_a_group_is_made_with_other_settings(source):
    source.create(**OTHERS)

    assert settings(source.info()) == OTHERS


def test_each_setting_is_changed_without_the_others(source):
    source.create()
    expected = dict(DEFAULTS)

    for name, value in OTHERS.items():
        source.update(**{name: value})
        expected[name] = value
        assert settings(source.info()) == expected

    assert source.info().start_from == ("C:0/P:0" if source.to_all else "0")


def test_the_start_is_changed_and_kept(source):
    source.create()
    option = source.start_at(1)
    [place] = option.values()
    at_one = f"C:{place}/P:{place}" if source.to_all else "1"
    end, start = ("C:-1/P:-1", "C:0/P:0") if source.to_all else ("-1", "0")

    for change, expected in [
        ({"from_end": True}, end),
        ({}, end),
        (option, at_one),
        ({}, at_one),
        ({"from_end": False}, start),
    ]:
        source.update(**change)
        assert source.info().start_from == expected


def test_consumers_are_told_of(source, three, taken):
    source.create()

    with source.read(event_buffer_size=10) as subscription:
        taken(3, subscription)
        source.wait_until_idle()
        [connection] = source.info().connections

    assert (connection.total_items, connection.in_flight_messages) == (3, 0)
    assert connection.available_slots == 10
    assert connection.connection_name
    assert connection.from_ == ""


def test_a_consumer_goes_by_the_name_of_its_connection(connect, shared_double, source):
    source.create()

    with source.read(connect(f"{shared_double.url}&ConnectionName=somebody")):
        [connection] = source.info().connections

    assert connection.connection_name == "somebody"


def test_groups_are_listed(client, group, stream):
    client.create_subscription_to_all(group)
    client.create_subscription_to_stream(f"{group}_a", stream)
    client.create_subscription_to_stream(f"{group}_b", stream)
    client.create_subscription_to_stream(group, f"{stream}_other")

    def listed(infos):
        return {(info.event_source, info.group_name) for info in infos}

    ours = {(stream, f"{group}_a"), (stream, f"{group}_b")}
    assert listed(client.list_subscriptions()) >= {
        *ours,
        ("$all", group),
        (f"{stream}_other", group),
    }
    assert listed(client.list_subscriptions_to_stream(stream)) == ours


def test_a_stream_without_groups_has_an_empty_list(client, stream):
    assert client.list_subscriptions_to_stream(stream) == []


def reached(source, number):
    """How the position of an event is written down."""
    [place] = source.start_at(number).values()
    return f"C:{place}/P:{place}" if source.to_all else str(number)


def test_what_was_acknowledged_is_kept_when_it_is_much(source, three, taken, until):
    source.create(min_checkpoint_count=1, max_checkpoint_count=3, checkpoint_after=3600)

    with source.read() as subscription:
        taken(2, subscription)
        until(lambda: source.info().total_in_flight_messages == 1)
        assert source.info().last_checkpointed_event_position == ""
        taken(1, subscription)
        until(lambda: source.info().last_checkpointed_event_position == reached(source, 2))
    assert source.info().last_known_event_position == reached(source, 2)


def test_what_was_acknowledged_is_kept_after_a_while(source, three, taken, until):
    source.create(min_checkpoint_count=2, max_checkpoint_count=1000, checkpoint_after=0.1)

    with source.read() as subscription:
        taken(2, subscription)
        until(lambda: source.info().last_checkpointed_event_position == reached(source, 1))


def test_what_was_not_acknowledged_holds_the_rest_back(source, three, until):
    source.create(min_checkpoint_count=1, max_checkpoint_count=1)

    with source.read(max_ack_batch_size=1) as subscription:
        first, second, third = (next(subscription) for _ in range(3))
        subscription.ack(second)
        subscription.ack(third)
        until(lambda: source.info().total_in_flight_messages == 1)
        assert source.info().last_checkpointed_event_position == ""
        subscription.ack(first)
        until(lambda: source.info().last_checkpointed_event_position == reached(source, 2))


def test_a_group_on_a_truncated_stream_begins_with_what_is_left(client, group, stream, taken):
    client.set_stream_metadata(stream, metadata={"$tb": 2})
    client.create_subscription_to_stream(group, stream)

    with client.read_subscription_to_stream(group, stream) as subscription:
        [event] = taken(1, subscription)

    assert event.stream_position == 2


def test_parking_and_replaying_is_seen_in_all_streams_only_as_system_events(
    client, source, three, until
):
    before = client.get_commit_position()
    source.create()
    with source.read() as subscription:
        subscription.nack(next(subscription), "park")
        until(lambda: source.info().parked_message_count == 1)

    assert client.get_commit_position() == before
