"""Persistent subscriptions: making and unmaking them, and what their consumers are sent."""

import pytest
from estoria_testservers import fresh_name
from kurrentdbclient import NewEvent, StreamState
from kurrentdbclient.exceptions import (
    AlreadyExistsError,
    InternalError,
    KurrentDBClientError,
    NotFoundError,
    ProgrammingError,
)

pytestmark = pytest.mark.usefixtures("three")


def test_a_group_is_sent_the_old_events_and_then_the_new_ones(source, three, some_events, taken):
    source.create()

    with source.read() as subscription:
        assert taken(3, subscription) == three
        more = some_events(2, "More")
        source.append(*more)
        assert taken(2, subscription) == more


def test_an_event_says_that_it_was_not_retried(source, taken):
    source.create()

    with source.read() as subscription:
        [event] = taken(1, subscription)

    assert event.retry_count == 0
    assert event.commit_position == source.client.get_stream(source.stream)[0].commit_position


def test_a_group_begins_with_the_event_at_the_position(source, three, taken):
    source.create(**source.start_at(1))

    with source.read() as subscription:
        assert taken(2, subscription) == three[1:]


def test_a_group_from_the_end_is_sent_what_comes_later(source, some_events, taken):
    source.create(from_end=True)
    more = some_events(2, "More")
    source.append(*more)

    with source.read() as subscription:
        assert taken(2, subscription) == more


def test_a_group_on_a_stream_that_does_not_exist_waits_for_it(client, group, some_events, taken):
    stream = fresh_name("later")
    client.create_subscription_to_stream(group, stream)

    with client.read_subscription_to_stream(group, stream) as subscription:
        events = some_events(2)
        client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events)
        assert taken(2, subscription) == events


def test_a_group_to_all_leaves_system_events_out(client, group, stream, three, some_events, taken):
    client.create_subscription_to_all(group, from_end=True)

    with client.read_subscription_to_all(group) as subscription:
        client.set_stream_metadata(stream, metadata={"foo": "bar"})
        more = some_events(1, "More")
        client.append_to_stream(stream, current_version=2, events=more)
        assert taken(1, subscription) == more


def test_a_group_to_all_without_a_filter_has_the_system_events_too(
    client, group, stream, three, taken
):
    position = client.get_stream(stream)[2].commit_position
    client.create_subscription_to_all(group, commit_position=position, filter_exclude=[])

    with client.read_subscription_to_all(group) as subscription:
        last, config = taken(2, subscription)

    assert last == three[2]
    assert config.type.startswith("PersistentConfig")


@pytest.mark.parametrize("how", ["include", "exclude"])
@pytest.mark.parametrize("by_name", [True, False])
def test_a_group_to_all_has_a_filter(client, group, how, by_name, taken):
    kind, stream = fresh_name("Kind"), fresh_name("stream")
    expression = (stream if by_name else kind) + "A"
    events = {end: NewEvent(kind + end, b"{}") for end in "AB"}
    client.create_subscription_to_all(
        group,
        from_end=True,
        filter_by_stream_name=by_name,
        **{f"filter_{how}": [expression, r"\$.+"] if how == "exclude" else [expression]},
    )

    with client.read_subscription_to_all(group) as subscription:
        for end, event in events.items():
            client.append_to_stream(stream + end, current_version=StreamState.ANY, events=event)
        if how == "include":
            assert taken(1, subscription) == [events["A"]]
        else:
            # By name the type isn't looked at, and the record that the group was made by is seen.
            found = next(event for event in subscription if not event.type.startswith("Pers"))
            assert found == events["B"]


def test_creating_a_group_does_not_move_the_commit_position(client, source):
    before = client.get_commit_position()

    source.create()

    assert client.get_commit_position() == before


def test_a_group_is_made_once(source):
    source.create()

    with pytest.raises(AlreadyExistsError):
        source.create()


def test_a_name_is_free_on_another_stream(client, group, stream, three):
    client.create_subscription_to_stream(group, stream)
    client.create_subscription_to_stream(group, f"{stream}_other")
    client.create_subscription_to_all(group)

    assert client.get_subscription_info(group, stream).event_source == stream
    assert client.get_subscription_info(group).event_source == "$all"


@pytest.mark.parametrize("call", ["update", "read", "info", "delete"])
def test_a_group_that_does_not_exist_is_not_found(source, call):
    with pytest.raises(NotFoundError):
        getattr(source, call)()


def test_parked_events_of_a_missing_group_are_not_replayed(client, group, stream):
    with pytest.raises(NotFoundError):
        client.replay_parked_events(group)
    with pytest.raises(NotFoundError):
        client.replay_parked_events(group, stream)


@pytest.mark.parametrize(
    "wrong", [{"history_buffer_size": 100}, {"consumer_strategy": "NoSuchStrategy"}], ids=str
)
def test_settings_that_make_no_sense_are_refused(source, wrong):
    with pytest.raises(InternalError):
        source.create(**wrong)

    with pytest.raises(NotFoundError):
        source.info()


def test_a_deleted_group_is_gone(client, source):
    source.create()

    source.delete()

    with pytest.raises(NotFoundError):
        source.info()
    with pytest.raises(NotFoundError):
        source.delete()
    assert source.group not in [info.group_name for info in client.list_subscriptions()]


def test_a_group_that_is_made_again_begins_again(source, three, taken):
    source.create(min_checkpoint_count=1, max_checkpoint_count=1)
    with source.read() as subscription:
        assert taken(3, subscription) == three
        source.wait_until_idle()

    source.delete()
    source.create()

    with source.read() as subscription:
        assert taken(3, subscription) == three


@pytest.mark.parametrize("what", ["delete", "update"])
def test_consumers_of_a_group_that_changes_are_dropped(client, group, stream, what, taken):
    client.create_subscription_to_stream(group, stream)

    with (
        pytest.raises(KurrentDBClientError),
        client.read_subscription_to_stream(group, stream) as subscription,
    ):
        taken(3, subscription)
        if what == "delete":
            client.delete_subscription(group, stream)
        else:
            client.update_subscription_to_stream(group, stream)
        next(subscription)


def test_a_group_is_moved_to_the_end(source, three, some_events, taken):
    source.create()
    source.update(from_end=True)
    more = some_events(1, "More")
    source.append(*more)

    with source.read() as subscription:
        assert taken(1, subscription) == more


def test_a_group_is_moved_back_to_a_position(source, three, taken):
    source.create(from_end=True)
    source.update(**source.start_at(1))

    with source.read() as subscription:
        assert taken(2, subscription) == three[1:]


def test_an_update_of_other_settings_lets_a_group_go_on(source, three, some_events, taken):
    source.create()
    more = some_events(1, "More")
    with source.read() as subscription:
        assert taken(3, subscription) == three
        source.wait_until_idle()

    source.update(max_retry_count=5)
    source.append(*more)

    with source.read() as subscription:
        assert taken(1, subscription) == more


@pytest.mark.parametrize("resolve", [False, True])
def test_links_are_resolved_when_that_is_asked_for(client, group, stream, three, resolve, taken):
    links = fresh_name("links")
    link = NewEvent("$>", f"1@{stream}".encode(), content_type="application/octet-stream")
    client.append_to_stream(links, current_version=StreamState.ANY, events=[link])
    client.create_subscription_to_stream(group, links, resolve_links=resolve)

    with client.read_subscription_to_stream(group, links) as subscription:
        [event] = taken(1, subscription)

    assert event == (three[1] if resolve else link)
    assert event.ack_id == link.id


def test_a_subscription_knows_its_group(source):
    source.create()

    with source.read() as subscription:
        where = "$all" if source.to_all else source.stream
        assert subscription.subscription_id == f"{where}::{source.group}"


def test_a_subscription_can_be_stopped(source):
    source.create()
    subscription = source.read()

    subscription.stop()

    assert [*subscription] == []
    with pytest.raises(ProgrammingError):
        subscription.ack(NewEvent("Any", b"").id)
    with pytest.raises(ProgrammingError):
        subscription.nack(NewEvent("Any", b"").id, "retry")


def test_a_subscription_is_stopped_within_its_context(source, three):
    source.create()

    with source.read() as subscription:
        events = []
        for event in subscription:
            events.append(event)
            subscription.ack(event)
            if event == three[1]:
                subscription.stop()

    assert events == three[:2]
