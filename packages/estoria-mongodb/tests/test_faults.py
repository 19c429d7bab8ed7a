"""Connections that die, servers that go, elections: known outcomes and named errors."""

import asyncio
from contextlib import aclosing

import pytest
from estoria_testservers import start_mongodb
from pymongo import AsyncMongoClient

from estoria.core import (
    Expect,
    ProjectionID,
    Snapshot,
    StoreBusyError,
    StoreClosedError,
    StoreMisusedError,
    StoreUnavailableError,
    StreamNotFoundError,
    StreamVersionMismatchError,
    TransactionAbortedError,
    TypeID,
)
from estoria.core.testing import new_events, versions, written
from estoria.mongodb import (
    BatchTooLargeError,
    Layout,
    MongoCheckpointStore,
    MongoEventStore,
    MongoSnapshotStore,
    PermissionMissingError,
    ReplicaSetRequiredError,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("lost_sockets")]

CUTS = {
    "before the request": lambda proxy, match: proxy.cut_before_request(match),
    "after the request": lambda proxy, match: proxy.cut_after_request(match),
    "before the answer": lambda proxy, match: proxy.cut_before_answer(match),
    "in mid-answer": lambda proxy, match: proxy.cut_in_answer(20, match),
    "reset": lambda proxy, match: proxy.cut_before_answer(match, reset=True),
}


@pytest.fixture(params=CUTS)
def cut(request, proxy):
    """Cuts the connection of the next request that holds these bytes."""
    return lambda match: CUTS[request.param](proxy, match)


@pytest.fixture
def through(proxied, mongodb_database, laid_out, layout):
    """A store through the proxy; `laid_out` goes straight to the server."""
    return MongoEventStore(proxied, mongodb_database, layout=layout)


STEPS = {"number": b"findAndModify", "insert": b"the cut one", "commit": b"commitTransaction"}
COMMANDS = {"number": "findAndModify", "insert": "insert", "commit": "commitTransaction"}
of_each_layout = pytest.mark.parametrize(
    ("layout", "step"),
    [
        ("single", "number"),
        ("single", "insert"),
        ("per type", "number"),
        ("per type", "insert"),
        ("per type", "commit"),
    ],
    indirect=["layout"],
)
"""An append to one collection has no transaction, and so no commit."""


async def _cut_off(laid_out, through, arm, expect=2):
    """An append that meets a fault, and all that must hold afterwards."""
    stream_id = TypeID.new("account")
    if expect is not Expect.NO_STREAM:
        await laid_out.append_stream(stream_id, new_events(2))
    batch = new_events(2, type="the cut one")
    await through.append_stream(TypeID.new("account"), new_events(1))
    fault = arm()

    appended = await through.append_stream(stream_id, batch, expect=expect)

    assert fault.happened
    start = 1 if expect is Expect.NO_STREAM else 3
    assert [event.stream_version for event in appended] == [start, start + 1]
    assert [event.id for event in appended] == [event.id for event in batch]
    assert appended == (await laid_out.read_stream(stream_id).collect())[start - 1 :]
    assert appended.stream.version == start + 1


@of_each_layout
async def test_an_append_that_is_cut_off_happens_once(laid_out, through, cut, step):
    """It is tried again under its ids: the caller never learns of the cut."""
    await _cut_off(laid_out, through, lambda: cut(STEPS[step]))


@pytest.mark.parametrize("expect", [Expect.ANY, Expect.STREAM_EXISTS, Expect.NO_STREAM], ids=str)
async def test_an_append_whose_answer_is_lost_happens_once(laid_out, through, proxy, expect):
    """Whatever was expected."""
    await _cut_off(laid_out, through, lambda: proxy.cut_before_answer(b"the cut one"), expect)


@of_each_layout
@pytest.mark.parametrize(
    "fault",
    [
        {"closeConnection": True},
        {"errorCode": 91},  # ShutdownInProgress
        {"errorCode": 10107},  # NotWritablePrimary
        {"errorCode": 11602},  # InterruptedDueToReplStateChange
        {"writeConcernError": {"code": 64, "errmsg": "waiting timed out"}},
        {"writeConcernError": {"code": 91, "errmsg": "shutting down"}},
    ],
    ids=str,
)
async def test_what_a_server_says_in_an_election_is_no_error(laid_out, fail, step, fault):
    """Refused before it ran, or done but not known to last: tried again, and written once."""
    stream_id = TypeID.new("account")
    await laid_out.append_stream(stream_id, new_events(1))

    async with fail(COMMANDS[step], **fault):
        appended = await laid_out.append_stream(stream_id, new_events(2), expect=1)

    assert [event.stream_version for event in appended] == [2, 3]
    assert await versions(laid_out, stream_id) == [1, 2, 3]
    assert appended == (await laid_out.read_stream(stream_id).collect())[1:]


async def test_a_transient_error_of_a_transaction_is_no_error(client, mongodb_database, fail):
    """At every statement of it, and at its commit."""
    store = MongoEventStore(client, mongodb_database, layout=Layout.per_type())
    await store.setup()
    stream_id = await written(store, events=1)
    for command in ("insert", "commitTransaction"):
        for code in (112, 251, 24):
            labels = ["TransientTransactionError"]
            async with fail(command, errorCode=code, errorLabels=labels, times=2):
                await store.append_stream(stream_id, new_events(1))
    assert await versions(store, stream_id) == list(range(1, 8))


async def test_a_read_that_is_cut_off_goes_on(laid_out, through, cut):
    """From the page that was cut, with nothing twice."""
    stream_id = await written(laid_out, events=1)
    for _ in range(3):
        await laid_out.append_stream(stream_id, new_events(800))
    async with through.read_stream(stream_id) as events:
        fault = cut(b"aggregate")
        seen = [event.stream_version async for event in events]

    assert fault.happened
    assert seen == list(range(1, 2_402))


async def test_a_global_read_that_is_cut_off_goes_on(laid_out, through, cut):
    """Its frontier is settled anew, or kept, but never left out."""
    stream_id = await written(laid_out, events=1)
    for _ in range(3):
        await laid_out.append_stream(stream_id, new_events(800))
    for match in (b"$group", b"find\x00"):
        fault = cut(match)
        seen = await through.read_all().collect()

        assert fault.happened
        assert [event.stream_version for event in seen] == list(range(1, 2_402))


async def test_a_deletion_that_is_cut_off_happens_once(laid_out, through, cut):
    """The attempt after the cut finds the stream missing, and that is no error then."""
    for match in (b"insert\x00", b"\x02update\x00"):
        stream_id = await written(laid_out, events=3)
        await versions(through, stream_id)
        fault = cut(match)

        await through.delete_stream(stream_id)

        assert fault.happened
        with pytest.raises(StreamNotFoundError):
            await through.delete_stream(stream_id)
        (event,) = await laid_out.append_stream(stream_id, new_events(1))
        assert event.stream_version == 5


async def test_a_truncation_that_is_cut_off_happens(laid_out, through, cut):
    """Each of its steps may be repeated."""
    stream_id = await written(laid_out, events=6)
    for to_version in (2, 4):
        fault = cut(b"\x02update\x00")
        await through.truncate_stream(stream_id, to_version)
        assert fault.happened
    assert await versions(laid_out, stream_id) == [5, 6]
    assert [e.stream_version for e in await laid_out.read_all().collect()] == [5, 6]


async def test_a_setup_that_is_cut_off_is_done(proxied, mongodb_database, layout, cut):
    """Each of its steps may be repeated."""
    for match in (b"createIndexes" if layout.only else b"create\x00", b"\x02update\x00"):
        store = MongoEventStore(proxied, mongodb_database, layout=layout)
        fault = cut(match)
        await store.setup()
        assert fault.happened
    await written(store, events=1)


async def test_snapshots_and_checkpoints_that_are_cut_off(proxied, mongodb_database, cut):
    """Writes and reads may all be repeated."""
    snapshots = MongoSnapshotStore(proxied, mongodb_database)
    checkpoints = MongoCheckpointStore(proxied, mongodb_database)
    events = MongoEventStore(proxied, mongodb_database)
    for store in (snapshots, checkpoints, events):
        await store.setup()
    account, projection = TypeID.new("thecutone"), ProjectionID("thecutone", 1)
    (event,) = await events.append_stream(account, new_events(1))
    snapshot = Snapshot(account, 3, event.timestamp, b"state", "text/x")

    async def cut_off(work):
        fault = cut(b"thecutone")
        found = await work
        assert fault.happened
        return found

    await cut_off(snapshots.write_snapshot(snapshot))
    assert snapshot == await cut_off(snapshots.read_snapshot(account))
    await cut_off(snapshots.delete_snapshots(account))
    assert await cut_off(snapshots.read_snapshot(account)) is None
    await cut_off(checkpoints.save(projection, 7))
    assert (await cut_off(checkpoints.load(projection))).position == 7
    await cut_off(checkpoints.delete(projection))
    assert await cut_off(checkpoints.load(projection)) is None


@pytest.mark.parametrize("expect", [1, Expect.ANY, Expect.STREAM_EXISTS], ids=str)
async def test_the_retry_may_start_while_the_first_attempt_is_on_its_way(
    laid_out, through, proxy, expect
):
    """The second one gets there first, and the first one then finds its versions taken."""
    stream_id = await written(laid_out, events=1)
    await through.append_stream(stream_id, new_events(1))
    batch = new_events(2, type="the cut one")
    fault = proxy.hold_request(b"the cut one")
    append = asyncio.ensure_future(through.append_stream(stream_id, batch, expect=_next(expect)))
    await asyncio.to_thread(fault.wait)

    first = await laid_out.append_stream(stream_id, batch, expect=_next(expect))
    fault.release()

    assert first == await append
    assert await versions(laid_out, stream_id) == [1, 2, 3, 4]


def _next(expect):
    return 2 if expect == 1 else expect


async def test_a_crash_in_a_deletion_leaves_nothing_for_ever(laid_out, through, proxy):
    """The stream is gone; its events leave the global order when the deletion is repeated."""
    stream_id = await written(laid_out, events=3)
    fault = proxy.hold_request(b"$concatArrays")
    deletion = asyncio.ensure_future(through.delete_stream(stream_id))
    await asyncio.to_thread(fault.wait)
    deletion.cancel()
    await asyncio.wait([deletion])

    for expect in (3, Expect.STREAM_EXISTS):
        with pytest.raises(StreamVersionMismatchError):
            await laid_out.append_stream(stream_id, new_events(1), expect=expect)
    with pytest.raises(StreamNotFoundError):
        await laid_out.delete_stream(stream_id)
    assert await laid_out.read_all().collect() == []
    fault.release()


async def test_a_server_that_restarts_is_found_again(fresh_server, layout):
    """All connections of the client are dead, and nobody notices."""
    server = fresh_server(start_mongodb)
    async with AsyncMongoClient(server.url, heartbeatFrequencyMS=500) as client:
        store = MongoEventStore(client, layout=layout)
        await store.setup()
        stream_id = await written(store, events=1)
        for stop in (server.stop, server.kill):
            await asyncio.to_thread(stop)
            restart = asyncio.ensure_future(asyncio.to_thread(server.start))
            appended = await asyncio.gather(
                *(store.append_stream(stream_id, new_events(1)) for _ in range(6))
            )
            await restart
            assert len({event.stream_version for (event,) in appended}) == 6
            await store.read_all().collect()
        assert await versions(store, stream_id) == list(range(1, 14))


async def test_a_server_that_is_gone_is_named(fresh_server):
    """Within the store's timeout, whatever the client's is."""
    server = fresh_server(start_mongodb)
    async with AsyncMongoClient(server.url, serverSelectionTimeoutMS=2700) as client:
        store = MongoEventStore(client, timeout=1.2)
        await store.setup()
        stream_id = await written(store, events=1)
        await asyncio.to_thread(server.stop)
        for use in (
            lambda: store.append_stream(stream_id, new_events(1)),
            lambda: store.read_stream(stream_id).collect(),
            store.head_position,
            lambda: store.delete_stream(stream_id),
        ):
            async with asyncio.timeout(20):
                with pytest.raises(StoreUnavailableError):
                    await use()
    with pytest.raises(StoreUnavailableError, match="no primary"):
        async with asyncio.timeout(20), MongoEventStore.connect(server.url, timeout=1.2):
            pass


async def test_a_server_that_is_silent_is_named(laid_out, mongodb_database, through, proxy, layout):
    """Within the timeout; and once it speaks again, all goes on."""
    stream_id = await written(laid_out, events=1)
    async with AsyncMongoClient(proxy.url("mongodb://h/")) as client:
        store = MongoEventStore(client, mongodb_database, layout=layout, timeout=1.1)
        await versions(store, stream_id)
        proxy.stall()
        for use in (
            lambda: store.append_stream(stream_id, new_events(1)),
            lambda: store.read_stream(stream_id).collect(),
        ):
            async with asyncio.timeout(20):
                with pytest.raises(StoreUnavailableError, match=r"1\.1 s"):
                    await use()
        proxy.flow()
        assert 1 in await versions(laid_out, stream_id)
        patient = MongoEventStore(client, mongodb_database, layout=layout)
        await patient.append_stream(stream_id, new_events(1))


async def test_a_client_that_closed_is_named(mongodb_server, mongodb_database, store):
    """Whoever closed it."""
    async with AsyncMongoClient(mongodb_server.url) as client:
        late = MongoEventStore(client, mongodb_database)
        await written(late, events=1)
    with pytest.raises(StoreClosedError):
        await written(late, events=1)


async def test_an_exhausted_client_is_named(mongodb_server, mongodb_database, store, proxy):
    """Its pool is the caller's to size."""
    stream_id = await written(store, events=1)
    options = {"maxPoolSize": 1, "waitQueueTimeoutMS": 50}
    async with AsyncMongoClient(proxy.url(mongodb_server.url), **options) as client:
        small = MongoEventStore(client, mongodb_database, timeout=1)
        await versions(small, stream_id)
        fault = proxy.hold_answer(b"somebody else's")
        busy = asyncio.ensure_future(client[mongodb_database]["somebody else's"].find_one({}))
        await asyncio.to_thread(fault.wait)
        with pytest.raises(StoreBusyError, match="pool"):
            await versions(small, stream_id)
        fault.release()
        await busy


async def test_more_abandoned_iterators_than_connections(mongodb_server, mongodb_database, store):
    """Nothing is held between two pages."""
    stream_id = await written(store, events=1)
    for _ in range(3):
        await store.append_stream(stream_id, new_events(800))
    async with AsyncMongoClient(mongodb_server.url, maxPoolSize=1) as client:
        small = MongoEventStore(client, mongodb_database, timeout=5)
        kept = [small.read_stream(stream_id), small.read_all(), small.read_stream(stream_id)]
        for events in kept:
            await anext(events)
        async with aclosing(small.list_streams()) as lister:
            await anext(lister)
            await written(small, events=1)


async def test_a_wrong_password_is_named(fresh_server):
    """And not shown; nor is the server waited for."""
    server = fresh_server(start_mongodb, password="right")
    url = server.url.replace("right", "secret-word")
    with pytest.raises(PermissionMissingError) as caught:
        async with asyncio.timeout(20), MongoEventStore.connect(url):
            pass
    assert "secret-word" not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"
    async with AsyncMongoClient(url) as client:
        with pytest.raises(PermissionMissingError):
            await MongoEventStore(client).setup()
    async with MongoEventStore.connect(server.url) as store:
        await store.setup()
        await written(store, events=1)


async def test_nobody_but_who_is_let_in_may_use_it(fresh_server):
    """A client without a user."""
    server = fresh_server(start_mongodb, password="right")
    url = server.url.replace("root:right@", "")
    with pytest.raises(PermissionMissingError):
        async with asyncio.timeout(20), MongoEventStore.connect(url):
            pass


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://u:p@ss@h:x/db",
        "mysql://h/db",
        "mongodb://h:99999/db",
        "mongodb://h/db?w=maybe&nonsense",
        "mongodb://h/a b",
    ],
)
async def test_a_url_that_can_t_be_read_is_refused(url):
    """With the form that it should have, and without quoting what may be a password."""
    with pytest.raises(ValueError, match="write a MongoDB URL as") as caught:
        async with MongoEventStore.connect(url):
            pass
    assert "p@ss" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_replica_set_that_is_missing_is_named(mongodb_standalone):
    """By whatever needs transactions; before anything is written."""

    async def hook(_session, _events):
        pass

    with mongodb_standalone.database() as name:
        async with AsyncMongoClient(mongodb_standalone.url) as client:
            for options in ({"layout": Layout.per_type()}, {"hooks": [hook]}):
                with pytest.raises(ReplicaSetRequiredError, match="--replSet"):
                    await MongoEventStore(client, name, **options).setup()
            assert await client[name].list_collection_names() == []
            store = MongoEventStore(client, name)
            await store.setup()
            hooked = MongoEventStore(client, name, hooks=[hook])
            with pytest.raises(ReplicaSetRequiredError):
                await written(hooked, events=1)
            async with client.start_session() as session, await session.start_transaction():
                inside = store.within(session)
                with pytest.raises(ReplicaSetRequiredError):
                    await inside.append_stream(TypeID.new("account"), new_events(1))
                await session.abort_transaction()
            with pytest.raises(BatchTooLargeError) as caught:
                await store.append_stream(TypeID.new("account"), new_events(3, size=6 * 2**20))
            assert caught.value.size > caught.value.limit
            assert await store.read_all().collect() == []


async def test_deadlines_of_the_server_s_own_are_no_error(laid_out, fail):
    """A group that ran into its time limit is tried again."""
    stream_id = await written(laid_out, events=1)
    async with fail("insert", errorCode=50):
        await laid_out.append_stream(stream_id, new_events(1))
    assert await versions(laid_out, stream_id) == [1, 2]


async def test_a_disk_that_is_full_is_named(laid_out, fail):
    """By what the server says of it."""
    stream_id = await written(laid_out, events=1)
    async with fail("insert", errorCode=14031, times=100):
        with pytest.raises(StoreUnavailableError, match="disk"):
            await laid_out.append_stream(stream_id, new_events(1))


async def test_two_transactions_on_one_stream(laid_out, client):
    """The second is refused by the server, and the caller runs it again."""
    stream_id = await written(laid_out, events=1)
    async with client.start_session() as first, client.start_session() as second:
        await first.start_transaction()
        await second.start_transaction()
        await laid_out.within(first).append_stream(stream_id, new_events(1))
        with pytest.raises(TransactionAbortedError):
            await laid_out.within(second).append_stream(stream_id, new_events(1))
        await first.commit_transaction()
        await second.abort_transaction()
        await second.start_transaction()
        (event,) = await laid_out.within(second).append_stream(stream_id, new_events(1))
        await second.commit_transaction()
    assert event.stream_version == 3
    assert await versions(laid_out, stream_id) == [1, 2, 3]


async def test_an_append_waits_for_a_transaction_on_its_stream(laid_out, client):
    """And takes the version after it; the others of its group don't wait as long."""
    stream_id = await written(laid_out, events=1)
    async with client.start_session() as session:
        await session.start_transaction()
        await laid_out.within(session).append_stream(stream_id, new_events(1))
        waiting = asyncio.ensure_future(laid_out.append_stream(stream_id, new_events(1)))
        others = await asyncio.gather(
            *(laid_out.append_stream(TypeID.new("other"), new_events(1)) for _ in range(20))
        )
        assert len(others) == 20
        assert not waiting.done()
        await session.commit_transaction()
        (event,) = await waiting
    assert event.stream_version == 3


@pytest.mark.parametrize("steps", [*range(1, 40, 3), 60, 90])
async def test_cancelled_wherever_it_waits_an_append_is_whole_or_nothing(
    laid_out, client, mongodb_database, layout, steps
):
    """And the store goes on; a retry with the same events gives them once."""
    stream_id = await written(laid_out, events=1)
    batch = new_events(2)
    append = asyncio.ensure_future(laid_out.append_stream(stream_id, batch, expect=1))
    for _ in range(steps):
        await asyncio.sleep(0)
    append.cancel()
    await asyncio.wait([append])

    appended = await laid_out.append_stream(stream_id, batch, expect=1)

    assert [event.stream_version for event in appended] == [2, 3]
    assert await versions(laid_out, stream_id) == [1, 2, 3]
    # One that was cancelled between its number and its insert is a gap for a while.
    impatient = MongoEventStore(client, mongodb_database, layout=layout, patience=0)
    assert len(await impatient.read_all().collect()) == 3


async def test_a_second_loop_is_told(store):
    """Instead of hanging."""
    stream_id = await written(store, events=1)

    def elsewhere():
        return asyncio.run(versions(store, stream_id))

    with pytest.raises(StoreMisusedError, match="another event loop"):
        await asyncio.to_thread(elsewhere)


async def test_a_truncation_by_somebody_else_shows_in_the_next_append(
    laid_out, client, mongodb_database, layout
):
    """Also to a store that knew the stream, and so doesn't ask for it."""
    stream_id = await written(laid_out, events=3)
    other = MongoEventStore(client, mongodb_database, layout=layout)
    await other.truncate_stream(stream_id, 2)

    appended = await laid_out.append_stream(stream_id, new_events(1), expect=3)

    assert appended.stream.first_version == 3
    async with laid_out.read_stream(stream_id) as events:
        assert events.stream == appended.stream
