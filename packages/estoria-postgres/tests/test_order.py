"""Positions are a stable prefix, whatever open transactions do: every interleaving by hand."""

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from estoria_testservers import postgres_candidates, start_postgres

from estoria.core import TypeID
from estoria.core.testing import new_events, versions, written
from estoria.postgres import PostgresEventStore, schema_sql

pytestmark = pytest.mark.anyio

PROGRAMS = Path(__file__).with_name("programs.py")


@pytest.fixture(params=postgres_candidates(owned=True), ids=lambda each: f"own-{each.major}")
def candidate(request):
    """Each version, for tests that restart or kill a server of their own."""
    return request.param


@pytest.fixture
def open_append(connect, store):
    """A transaction that has appended to a stream of its own and stays open."""

    @asynccontextmanager
    async def open_append(events=1):
        async with connect() as connection:
            stream_id = TypeID.new("slow")
            appended = await store.within(connection).append_stream(stream_id, new_events(events))
            yield connection, appended

    return open_append


async def positions(store, **options):
    return [event.global_position for event in await store.read_all(**options).collect()]


async def test_nothing_above_an_open_transaction_is_read(store, open_append):
    """A takes a position and stays open, B takes the next and commits: the wrong way skips A."""
    before = await written(store, events=1)
    async with open_append() as (connection, (a,)):
        (b,) = await store.append_stream(TypeID.new("fast"), new_events(1))
        assert b.global_position == a.global_position + 1

        assert [e.stream_id for e in await store.read_all().collect()] == [before]
        assert await store.head_position() < a.global_position

        await connection.commit()
        assert [a, b] == (await store.read_all().collect())[1:]
        assert await store.head_position() == b.global_position


async def test_the_first_position_of_all_is_held_back_too(store, open_append):
    """A fresh sequence: its `last_value` says 1 before and after 1 was taken."""
    assert await store.head_position() == 0
    async with open_append() as (connection, (a,)):
        assert await store.head_position() == 0
        assert await positions(store) == []
        await written(store, events=2)

        assert await store.head_position() == 0
        assert await positions(store) == []

        await connection.commit()
    assert a.global_position == 1
    assert await positions(store) == [1, 2, 3]


async def test_a_rolled_back_transaction_leaves_a_gap_that_nobody_waits_for(store, open_append):
    """Its positions are burnt; readers go on at once."""
    async with open_append(events=3) as (connection, a):
        (b,) = await store.append_stream(TypeID.new("fast"), new_events(1))
        assert await positions(store) == []

        await connection.rollback()

        assert await positions(store) == [b.global_position]
    assert b.global_position == a[-1].global_position + 1


async def test_a_killed_transaction_is_one_that_rolled_back(store, open_append, connect):
    """As soon as the server has noticed."""
    async with connect(autocommit=True) as admin:
        with pytest.raises(psycopg.OperationalError):
            async with open_append() as (connection, _):
                (b,) = await store.append_stream(TypeID.new("fast"), new_events(1))
                pid = connection.info.backend_pid
                await admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

                assert await positions(store) == [b.global_position]
                await connection.execute("SELECT 1")


async def test_while_one_hangs_all_others_go_on(store, open_append):
    """Writers of other streams, and readers up to the gap, wait for nothing."""
    below = await store.append_stream(TypeID.new("fast"), new_events(2))
    async with open_append() as (connection, (a,)):
        others = [TypeID.new("fast") for _ in range(20)]
        async with asyncio.timeout(10):
            for _ in range(3):
                await asyncio.gather(*(store.append_stream(o, new_events(2)) for o in others))
                assert below == await store.read_all().collect()
                assert await versions(store, others[0], reverse=True)
                await store.truncate_stream(others[1], 1)
            await store.delete_stream(others[2])

        assert await store.head_position() == below[-1].global_position
        await connection.commit()
    seen = await store.read_all(after_position=below[-1].global_position).collect()
    assert seen[0] == a
    assert len(seen) == 1 + 20 * 6 - 6 - 1


async def test_a_reader_that_starts_after_the_gap_was_made_stops_below_it(
    store, open_append, postgres_database, open_pool
):
    """A second store, opened while the first transaction is open already."""
    async with open_append() as (connection, (a,)):
        (b,) = await store.append_stream(TypeID.new("fast"), new_events(1))
        async with open_pool(postgres_database) as pool:
            late = PostgresEventStore(pool)
            assert await positions(late) == []
            await connection.commit()
            assert await positions(late) == [a.global_position, b.global_position]


async def test_a_transaction_that_appends_twice_holds_its_first_position(store, connect):
    """The second append must not let readers pass the first."""
    slow = TypeID.new("slow")
    async with connect() as connection:
        inside = store.within(connection)
        first = await inside.append_stream(slow, new_events(1))
        between = await store.append_stream(TypeID.new("fast"), new_events(1))
        second = await inside.append_stream(slow, new_events(1))
        after = await store.append_stream(TypeID.new("fast"), new_events(1))
        assert await positions(store) == []

        await connection.commit()

    assert [*first, *between, *second, *after] == await store.read_all().collect()


async def test_many_appends_in_one_transaction_hold_one_lock(store, connect):
    """One for each would fill the server's lock table."""
    count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    async with connect() as connection:
        inside = store.within(connection)
        for _ in range(50):
            await inside.append_stream(TypeID.new("slow"), new_events(1))
            await store.append_stream(TypeID.new("fast"), new_events(1))

        assert await (await connection.execute(count)).fetchone() == (1,)


async def test_a_savepoint_that_is_rolled_back_gives_up_only_its_own_lock(store, connect):
    """What is appended after it is held back by a lock of its own."""
    async with connect() as connection:
        inside = store.within(connection)
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await inside.append_stream(TypeID.new("slow"), new_events(1))
                raise ZeroDivisionError
        (b,) = await store.append_stream(TypeID.new("fast"), new_events(1))
        (kept,) = await inside.append_stream(TypeID.new("slow"), new_events(1))
        (c,) = await store.append_stream(TypeID.new("fast"), new_events(1))

        assert await positions(store) == [b.global_position]
        await connection.commit()
    assert await positions(store) == [e.global_position for e in (b, kept, c)]


async def test_an_append_that_waits_for_its_stream_delays_no_reader(store, open_append):
    """It takes its lock and its positions only once the stream's row is its own."""
    async with open_append() as (connection, (a,)):
        waiting = asyncio.ensure_future(store.append_stream(a.stream_id, new_events(1)))
        await _until_blocked(connection)
        (b,) = await store.append_stream(TypeID.new("fast"), new_events(1))
        await connection.rollback()
        (c,) = await waiting

    assert c.global_position > b.global_position
    assert [b, c] == await store.read_all().collect()


async def test_filters_stop_at_the_same_place(store, open_append):
    """Also when nothing of the open transaction would pass them."""
    async with open_append() as (connection, _):
        (b,) = await store.append_stream(TypeID.new("fast"), new_events(1, type="b"))
        assert await positions(store, stream_types=["fast"]) == []
        assert await positions(store, event_types=["b"]) == []
        assert await positions(store, count=1) == []
        await connection.commit()
    assert await positions(store, event_types=["b"]) == [b.global_position]


async def test_a_later_page_doesn_t_pass_the_frontier_of_the_first(store, open_append):
    """What the open transaction commits between two pages is for the next read."""
    await written(store, events=2_500)
    async with open_append() as (connection, (a,)):
        await written(store, events=1)
        async with store.read_all() as events:
            await connection.commit()
            seen = [event.global_position async for event in events]

    assert len(seen) == 2_500
    assert seen[-1] < a.global_position


async def test_gaps_by_the_thousand_hold_up_nobody(store):
    """Deleted and truncated streams, with a page full of nothing between two events."""
    first = await written(store, events=1)
    for _ in range(3):
        stream_id = await written(store, events=1_500)
        await store.delete_stream(stream_id)
        stream_id = await written(store, events=1_500)
        await store.truncate_stream(stream_id, 1_499)
    last = await written(store, events=1)

    events = await store.read_all().collect()

    assert events[0].stream_id == first
    assert events[-1].stream_id == last
    assert len(events) == 5
    assert await store.head_position() == events[-1].global_position


async def test_two_stores_in_one_database_don_t_disturb_each_other(store, pool, open_append):
    """An open transaction of one doesn't hold back the readers of the other."""
    other = PostgresEventStore(pool, schema="another one")
    await other.setup()
    async with open_append():
        written_there = await other.append_stream(TypeID.new("fast"), new_events(2))

        assert written_there == await other.read_all().collect()
        assert await positions(store) == []


async def test_other_advisory_locks_mean_nothing(store, connect):
    """Of other kinds, on other numbers, or of whole sessions of somebody else."""
    (a,) = await store.append_stream(TypeID.new("fast"), new_events(1))
    async with connect() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock_shared(0)")
        await connection.execute("SELECT pg_advisory_lock(17, 0)")
        await connection.execute(
            "SELECT pg_advisory_xact_lock_shared('estoria.positions'::regclass::oid::bigint << 32)"
        )
        assert await positions(store) == [a.global_position]


@pytest.mark.parametrize("start", [2**31 - 3, 2**32 - 3, 2**40 + 2**31 - 3, 2**62])
async def test_positions_beyond_the_bits_of_a_key(store, connect, open_append, start):
    """A key has 32 bits, a position 63: also where they wrap around in mid-transaction."""
    async with connect(autocommit=True) as admin:
        await admin.execute("SELECT setval('estoria.positions', %s)", [start])
        (before,) = await store.append_stream(TypeID.new("fast"), new_events(1))
        async with open_append() as (connection, (a,)):
            fast = await store.append_stream(TypeID.new("fast"), new_events(6))
            assert await positions(store) == [before.global_position]
            assert await store.head_position() == before.global_position

            await connection.commit()
        assert [before, a, *fast] == await store.read_all().collect()


async def test_a_prepared_transaction_is_waited_for_over_a_restart(
    fresh_server, open_pool, candidate
):
    """Two-phase commit: its locks outlive its session and the server."""
    server = fresh_server(start_postgres, candidate, settings={"max_prepared_transactions": 5})
    url = server.url
    async with open_pool(url) as pool:
        store = PostgresEventStore(pool)
        await store.setup()
        connect = psycopg.AsyncConnection.connect
        async with await connect(url, autocommit=True) as connection:
            await connection.execute("BEGIN")
            (a,) = await store.within(connection).append_stream(TypeID.new("slow"), new_events(1))
            await connection.execute("PREPARE TRANSACTION 'slow'")
        (b,) = await store.append_stream(TypeID.new("fast"), new_events(1))
        assert await positions(store) == []

        await asyncio.to_thread(server.restart)

        assert await positions(store) == []
        async with await connect(url, autocommit=True) as connection:
            await connection.execute("COMMIT PREPARED 'slow'")
        assert [a, b] == await store.read_all().collect()


async def test_a_crash_gives_no_position_out_again_below_a_head(fresh_server, open_pool, candidate):
    """Positions that were burnt aren't on disk: a head that counted them would be passed later."""
    server = fresh_server(
        start_postgres, candidate, settings={"wal_writer_delay": "10s", "bgwriter_delay": "10s"}
    )
    url = server.url
    async with open_pool(url) as pool:
        store = PostgresEventStore(pool)
        await store.setup()
        (stood,) = new_events(1)
        stream_id = TypeID.new("account")
        await store.append_stream(stream_id, [stood])
        await pool.close()
    async with open_pool(url) as pool:
        store = PostgresEventStore(pool)
        async with await psycopg.AsyncConnection.connect(url) as connection:
            for _ in range(3):
                inside = store.within(connection)
                await inside.append_stream(TypeID.new("gone"), new_events(100))
                await connection.rollback()
        head = await store.head_position()

        server.kill()
        server.start()

        (first,) = await store.append_stream(TypeID.new("after"), new_events(1))
        assert first.global_position > head
        assert await positions(store, after_position=head) == [first.global_position]


async def test_three_processes_see_one_order(store, postgres_database):
    """A writer that hangs, a writer that goes on and a reader, each in a process of its own."""
    hanging = await _start("append_and_hang", postgres_database, stdin=asyncio.subprocess.PIPE)
    a = int(await hanging.stdout.readline())
    b = int(await _output("append", postgres_database))
    assert b == a + 1
    assert await _output("read", postgres_database) == "[]"

    await hanging.communicate(b"commit\n")

    assert await _output("read", postgres_database) == f"[{a}, {b}]"


async def test_the_frontier_of_a_cached_sequence_is_refused(pool, connect):
    """With CACHE above 1 a session takes positions long before it locks."""
    store = PostgresEventStore(pool)
    await store.setup()
    async with connect(autocommit=True) as admin:
        await admin.execute("ALTER SEQUENCE estoria.positions CACHE 20")

    with pytest.raises(Exception, match="CACHE 1") as caught:
        await store.setup()
    assert type(caught.value).__name__ == "SchemaError"


async def test_the_printed_schema_makes_the_same_sequence():
    """Those who run their own migrations are protected alike."""
    assert "CACHE 1" in schema_sql()


async def _start(job, url, **options):
    return await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAMS), job, url, stdout=asyncio.subprocess.PIPE, **options
    )


async def _output(job, url):
    process = await _start(job, url)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode().strip()


async def _until_blocked(connection):
    """Wait until some statement in the server waits for this connection's transaction."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    pid = connection.info.backend_pid
    while (await (await connection.execute(blocked, [pid])).fetchone()) == (0,):
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        await asyncio.sleep(0.005)
