"""Positions are a stable prefix, whatever slow and dead writers do: every interleaving by hand."""

import asyncio
import logging
import sys
from pathlib import Path

import pytest
from estoria_testservers import start_mongodb
from pymongo import AsyncMongoClient

from estoria.core import StreamVersionMismatchError, TransactionAbortedError, TypeID
from estoria.core.testing import new_events, versions, written
from estoria.mongodb import MongoEventStore, _frontier, _schema

pytestmark = pytest.mark.anyio

PROGRAMS = Path(__file__).with_name("programs.py")
FOR_EVER = 3_600.0


@pytest.fixture
def make(client, mongodb_database, laid_out, layout):
    """Makes a store of the same data, of so much patience."""
    return lambda patience, client=client: MongoEventStore(
        client, mongodb_database, layout=layout, patience=patience
    )


@pytest.fixture
def patient(make):
    """Reads, and gives up on nobody."""
    return make(FOR_EVER)


@pytest.fixture
def impatient(make):
    """Reads, and waits for nobody."""
    return make(0)


@pytest.fixture
def slow(make, proxied):
    """A writer behind a proxy."""
    return make(FOR_EVER, proxied)


@pytest.fixture
def clock(monkeypatch):
    """The clock of the readers' patience; `clock(seconds)` moves it on."""
    now = [1_000.0]
    monkeypatch.setattr(_frontier, "monotonic", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


@pytest.fixture
def counter(client, mongodb_database):
    """The counter's document, and a way to set it."""
    counters = client[mongodb_database][_schema.COUNTERS]

    async def counter(value=None):
        if value is not None:
            await counters.update_one({"_id": "numbers"}, {"$set": {"value": value}})
        return (await counters.find_one({"_id": "numbers"}))["value"]

    return counter


@pytest.fixture
def hold(proxy, slow, layout):
    """Begins an append that has its number, and whose insert is held back."""
    # What claims the number: nothing of it has come to the server.
    match = b"the slow one" if layout.only else b"\x02insert\x00\x0b\x00\x00\x00_positions"

    async def hold(stream_id=None, **options):
        fault = proxy.hold_request(match)
        batch = new_events(1, type="the slow one")
        append = asyncio.ensure_future(
            slow.append_stream(stream_id or TypeID.new("slow"), batch, **options)
        )
        await asyncio.to_thread(fault.wait)
        return fault, append

    return hold


async def positions(store, **options):
    return [event.global_position for event in await store.read_all(**options).collect()]


async def test_nothing_above_an_append_under_way_is_read(laid_out, patient, slow, hold):
    """A takes a number and is slow, B takes the next and is done: the wrong way skips A."""
    before = await written(laid_out, events=1)
    fault, append = await hold()
    (b,) = await laid_out.append_stream(TypeID.new("fast"), new_events(1))

    assert [event.stream_id for event in await patient.read_all().collect()] == [before]
    assert await patient.head_position() < b.global_position

    fault.release()
    (a,) = await append
    assert a.global_position < b.global_position
    assert [a, b] == (await patient.read_all().collect())[1:]
    assert await patient.head_position() >= b.global_position


async def test_the_first_of_all_is_held_back_too(laid_out, patient, hold):
    """Nothing is stored yet, and the first number is taken."""
    assert await patient.head_position() == 0
    fault, append = await hold()
    assert await patient.head_position() == 0
    await written(laid_out, events=2)

    assert await patient.head_position() == 0
    assert await positions(patient) == []

    fault.release()
    await append
    assert len(await positions(patient)) == 3


async def test_a_fence_that_wins_sends_the_writer_for_a_new_number(laid_out, impatient, hold):
    """The reader goes on at once; the append comes later, once, above what was read."""
    fault, append = await hold()
    (b,) = await laid_out.append_stream(TypeID.new("fast"), new_events(1))

    assert [b] == await impatient.read_all().collect()
    head = await impatient.head_position()

    fault.release()
    (a,) = await append
    assert a.global_position > head >= b.global_position
    assert [b, a] == await impatient.read_all().collect()
    assert await versions(laid_out, a.stream_id) == [1]


async def test_a_fence_that_loses_finds_what_won(laid_out, make, proxy, mongodb_server, hold):
    """The reader decides to fence; before its stub gets there, the writer's insert does."""
    async with AsyncMongoClient(proxy.url(mongodb_server.url)) as other:
        reader = make(0, other)
        await reader.head_position()
        fault, append = await hold()
        (b,) = await laid_out.append_stream(TypeID.new("fast"), new_events(1))
        fence = proxy.hold_request(b"ordered\x00\x00")
        reading = asyncio.ensure_future(reader.read_all().collect())
        await asyncio.to_thread(fence.wait)
        fault.release()
        (a,) = await append
        fence.release()

        assert [a, b] == await reading


async def test_patience_is_what_a_reader_waits(laid_out, make, hold, clock):
    """A gap is given up only once it was seen for so long; by this reader."""
    reader = make(0.3)
    fault, append = await hold()
    (b,) = await laid_out.append_stream(TypeID.new("fast"), new_events(1))
    assert await positions(reader) == []
    clock(0.25)
    assert await positions(reader) == []

    clock(0.1)

    assert await positions(reader) == [b.global_position]
    fault.release()
    await append


async def test_a_new_gap_has_patience_of_its_own(laid_out, make, hold, clock):
    """That an old one was given up says nothing about the next."""
    reader = make(0.3)
    first, one = await hold()
    (b,) = await laid_out.append_stream(TypeID.new("fast"), new_events(1))
    assert await positions(reader) == []
    clock(0.35)
    second, two = await hold()
    await written(laid_out, events=1)

    assert await positions(reader) == [b.global_position]

    for fault, append in ((first, one), (second, two)):
        fault.release()
        await append
    assert len(await positions(reader)) == 4


async def test_a_fence_refuses_no_version(laid_out, impatient, slow, hold):
    """The writer was given a version by what it read; its second attempt keeps it."""
    stream_id = await written(laid_out, events=3)
    await versions(slow, stream_id)
    fault, append = await hold(stream_id, expect=3)
    await written(laid_out, events=1)
    await impatient.head_position()
    fault.release()

    (event,) = await append

    assert event.stream_version == 4


async def test_a_writer_overtaken_between_tip_and_insert_goes_on(laid_out, patient, slow, hold):
    """Both saw the tip 1; the slow one's claim on 2 is refused, and its number filled."""
    stream_id = await written(laid_out, events=1)
    await versions(slow, stream_id)
    fault, append = await hold(stream_id)
    (fast,) = await laid_out.append_stream(stream_id, new_events(1), expect=1)
    fault.release()

    (late,) = await append

    assert (fast.stream_version, late.stream_version) == (2, 3)
    assert fast.global_position < late.global_position
    assert [fast, late] == (await patient.read_all().collect())[1:]


async def test_a_writer_overtaken_with_an_exact_version_is_refused(laid_out, patient, slow, hold):
    """With the true version; nobody waits for the number that it took."""
    stream_id = await written(laid_out, events=1)
    await versions(slow, stream_id)
    fault, append = await hold(stream_id, expect=1)
    await laid_out.append_stream(stream_id, new_events(1), expect=1)
    fault.release()

    with pytest.raises(StreamVersionMismatchError) as caught:
        await append
    assert caught.value.actual == 2
    after = await laid_out.append_stream(TypeID.new("fast"), new_events(1))
    assert (await patient.read_all().collect())[2:] == after


async def test_a_deletion_refuses_what_is_on_its_way(laid_out, slow, hold):
    """It retires the version that the insert claims."""
    stream_id = await written(laid_out, events=2)
    await versions(slow, stream_id)
    fault, append = await hold(stream_id, expect=2)
    await laid_out.delete_stream(stream_id)
    fault.release()

    with pytest.raises(StreamVersionMismatchError) as caught:
        await append
    assert caught.value.actual == 0


async def test_an_open_transaction_holds_back_what_lies_above(laid_out, patient, impatient, client):
    """No fence gets past it, and no reader waits for it; the commit shows all."""
    (below,) = await laid_out.append_stream(TypeID.new("fast"), new_events(1))
    async with client.start_session() as session:
        await session.start_transaction()
        (a,) = await laid_out.within(session).append_stream(TypeID.new("slow"), new_events(1))
        (b,) = await laid_out.append_stream(TypeID.new("fast"), new_events(1))
        async with asyncio.timeout(10):
            for reader in (patient, impatient, laid_out):
                assert [below] == await reader.read_all().collect()
                assert await reader.head_position() < a.global_position
        await session.commit_transaction()
    assert [below, a, b] == await impatient.read_all().collect()


async def test_a_rolled_back_transaction_leaves_a_gap_that_is_closed_at_once(laid_out, client):
    """By the store that took its numbers; any other waits for its patience."""
    async with client.start_session() as session:
        await session.start_transaction()
        await laid_out.within(session).append_stream(TypeID.new("slow"), new_events(1))
        (b,) = await laid_out.append_stream(TypeID.new("fast"), new_events(1))
        assert await positions(laid_out) == []
        await session.abort_transaction()
    assert await positions(laid_out) == [b.global_position]


async def test_a_transaction_whose_number_was_given_up_is_aborted(laid_out, impatient, client):
    """The reader came between the number and the insert: run it again."""
    stream_id = TypeID.new("slow")
    async with client.start_session() as session:
        await session.start_transaction()
        inside = laid_out.within(session)
        insert = laid_out._appends.transactions.put

        async def put(documents, session):
            laid_out._appends.transactions.put = insert
            await written(laid_out, events=1)
            await impatient.head_position()
            await insert(documents, session)

        laid_out._appends.transactions.put = put
        with pytest.raises(TransactionAbortedError):
            await inside.append_stream(stream_id, new_events(1))
        await session.abort_transaction()
        await session.start_transaction()
        await inside.append_stream(stream_id, new_events(1))
        await session.commit_transaction()
    assert [e.stream_id for e in await impatient.read_all().collect()][1:] == [stream_id]


async def test_a_transaction_that_appends_twice_holds_its_first_number(laid_out, client):
    """The second append must not let readers pass the first."""
    stream_id = TypeID.new("slow")
    async with client.start_session() as session:
        await session.start_transaction()
        inside = laid_out.within(session)
        first = await inside.append_stream(stream_id, new_events(1))
        between = await laid_out.append_stream(TypeID.new("fast"), new_events(1))
        second = await inside.append_stream(stream_id, new_events(1))
        after = await laid_out.append_stream(TypeID.new("fast"), new_events(1))
        assert await positions(laid_out) == []
        await session.commit_transaction()
    assert [*first, *between, *second, *after] == await laid_out.read_all().collect()


async def test_while_one_is_open_all_others_go_on(laid_out, client):
    """Writers of other streams, and readers up to the gap, wait for nothing."""
    below = await laid_out.append_stream(TypeID.new("fast"), new_events(2))
    async with client.start_session() as session:
        await session.start_transaction()
        (a,) = await laid_out.within(session).append_stream(TypeID.new("slow"), new_events(1))
        others = [TypeID.new("fast") for _ in range(10)]
        async with asyncio.timeout(10):
            for _ in range(2):
                await asyncio.gather(*(laid_out.append_stream(o, new_events(2)) for o in others))
                assert below == await laid_out.read_all().collect()
                assert await versions(laid_out, others[0], reverse=True)
                await laid_out.truncate_stream(others[1], 1)
            await laid_out.delete_stream(others[2])
        await session.commit_transaction()
    seen = await laid_out.read_all(after_position=below[-1].global_position).collect()
    assert seen[0] == a
    assert len(seen) == 1 + 10 * 4 - 4 - 1


async def test_filters_stop_at_the_same_place(laid_out, patient, slow, hold):
    """Also when nothing of the slow append would pass them."""
    fault, append = await hold()
    (b,) = await laid_out.append_stream(TypeID.new("fast"), new_events(1, type="b"))
    assert await positions(patient, stream_types=["fast"]) == []
    assert await positions(patient, event_types=["b"]) == []
    assert await positions(patient, count=1) == []
    fault.release()
    await append
    assert await positions(patient, event_types=["b"]) == [b.global_position]


async def test_a_later_page_doesn_t_pass_the_frontier_of_the_first(laid_out, patient, hold):
    """What is inserted between two pages is for the next read."""
    for _ in range(3):
        await written(laid_out, events=900)
    fault, append = await hold()
    await written(laid_out, events=1)
    async with patient.read_all() as events:
        await anext(events)
        fault.release()
        (a,) = await append
        seen = [event.global_position async for event in events]

    assert len(seen) == 2_699
    assert seen[-1] < a.global_position


async def test_a_counter_that_was_set_back_gives_no_number_twice(laid_out, impatient, counter):
    """By a failover, which may lose it, or a restored backup: what is stored decides."""
    streams = [await written(laid_out, events=1) for _ in range(5)]
    head = await impatient.head_position()
    await counter(1)

    (a,) = await laid_out.append_stream(TypeID.new("new"), new_events(1))
    (b,) = await laid_out.append_stream(streams[0], new_events(1), expect=1)

    assert a.global_position > head
    assert b.global_position > head
    assert len(set(await positions(impatient))) == 7


async def test_a_counter_that_leapt_ahead_is_caught_up_with(laid_out, impatient, counter):
    """Thousands of numbers that nobody will use, fenced some at a time."""
    await written(laid_out, events=1)
    await counter(await counter() + 2_500)
    (b,) = await laid_out.append_stream(TypeID.new("fast"), new_events(1))
    for _ in range(5):
        found = await positions(impatient)
    assert found[-1] == b.global_position


async def test_positions_of_a_stream_grow_though_the_counter_was_set_back(laid_out, counter):
    """A number below the stream's tip is never used for its next version."""
    stream_id = await written(laid_out, events=1)
    for _ in range(3):
        await written(laid_out, events=1)
    (second,) = await laid_out.append_stream(stream_id, new_events(1))
    await counter(await counter() + 10)
    (third,) = await laid_out.append_stream(stream_id, new_events(1))
    # Free numbers lie between the two.
    await counter((second.global_position >> 20) + 2)

    (fourth,) = await laid_out.append_stream(stream_id, new_events(1), expect=3)

    assert fourth.global_position > third.global_position


async def test_a_reader_that_may_not_write_stops_and_says_so_once(fresh_server, layout, caplog):
    """At a gap that nobody closes; streams it reads as ever."""
    server = fresh_server(start_mongodb, password="right")
    with server.client() as admin:
        admin["estoria"].command("createUser", "reader", pwd="r", roles=["read"])
    reader_url = server.url.replace("root:right@", "reader:r@").replace("/?", "/estoria?")
    async with AsyncMongoClient(server.url) as client, AsyncMongoClient(reader_url) as limited:
        store = MongoEventStore(client, layout=layout)
        await store.setup()
        before = await written(store, events=1)
        async with client.start_session() as session:
            await session.start_transaction()
            await store.within(session).append_stream(TypeID.new("slow"), new_events(1))
            await session.abort_transaction()
        after = await written(store, events=1)
        reader = MongoEventStore(limited, layout=layout, patience=0)

        with caplog.at_level(logging.WARNING, "estoria.mongodb"):
            for _ in range(3):
                seen = [event.stream_id for event in await reader.read_all().collect()]
                assert seen == [before]
        assert len(caplog.records) == 1
        assert await versions(reader, after) == [1]

        writer = MongoEventStore(client, layout=layout, patience=0)
        assert len(await writer.read_all().collect()) == 2
        assert len(await reader.read_all().collect()) == 2


async def test_three_processes_see_one_order(laid_out, mongodb_server, mongodb_database, layout):
    """A writer that hangs, a writer that goes on and a reader, each in a process of its own."""

    async def start(job, **options):
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *(str(PROGRAMS), job, mongodb_server.url, mongodb_database, layout.name),
            stdout=asyncio.subprocess.PIPE,
            **options,
        )

    async def output(job):
        found, _ = await (await start(job)).communicate()
        return found.decode().strip()

    hanging = await start("append_and_hang", stdin=asyncio.subprocess.PIPE)
    a = int(await hanging.stdout.readline())
    b = int(await output("append"))
    assert b > a
    assert await output("read") == "[]"

    await hanging.communicate(b"commit\n")

    assert await output("read") == f"[{a}, {b}]"
