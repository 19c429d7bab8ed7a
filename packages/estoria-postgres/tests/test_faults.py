"""Connections that die, servers that go, pools that run dry: known outcomes and named errors."""

import asyncio
from pathlib import Path

import psycopg
import pytest
from estoria_testservers import Proxy, start_postgres

from estoria.core import (
    EstoriaError,
    Expect,
    ProjectionID,
    Snapshot,
    StoreBusyError,
    StoreClosedError,
    StoreMisusedError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StreamNotFoundError,
    StreamVersionMismatchError,
    TransactionAbortedError,
    TypeID,
)
from estoria.core.testing import new_events, versions, written
from estoria.postgres import (
    PostgresCheckpointStore,
    PostgresEventStore,
    PostgresSnapshotStore,
    ReadOnlyReplicaError,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def proxy(postgres_server):
    with Proxy(postgres_server.host, postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
async def proxied(proxy, postgres_database, open_pool, store):
    """A pool through the proxy; `store` goes straight to the server."""
    async with open_pool(proxy.url(postgres_database), max_size=4) as pool:
        await pool.wait()
        yield pool


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


@pytest.mark.parametrize("expect", [2, Expect.ANY, Expect.STREAM_EXISTS, Expect.NO_STREAM], ids=str)
@pytest.mark.parametrize("events", [1, 3])
async def test_an_append_that_is_cut_off_happens_once(store, proxied, cut, expect, events):
    """It is tried again under its ids: the caller never learns of the cut."""
    through = PostgresEventStore(proxied)
    stream_id = TypeID.new("account")
    if expect is not Expect.NO_STREAM:
        await store.append_stream(stream_id, new_events(2))
    batch = new_events(events, type="the cut one")
    await through.append_stream(TypeID.new("account"), new_events(1))
    fault = cut(b"the cut one")

    appended = await through.append_stream(stream_id, batch, expect=expect)

    assert fault.happened
    assert appended == [e for e in await store.read_stream(stream_id).collect() if e in appended]
    assert [event.id for event in appended] == [event.id for event in batch]
    start = 1 if expect is Expect.NO_STREAM else 3
    assert [event.stream_version for event in appended] == list(range(start, start + events))
    assert await versions(store, stream_id) == list(range(1, start + events))


async def test_a_read_that_is_cut_off_goes_on(store, proxied, cut):
    """From the page that was cut, with nothing twice."""
    stream_type = "thecutone"
    stream_id = await written(store, events=2_500, stream_type=stream_type)
    through = PostgresEventStore(proxied)
    async with through.read_stream(stream_id) as events:
        fault = cut(stream_type.encode())
        seen = [event.stream_version async for event in events]

    assert fault.happened
    assert seen == list(range(1, 2_501))


async def test_a_global_read_that_is_cut_off_goes_on(store, proxied, cut):
    """Its frontier is settled anew, or kept, but never left out."""
    await written(store, events=2_500)
    through = PostgresEventStore(proxied, prepare=False)
    for match in (b"pg_is_in_recovery", b"ORDER BY position"):
        fault = cut(match)
        seen = await through.read_all().collect()

        assert fault.happened
        assert [event.stream_version for event in seen] == list(range(1, 2_501))


async def test_snapshots_that_are_cut_off_are_written_and_read(store, proxied, cut):
    """Both may be repeated."""
    snapshots = PostgresSnapshotStore(proxied)
    await snapshots.setup()
    account = TypeID.new("thecutone")
    await snapshots.read_snapshot(account)
    (event,) = await store.append_stream(account, new_events(1))
    snapshot = Snapshot(account, 3, event.timestamp, b"state", "text/x")

    faults = [cut(b"thecutone")]
    await snapshots.write_snapshot(snapshot)
    faults.append(cut(b"thecutone"))
    assert snapshot == await snapshots.read_snapshot(account)
    faults.append(cut(b"thecutone"))
    await snapshots.delete_snapshots(account)

    assert all(fault.happened for fault in faults)
    assert await snapshots.read_snapshot(account) is None


async def test_checkpoints_that_are_cut_off_are_saved_and_loaded(proxied, cut):
    """Both may be repeated."""
    checkpoints = PostgresCheckpointStore(proxied)
    await checkpoints.setup()
    projection = ProjectionID("thecutone", 1)
    await checkpoints.load(projection)

    faults = [cut(b"thecutone")]
    await checkpoints.save(projection, 7)
    faults.append(cut(b"thecutone"))
    assert (await checkpoints.load(projection)).position == 7
    faults.append(cut(b"thecutone"))
    await checkpoints.delete(projection)

    assert all(fault.happened for fault in faults)
    assert await checkpoints.load(projection) is None


async def test_a_deletion_that_is_cut_off_happens_once(store, proxied, cut):
    """The attempt after the cut finds the stream missing, and that is no error then."""
    through = PostgresEventStore(proxied, prepare=False)
    stream_id = await written(store, events=3, stream_type="thecutone")
    await through.append_stream(TypeID.new("account"), new_events(1))
    fault = cut(b"SET alive = false")

    await through.delete_stream(stream_id)

    assert fault.happened
    with pytest.raises(StreamNotFoundError):
        await through.delete_stream(stream_id)
    (event,) = await store.append_stream(stream_id, new_events(1))
    assert event.stream_version == 5


@pytest.mark.parametrize("expect", [1, Expect.ANY, Expect.STREAM_EXISTS], ids=str)
async def test_the_retry_may_start_while_the_first_attempt_still_waits(
    store, proxy, proxied, connect, expect
):
    """For a lock, in the server, which doesn't notice the cut: written once all the same."""
    through = PostgresEventStore(proxied)
    stream_id = await written(store, events=1)
    await through.append_stream(TypeID.new("account"), new_events(1))
    batch = new_events(2, type="the cut one")
    async with connect() as connection, connect(autocommit=True) as admin:
        await connection.execute("UPDATE estoria.streams SET version = version")
        fault = proxy.cut_after_request(b"the cut one")
        append = asyncio.ensure_future(through.append_stream(stream_id, batch, expect=expect))
        await _until_waiting(admin, 2)
        await connection.rollback()

        appended = await append

    assert fault.happened
    assert [event.stream_version for event in appended] == [2, 3]
    assert await versions(store, stream_id) == [1, 2, 3]


async def test_a_writer_that_waited_learns_the_true_version(store, connect):
    """The refused statement's own snapshot is older than what it waited for."""
    stream_id = await written(store, events=1)
    async with connect() as connection, connect(autocommit=True) as admin:
        await store.within(connection).append_stream(stream_id, new_events(1), expect=1)
        late = asyncio.ensure_future(store.append_stream(stream_id, new_events(1), expect=1))
        await _until_waiting(admin, 1)
        await connection.commit()

        with pytest.raises(StreamVersionMismatchError) as caught:
            await late
    assert caught.value.actual == 2


async def test_a_server_that_restarts_is_found_again(fresh_server, open_pool):
    """All connections of the pool are dead, and nobody notices."""
    server = fresh_server(start_postgres)
    async with open_pool(server.url, min_size=4, max_size=4) as pool:
        store = PostgresEventStore(pool)
        await store.setup()
        await pool.wait()
        stream_id = await written(store, events=1)
        for stop in (server.stop, server.kill):
            await asyncio.to_thread(stop)
            await asyncio.to_thread(server.start)
            await asyncio.gather(
                *(store.append_stream(stream_id, new_events(1)) for _ in range(6)),
                store.read_all().collect(),
            )
    assert server.alive


async def test_a_server_that_is_gone_is_named(fresh_server, open_pool):
    """Within the pool's timeout, with the reason."""
    server = fresh_server(start_postgres)
    async with open_pool(server.url, timeout=1) as pool:
        store = PostgresEventStore(pool)
        await store.setup()
        await asyncio.to_thread(server.stop)

        async with asyncio.timeout(8):
            with pytest.raises(StoreUnavailableError, match="refused") as caught:
                await written(store, events=1)
    assert not isinstance(caught.value, StoreBusyError)
    assert isinstance(caught.value.__cause__, psycopg.Error)


async def test_an_exhausted_pool_is_named(postgres_database, open_pool, store):
    """With its name and its size, within its timeout."""
    async with open_pool(postgres_database, max_size=1, timeout=0.2, name="the small one") as pool:
        small = PostgresEventStore(pool)
        async with pool.connection():
            with pytest.raises(StoreBusyError, match=r"the small one.*0\.2 s.*all 1"):
                await written(small, events=1)
        await written(small, events=1)


async def test_a_pool_that_closed_is_named(postgres_database, open_pool, store):
    """Whoever closed it."""
    async with open_pool(postgres_database) as pool:
        late = PostgresEventStore(pool)
    with pytest.raises(StoreClosedError):
        await written(late, events=1)


async def test_more_abandoned_iterators_than_connections(postgres_database, open_pool, store):
    """Nothing is held between two pages."""
    stream_id = await written(store, events=2_500)
    async with open_pool(postgres_database, max_size=1, timeout=1) as pool:
        small = PostgresEventStore(pool)
        kept = [small.read_stream(stream_id), small.read_all(), small.read_stream(stream_id)]
        for events in kept:
            await anext(events)
        lister = small.list_streams()
        await anext(lister)

        await written(small, events=1)
        await lister.aclose()


def guard(file):
    """Have the server ask for a password."""
    file.write_text("host all guarded all scram-sha-256\n" + file.read_text())


async def test_a_wrong_password_is_named(fresh_server):
    """And not shown."""
    server = fresh_server(start_postgres)
    server.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    with psycopg.connect(server.url) as connection:
        (file,) = connection.execute("SHOW hba_file").fetchone()
    guard(Path(file))
    server.execute("SELECT pg_reload_conf()")
    url = server.url.replace("postgres@", "guarded:secret-word@")
    with pytest.raises(StoreUnavailableError, match="password authentication failed") as caught:
        async with asyncio.timeout(5), PostgresEventStore.connect(url):
            pass
    assert "secret-word" not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@ss@h:x/db",
        "mysql://h/db",
        "postgresql://h/db?pool_size=0",
        "postgresql://h/db?prepare=maybe",
        "postgresql://h/db?nonsense=1",
    ],
)
async def test_a_url_that_can_t_be_read_is_refused(url):
    """With the form that it should have, and without quoting what may be a password."""
    with pytest.raises(ValueError, match="write a PostgreSQL URL as") as caught:
        async with PostgresEventStore.connect(url):
            pass
    assert "p@ss" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_cancelling_an_append_cancels_it_in_the_server(store, pool, connect):
    """It doesn't go on waiting for its lock, and its connection comes back clean."""
    stream_id = await written(store, events=1)
    async with connect() as connection, connect(autocommit=True) as admin:
        await connection.execute("UPDATE estoria.streams SET version = version")
        append = asyncio.ensure_future(store.append_stream(stream_id, new_events(1)))
        await _until_waiting(admin, 1)
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
        await _until_waiting(admin, 0)
    assert await versions(store, stream_id) == [1]
    assert pool.get_stats()["pool_available"] == pool.get_stats()["pool_size"]


async def test_deadlocks_and_serialization_failures_are_retried(postgres_database, open_pool):
    """Under the strictest isolation, and with everybody on the same few streams."""
    options = {"options": "-c default_transaction_isolation=serializable"}
    async with open_pool(postgres_database, kwargs=options) as pool:
        store = PostgresEventStore(pool)
        await store.setup()
        stream_ids = [TypeID.new("account") for _ in range(2)]

        async def write(stream_id):
            for _ in range(5):
                await store.append_stream(stream_id, new_events(2))

        await asyncio.gather(*(write(stream_id) for stream_id in stream_ids * 4))

        for stream_id in stream_ids:
            assert await versions(store, stream_id) == list(range(1, 41))


async def test_a_deadlock_in_the_caller_s_transaction_is_the_caller_s(store, connect):
    """Roll back and run it again: the library doesn't."""
    a, b = await written(store, events=1), await written(store, events=1)
    async with connect() as first, connect() as second:
        await store.within(first).append_stream(a, new_events(1))
        await store.within(second).append_stream(b, new_events(1))

        # The server ends one of the two, whose locks are free at once for the other.
        outcomes = await asyncio.gather(
            store.within(first).append_stream(b, new_events(1)),
            store.within(second).append_stream(a, new_events(1)),
            return_exceptions=True,
        )

        (lost,) = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert isinstance(lost, TransactionAbortedError)


async def test_a_lock_timeout_and_a_statement_timeout_are_named(
    store, postgres_database, open_pool, connect
):
    """What bounds an append that waits is the server's to say."""
    stream_id = await written(store, events=1)
    for setting in ("lock_timeout", "statement_timeout"):
        async with (
            open_pool(postgres_database, kwargs={"options": f"-c {setting}=50"}) as pool,
            connect() as connection,
        ):
            hurried = PostgresEventStore(pool)
            await versions(hurried, stream_id)
            await connection.execute("UPDATE estoria.streams SET version = version")
            with pytest.raises(StoreBusyError, match=setting):
                await hurried.append_stream(stream_id, new_events(1))


async def test_a_pool_that_is_read_only_is_named(store, postgres_database, open_pool):
    """Reading goes on."""
    stream_id = await written(store, events=1)
    options = {"options": "-c default_transaction_read_only=on"}
    async with open_pool(postgres_database, kwargs=options) as pool:
        reader = PostgresEventStore(pool)
        assert await versions(reader, stream_id) == [1]
        assert len(await reader.read_all().collect()) == 1
        with pytest.raises(StoreReadOnlyError, match="default_transaction_read_only"):
            await written(reader, events=1)


async def test_a_second_loop_is_told(store):
    """Instead of hanging."""
    stream_id = await written(store, events=1)

    def elsewhere():
        return asyncio.run(versions(store, stream_id))

    with pytest.raises(StoreMisusedError, match="another event loop"):
        await asyncio.to_thread(elsewhere)


async def test_a_replica_reads_streams_and_says_what_it_can_t(open_pool, fresh_server):
    """A standby's lock table doesn't show the primary's: no stable prefix there."""
    server = fresh_server(start_postgres)
    async with open_pool(server.url) as pool:
        store = PostgresEventStore(pool)
        await store.setup()
        stream_id = await written(store, events=3)
    server.become_standby()
    async with open_pool(server.url) as pool:
        replica = PostgresEventStore(pool)
        assert await versions(replica, stream_id) == [1, 2, 3]
        for refused in (
            replica.read_all().collect(),
            replica.head_position(),
            replica.append_stream(stream_id, new_events(1)),
        ):
            with pytest.raises(ReadOnlyReplicaError, match="primary") as caught:
                await refused
            assert isinstance(caught.value, EstoriaError)


async def _until_waiting(connection, number):
    """Wait until so many statements of the test's database wait for a lock."""
    waiting = """
        SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()"""
    async with asyncio.timeout(10):
        while (await (await connection.execute(waiting)).fetchone()) != (number,):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.005)
