import pytest
from estoria_testservers import fresh_name
from kurrentdbclient import (
    DEFAULT_EXCLUDE_FILTER,
    KDB_PERSISTENT_CONFIG_EVENTS_REGEX,
    KDB_SYSTEM_EVENTS_REGEX,
    NewEvent,
    StreamState,
)
from kurrentdbclient.exceptions import InvalidCommitPositionError, NotFoundError


@pytest.fixture
def five(client, stream, some_events):
    events = some_events(5)
    client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events)
    return events


@pytest.fixture
def two_streams(client, some_events):
    """Names and recorded events of two streams, whose events alternate."""
    names = [fresh_name("left"), fresh_name("right")]
    for event in some_events(4, fresh_name("Alternated")):
        client.append_to_stream(names[0], current_version=StreamState.ANY, events=event)
        names.reverse()
    events = sorted(
        (event for name in names for event in client.get_stream(name)),
        key=lambda event: event.commit_position,
    )
    return names, events


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"stream_position": 1}, [1, 2, 3, 4]),
        ({"stream_position": 4}, [4]),
        ({"stream_position": 5}, []),
        ({"limit": 2}, [0, 1]),
        ({"stream_position": 1, "limit": 2}, [1, 2]),
        ({"backwards": True}, [4, 3, 2, 1, 0]),
        ({"backwards": True, "stream_position": 1}, [1, 0]),
        ({"backwards": True, "stream_position": 9}, [4, 3, 2, 1, 0]),
        ({"backwards": True, "limit": 1}, [4]),
        ({"backwards": True, "stream_position": 2, "limit": 2}, [2, 1]),
    ],
    ids=str,
)
@pytest.mark.parametrize("whole", [True, False], ids=["get_stream", "read_stream"])
def test_a_stream_is_read_from_a_position_on(client, stream, five, options, expected, whole):
    read = client.get_stream if whole else client.read_stream

    assert [*read(stream, **options)] == [five[n] for n in expected]


def test_a_stream_that_never_existed_is_not_found(client, stream):
    with pytest.raises(NotFoundError):
        client.get_stream(stream)


def test_a_missing_stream_is_not_found_by_reading_on_but_by_the_first_step(client, stream):
    response = client.read_stream(stream)

    with pytest.raises(NotFoundError):
        next(response)


def test_reading_a_stream_can_be_stopped(client, stream, five):
    response = client.read_stream(stream)

    assert next(response) == five[0]
    response.stop()
    assert [*response] == []


def test_reading_a_stream_ends_with_its_context(client, stream, five):
    with client.read_stream(stream) as response:
        assert next(response) == five[0]

    assert [*response] == []


def test_the_current_version_is_the_position_of_the_last_event(client, stream, five):
    assert client.get_current_version(stream) == 4


def test_the_current_version_of_a_missing_stream_is_none(client, stream):
    assert client.get_current_version(stream) is StreamState.NO_STREAM


def test_all_events_are_read_in_the_order_of_their_positions(client, two_streams):
    _, events = two_streams

    everything = [*client.read_all()]

    assert everything[-4:] == events
    positions = [event.commit_position for event in everything]
    assert positions == sorted(set(positions))


def test_reading_forwards_begins_with_the_event_at_the_position(client, two_streams):
    _, events = two_streams

    assert [*client.read_all(commit_position=events[1].commit_position)] == events[1:]


def test_reading_backwards_begins_before_the_event_at_the_position(client, two_streams):
    _, events = two_streams

    with client.read_all(backwards=True, commit_position=events[2].commit_position) as response:
        assert [next(response), next(response)] == [events[1], events[0]]


def test_reading_backwards_begins_with_the_last_event(client, two_streams):
    _, events = two_streams

    assert [*client.read_all(backwards=True, limit=4)] == events[::-1]


def test_a_position_where_no_event_stands_is_refused(client, two_streams):
    _, events = two_streams

    with pytest.raises(InvalidCommitPositionError):
        next(client.read_all(commit_position=events[1].commit_position + 1))


def test_reading_everything_can_be_stopped(client, two_streams):
    response = client.read_all()

    next(response)
    response.stop()
    assert [*response] == []


@pytest.mark.parametrize("backwards", [False, True])
def test_event_types_are_included_by_expressions_that_match_the_whole(client, stream, backwards):
    kind = fresh_name("Kind")
    events = [NewEvent(kind + rest, b"{}") for rest in ("", "A", "AB", "C")]
    client.append_to_stream(stream, current_version=StreamState.ANY, events=events)

    def types(*include):
        found = client.read_all(filter_include=include, backwards=backwards)
        return sorted(event.type.removeprefix(kind) for event in found)

    assert types(kind) == [""]
    assert types(kind + "C", kind) == ["", "C"]
    assert types(kind + "A.*") == ["A", "AB"]
    assert types(kind + "Z") == []


def test_what_one_filter_includes_the_other_excludes(client, two_streams):
    _, events = two_streams
    expressions = (events[0].type, f".*{events[2].type[-6:]}")
    start = events[0].commit_position

    included = [*client.read_all(commit_position=start, filter_include=expressions)]
    excluded = [*client.read_all(commit_position=start, filter_exclude=expressions)]

    assert included == [events[0], events[2]]
    assert [event for event in excluded if not event.is_system_event] == [events[1], events[3]]


def test_streams_are_filtered_by_their_names(client, two_streams):
    (left, right), events = two_streams

    def read(**options):
        start = events[0].commit_position
        found = client.read_all(commit_position=start, filter_by_stream_name=True, **options)
        return [event.stream_name for event in found]

    assert read(filter_include=[left]) == [left] * 2
    assert read(filter_include=[left[:-1] + ".*"]) == [left] * 2
    assert read(filter_exclude=[left, r"\$.+"]) == [right] * 2


def test_the_limit_counts_what_the_filter_lets_through(client, two_streams):
    (left, _), events = two_streams

    found = client.read_all(filter_include=[left], filter_by_stream_name=True, limit=2)

    assert [*found] == [event for event in events if event.stream_name == left]


def test_the_filter_is_applied_in_the_server(client, control, two_streams):
    (left, _), _ = two_streams
    control.clear()

    assert len([*client.read_all(filter_include=[left], filter_by_stream_name=True)]) == 2

    assert control.messages()["Read"] == 2


def test_system_events_are_left_out_until_they_are_asked_for(client, two_streams):
    assert not any(event.is_system_event for event in client.read_all())
    assert any(event.is_system_event for event in client.read_all(filter_exclude=[]))
    assert {*DEFAULT_EXCLUDE_FILTER} > {
        KDB_SYSTEM_EVENTS_REGEX,
        KDB_PERSISTENT_CONFIG_EVENTS_REGEX,
    }
    system = [*client.read_all(filter_include=[KDB_SYSTEM_EVENTS_REGEX])]
    assert system
    assert all(event.is_system_event for event in system)


def test_the_commit_position_is_that_of_the_last_event(client, stream, five):
    assert client.get_commit_position() == client.get_stream(stream)[-1].commit_position


def test_the_commit_position_is_looked_for_with_a_filter(client, two_streams):
    (left, right), events = two_streams

    def position(**options):
        return client.get_commit_position(filter_by_stream_name=True, **options)

    assert position(filter_include=[left]) == max(
        event.commit_position for event in events if event.stream_name == left
    )
    assert position(filter_exclude=[right, r"\$.+"]) == position(filter_include=[left])
    assert position(filter_include=[fresh_name("nobody")]) == 0


@pytest.mark.parametrize("resolve", [False, True])
def test_links_are_resolved_when_that_is_asked_for(client, stream, five, resolve):
    links = fresh_name("links")
    link = NewEvent("$>", f"3@{stream}".encode(), content_type="application/octet-stream")
    client.append_to_stream(links, current_version=StreamState.ANY, events=[link])

    [event] = client.get_stream(links, resolve_links=resolve)

    if resolve:
        assert event == five[3]
        assert (event.stream_name, event.stream_position) == (stream, 3)
        assert event.is_resolved_event
        assert event.link == link
        assert event.link.stream_name == links
        assert event.ack_id == link.id
    else:
        assert event == link
        assert event.is_link_event
        assert event.data == f"3@{stream}".encode()


def test_links_are_resolved_in_reading_everything(client, stream, five):
    links = fresh_name("links")
    link = NewEvent("$>", f"0@{stream}".encode(), content_type="application/octet-stream")
    client.append_to_stream(links, current_version=StreamState.ANY, events=[link])

    [event] = client.read_all(
        filter_include=[links], filter_by_stream_name=True, resolve_links=True
    )

    assert event == five[0]


@pytest.mark.parametrize("prefix", ["", "$idx-"])
def test_an_index_holds_the_events_of_one_type(client, stream, some_events, prefix):
    kind = fresh_name("Kind")
    events = [NewEvent(kind, b"{}"), NewEvent("Other", b"{}"), NewEvent(kind, b"{}")]
    client.append_to_stream(stream, current_version=StreamState.ANY, events=events)

    found = [*client.read_index(f"{prefix}et-{kind}")]

    assert found == [events[0], events[2]]
    assert [*client.read_index(f"et-{kind}", commit_position=found[1].commit_position)] == found[1:]
    assert [*client.read_index(f"et-{kind}", limit=1)] == found[:1]


def test_an_index_holds_the_events_of_one_category(client, some_events):
    category = fresh_name("category")
    streams = [f"{category}-1", f"{category}-2", f"{category}2-1"]
    for name, event in zip(streams, some_events(3), strict=True):
        client.append_to_stream(name, current_version=StreamState.ANY, events=event)

    found = client.read_index(f"ce-{category}")

    assert [event.stream_name for event in found] == streams[:2]
