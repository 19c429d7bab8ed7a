"""One server with the records of many: whose are read, in which order, up to where."""

import asyncio
import json
import os
from uuid import uuid4

import pytest
from estoria_testservers import fresh_name
from kurrentdbclient import NewEvent as Proposal
from kurrentdbclient import StreamState

from estoria.core import Expect, NewEvent, StreamNotFoundError, TypeID
from estoria.core.testing import new_events, versions, written
from estoria.kurrentdb import KurrentDBEventStore, LegacyTransactionError, NodeBehindError

pytestmark = pytest.mark.anyio

RECORDS = int(os.environ.get("ESTORIA_KURRENTDB_RECORDS", "20000"))
ONE_IN = 1_000


def foreign(number, type="PageRead"):
    """Records of an application that knows nothing of this library."""
    return [Proposal(type, b'{"page": 7}', b'{"by": "somebody"}') for _ in range(number)]


async def put(client, stream, records):
    await client.append_to_stream(stream, events=records, current_version=StreamState.ANY)


async def positions(store, **options):
    return [event.global_position for event in await store.read_all(**options).collect()]


async def test_two_applications_and_a_foreign_one_on_one_server(
    kurrentdb_server, with_prefix, connect, client
):
    """Each store gives its own, of one and the same aggregate id too, and nobody sees another's."""
    url = kurrentdb_server.url
    one, two = fresh_name("one"), fresh_name("two")
    async with (
        connect(with_prefix(url, one)) as first,
        connect(with_prefix(url, two)) as second,
        connect(url) as bare,
    ):
        stream_id = TypeID.new("account")
        head = await bare.head_position()
        mine = {store: [] for store in (first, second, bare)}
        for turn in range(3):
            for store, kept in mine.items():
                events = await store.append_stream(stream_id, new_events(2), expect=turn * 2)
                kept.extend(events)
                await put(client, f"pages-{uuid4()}", foreign(3))
                await put(client, f"{one}.account-{uuid4()}", foreign(1))

        for store, kept in mine.items():
            assert kept == await store.read_stream(stream_id).collect()
            everything = await store.read_all(after_position=head).collect()
            assert kept == [event for event in everything if event.stream_id == stream_id]
            if store is not bare:
                assert kept == everything
                assert kept == await store.read_all().collect()

        await first.truncate_stream(stream_id, 4)
        assert await versions(first, stream_id) == [5, 6]
        assert await versions(second, stream_id) == [1, 2, 3, 4, 5, 6]
        other = await written(second)
        for store in (first, bare):
            with pytest.raises(StreamNotFoundError):
                await store.read_stream(other).collect()


LOOKALIKES = [
    "account_{uuid}x",
    "account_{uuid}.account",
    "ACCOUNT_{UUID}",
    "account-{uuid}",
    "account_{short}",
    "_account_{uuid}",
    "account__{uuid}",
    "_{uuid}",
    "{uuid}",
    "account_{uuid}\n",
]


@pytest.mark.parametrize("prefix", ["", "shop"])
async def test_names_that_only_look_like_ours_are_left_out(
    kurrentdb_server, with_prefix, connect, client, prefix
):
    """A name counts when it is what an id of this store would be written as, to the letter."""
    start = ""
    url = kurrentdb_server.url
    if prefix:
        start = f"{fresh_name(prefix)}."
        url = with_prefix(url, start[:-1])
    async with connect(url) as store:
        head = await store.head_position()
        uuid = str(uuid4())
        for form in LOOKALIKES:
            name = form.format(uuid=uuid, UUID=uuid.upper(), short=uuid[:-1])
            await put(client, start + name, foreign(1))
        if start:
            await put(client, f"account_{uuid}", foreign(1))
            await put(client, f"x{start}account_{uuid}", foreign(1))
            await put(client, f"{start[:-1]}xaccount_{uuid}", foreign(1))
        await client.set_stream_metadata(f"{start}account_{uuid4()}", metadata={"color": "red"})
        stream_id = await written(store, events=1)

        seen = await store.read_all(after_position=head).collect()

        assert [event.stream_id for event in seen] == [stream_id]


async def test_what_another_client_writes_to_a_stream_of_ours_is_read(store, client, prefix_of):
    """Typed as it stands there, with the server's clock, and metadata that are no text as JSON."""
    stream_id = await written(store, events=1)
    name = f"{prefix_of(store)}{stream_id}"
    metadata = {"text": "a", "number": 1, "none": None, "list": [1, "b"], "$correlationId": "c"}
    bare = Proposal("bare", b"\x00", content_type="application/octet-stream")
    await put(client, name, [Proposal("rich", b"{}", json.dumps(metadata).encode()), bare])

    _, rich, poor = await store.read_stream(stream_id).collect()

    assert rich.metadata == {
        "text": "a",
        "number": "1",
        "none": "null",
        "list": '[1, "b"]',
        "$correlationId": "c",
    }
    assert poor.metadata == {}
    assert (poor.data, poor.data_content_type) == (b"\x00", "application/octet-stream")
    assert (rich.type, rich.data_content_type) == ("rich", "application/json")
    assert all(event.timestamp.utcoffset().total_seconds() == 0 for event in (rich, poor))
    assert [rich, poor] == (await store.read_all().collect())[1:]


@pytest.fixture
def prefix_of(url):
    """What stands before the ids of `store` in the names of its streams."""
    return lambda _store: url.rpartition("prefix=")[2] + "."


async def test_a_read_ends_where_the_head_was_when_it_opened(store, client):
    """However many are written while it is drained, by whomever."""
    first = await written(store, events=2_500)
    async with store.read_all() as events:
        seen = [await anext(events)]
        await written(store, events=2_500)
        await put(client, f"pages-{uuid4()}", foreign(2_500))
        async for event in events:
            seen.append(event)
            if len(seen) % 500 == 0:
                await store.append_stream(first, new_events(1))
    assert [event.stream_version for event in seen] == list(range(1, 2_501))
    assert {event.stream_id for event in seen} == {first}

    async with store.read_all(after_position=await store.head_position()) as events:
        await written(store, events=1)
        assert [event async for event in events] == []


async def test_the_head_is_the_last_record_of_all(store, client):
    """Also a foreign one, since none of ours will ever stand below it."""
    await written(store, events=1)
    head = await store.head_position()
    await put(client, f"pages-{uuid4()}", foreign(1))
    assert await store.head_position() > head
    head = await store.head_position()
    (event,) = await store.append_stream(TypeID.new("account"), new_events(1))
    assert event.global_position > head


async def test_a_reader_under_load_sees_each_event_once_and_in_order(url, connect, store, client):
    """Restarted again and again from where it was, beside writers of all sorts."""
    written_ones, done = [], asyncio.Event()

    async def write():
        stream_id = TypeID.new("account")
        for turn in range(25):
            expect = Expect.ANY if turn % 3 else Expect.STREAM_EXISTS
            batch = new_events(turn % 4 + 1)
            written_ones.extend(
                await store.append_stream(stream_id, batch, expect=expect if turn else 0)
            )

    async def write_foreign():
        for _ in range(40):
            await put(client, f"pages-{uuid4()}", foreign(5))

    async def tail():
        seen, last, is_over = [], 0, False
        while not is_over:
            is_over = done.is_set()
            async with connect(url) as reader:
                batch = await reader.read_all(after_position=last, count=17).collect()
            seen += batch
            if batch:
                last, is_over = batch[-1].global_position, False
        return seen

    tailing = asyncio.ensure_future(tail())
    await asyncio.gather(*(write() for _ in range(4)), write_foreign())
    done.set()
    seen = await tailing

    # As bools: pytest would compare long lists line by line.
    is_same = sorted(written_ones, key=lambda e: e.global_position) == seen
    assert is_same


async def test_any_position_resumes(store, client):
    """The server reads from records only; between two of them it is asked from one before."""
    events = []
    stream_id = TypeID.new("account")
    for _ in range(4):
        events += await store.append_stream(stream_id, new_events(2))
        await put(client, f"pages-{uuid4()}", foreign(2))
    everything = [event.global_position for event in events]
    for position in everything:
        for after in (position - 7, position - 1, position, position + 1, position + 13):
            due = [each for each in everything if each > after]
            assert due == await positions(store, after_position=after)
            assert due[:2] == await positions(store, after_position=after, count=2)
    beyond = await store.head_position()
    assert await positions(store, after_position=beyond + 10**9) == []


async def test_any_position_resumes_in_a_store_that_has_read_nothing(url, connect, store):
    """It knows no record to start from but the first of all."""
    stream_id = await written(store, events=3)
    (first, *_) = await store.read_stream(stream_id).collect()
    for after in (1, first.global_position - 1, first.global_position + 1):
        async with connect(url) as fresh:
            found = await fresh.read_all(after_position=after).collect()
            assert [e.stream_version for e in found] == [1, 2, 3][after > first.global_position :]


async def test_between_two_records_a_read_starts_at_the_nearest_that_is_known(doubled, control):
    """Not at the first of all, which may lie far back."""
    await written(doubled, events=300)
    known = await doubled.head_position()
    await written(doubled, events=3)
    control.clear()

    assert len(await positions(doubled, after_position=known + 1)) == 3

    assert control.messages()["Read"] < 10


async def test_a_position_whose_record_is_scavenged_resumes(doubled, control):
    """Nothing stands there any more, also where something was known to stand."""
    stream_id = await written(doubled, events=6)
    events = await doubled.read_all().collect()
    await doubled.truncate_stream(stream_id, 4)
    assert await positions(doubled) in ([e.global_position for e in events[n:]] for n in (0, 4))
    assert control.scavenge() > 0

    for event in events:
        due = [e.global_position for e in events[4:] if e.global_position > event.global_position]
        assert due == await positions(doubled, after_position=event.global_position)


async def test_a_node_that_is_behind_fails_the_read(doubled, control):
    """A page that ends too early would be taken for the end of all."""
    stream_id = await written(doubled, events=4_500)
    async with doubled.read_all() as events:
        seen = [await anext(events)]
        control.lag(100)
        with pytest.raises(NodeBehindError) as caught:
            async for event in events:
                seen.append(event)
        assert caught.value.head < caught.value.frontier
    assert len(seen) < 4_400
    control.lag(0)
    rest = await doubled.read_all(after_position=seen[-1].global_position).collect()
    assert [e.stream_version for e in (*seen, *rest)] == await versions(doubled, stream_id)


async def test_a_node_that_is_behind_gives_what_it_has(doubled, control):
    """A read that opens there ends where the node does."""
    await written(doubled, events=5)
    whole = await positions(doubled)
    control.lag(2)
    assert await doubled.head_position() == whole[-3]
    assert await positions(doubled) == whole[:-2]
    assert await positions(doubled, after_position=whole[-1]) == []


async def test_records_of_a_legacy_transaction_fail_closed(doubled, double_url, control):
    """They share a position, which then tells no order and can't be resumed from."""
    prefix = double_url.rpartition("prefix=")[2]
    stream_id = await written(doubled, events=1)
    control.legacy_transaction(f"{prefix}.{stream_id}", ["a", "b", "c"])
    for read in (
        doubled.read_stream(stream_id),
        doubled.read_stream(stream_id, reverse=True),
        doubled.read_all(),
    ):
        with pytest.raises(LegacyTransactionError) as caught:
            await read.collect()
        assert str(stream_id) in str(caught.value)


async def test_a_foreign_legacy_transaction_is_nobody_s_trouble(doubled, control):
    """It is left out before anybody looks at its position."""
    control.legacy_transaction("orders-1", ["a", "b"])
    await written(doubled, events=2)
    assert [e.stream_version for e in await doubled.read_all().collect()] == [1, 2]


async def test_filters_run_in_the_server(doubled, double_url, open_client, control):
    """Ours are one in a thousand: what crosses the wire are ours, and a page's first word."""
    ours = TypeID.new("account")
    head = await doubled.head_position()
    due = []
    async with open_client(double_url.partition("?")[0] + "?Tls=false") as client:
        for _ in range(RECORDS // ONE_IN):
            await put(client, f"pages-{uuid4()}", foreign(ONE_IN - 1))
            due += await doubled.append_stream(ours, new_events(1), expect=len(due))
    for after in (head, 0):
        control.clear()

        seen = await doubled.read_all(after_position=after).collect()

        is_same = due == seen
        assert is_same
        pages = control.calls()["Read"]
        assert pages <= 2 * (len(due) // 1_000 + 2)
        assert control.messages()["Read"] <= len(due) + 2 * pages


@pytest.mark.parametrize(
    ("filters", "crossing"),
    [
        ({}, 6),
        ({"stream_types": ["order"]}, 2),
        ({"stream_types": ["order", "account"]}, 6),
        ({"event_types": ["opened"]}, None),
        ({"stream_types": ["order"], "event_types": ["opened"]}, 2),
        ({"stream_types": ["it's (odd) [a-z]* \\d"]}, 0),
    ],
    ids=str,
)
async def test_of_both_filters_the_server_applies_that_of_streams(
    doubled, control, filters, crossing
):
    """The protocol has one filter for each read; the other one is applied to what is left."""
    due = []
    for stream_type in ("account", "order", "account_order"):
        for type in ("opened", "closed"):
            (event,) = await doubled.append_stream(TypeID.new(stream_type), [NewEvent(type, b"")])
            if stream_type in filters.get("stream_types", [stream_type]) and type in filters.get(
                "event_types", [type]
            ):
                due.append(event)
    control.clear()

    assert due == await doubled.read_all(**filters).collect()

    if crossing is not None:
        assert control.messages()["Read"] - 1 <= crossing


async def test_without_a_prefix_event_types_are_filtered_by_the_server(
    double_server, connect, control
):
    """Foreign records of such a type cross the wire, and go no further."""
    async with connect(double_server.url) as bare:
        type = fresh_name("opened")
        for each in (type, "closed", f"{type}2", f"re{type}"):
            await bare.append_stream(TypeID.new("account"), [NewEvent(each, b"")])
        control.clear()

        found = await bare.read_all(event_types=[type]).collect()

        assert [event.type for event in found] == [type]
        assert control.messages()["Read"] == 2


async def test_truncation_keeps_what_others_put_into_the_metadata(store, client, prefix_of):
    """It is one key among others."""
    stream_id = await written(store, events=5)
    name = f"{prefix_of(store)}{stream_id}"
    await client.set_stream_metadata(name, metadata={"$maxCount": 100, "color": {"of": "roof"}})

    await store.truncate_stream(stream_id, 3)

    metadata, _ = await client.get_stream_metadata(name)
    assert metadata == {"$maxCount": 100, "color": {"of": "roof"}, "$tb": 3}


async def test_truncation_is_compare_and_set(doubled, double_url, open_client, control):
    """What somebody else changes in between is not lost, and a truncation is never undone."""
    stream_id = await written(doubled, events=9)
    name = f"{double_url.rpartition('prefix=')[2]}.{stream_id}"
    async with open_client(double_url.partition("?")[0] + "?Tls=false") as client:
        before = control.calls().get("BatchAppend", 0)
        control.inject("BatchAppend", delay=1.0)
        truncation = asyncio.ensure_future(doubled.truncate_stream(stream_id, 3))
        async with asyncio.timeout(30):
            while True:
                await asyncio.sleep(0.01)
                if control.calls().get("BatchAppend", 0) > before:
                    break
        await client.set_stream_metadata(name, metadata={"$tb": 5, "color": "red"})
        await truncation

        metadata, _ = await client.get_stream_metadata(name)
    assert metadata == {"$tb": 5, "color": "red"}
    assert await versions(doubled, stream_id) == [6, 7, 8, 9]


async def test_truncations_of_many_at_once_end_at_the_highest(store):
    """Whichever comes last."""
    stream_id = await written(store, events=9)
    await asyncio.gather(*(store.truncate_stream(stream_id, n) for n in (2, 7, 1, 5, 6)))
    assert await versions(store, stream_id) == [8, 9]


async def test_a_max_count_of_somebody_else_s_is_a_truncation(
    store, client, prefix_of, url, connect
):
    """The first version says so, in reading and in appending."""
    stream_id = await written(store, events=9)
    name = f"{prefix_of(store)}{stream_id}"
    await client.set_stream_metadata(name, metadata={"$maxCount": 3})
    async with store.read_stream(stream_id) as events:
        assert (events.stream.version, events.stream.first_version) == (9, 7)
        assert [event.stream_version async for event in events] == [7, 8, 9]
    async with store.read_stream(stream_id, after_version=8) as events:
        assert (events.stream.version, events.stream.first_version) == (9, 7)
    async with connect(url) as other:
        for expect in (9, Expect.ANY):
            appended = await other.append_stream(stream_id, new_events(1), expect=expect)
            assert appended.stream.first_version == appended.stream.version - 2


async def test_a_second_store_is_told_of_nothing_by_the_first(store, url, connect):
    """Whatever one remembers, the server decides: stores in different processes agree."""
    async with connect(url) as other:
        assert isinstance(other, KurrentDBEventStore)
        stream_id = await written(store, events=2)
        await other.append_stream(stream_id, new_events(2), expect=2)
        await other.truncate_stream(stream_id, 3)
        appended = await store.append_stream(stream_id, new_events(2))
        assert [event.stream_version for event in appended] == [5, 6]
        assert await versions(store, stream_id) == [4, 5, 6]
