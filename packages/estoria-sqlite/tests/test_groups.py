"""Appends that wait for the writer go out together; and what bounds the waiting."""

import asyncio
import sqlite3
from time import monotonic

import pytest

from estoria.core import (
    Expect,
    NewEvent,
    StoreBusyError,
    StreamNotFoundError,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.testing import new_events, versions, written
from estoria.sqlite import SQLiteDatabase, SQLiteEventStore, _worker

pytestmark = pytest.mark.anyio


@pytest.fixture
async def commits(store):
    """The statements that the writer's connection runs."""
    statements = []
    await store._database.write(lambda c: c.set_trace_callback(statements.append))
    statements.clear()
    return lambda: [s for s in statements if s.split()[0] in ("BEGIN", "COMMIT", "ROLLBACK")]


async def waiting(store, other, *appends):
    """Start these appends while somebody else holds the lock, and let go when all wait."""
    other.execute("BEGIN IMMEDIATE")
    tasks = [asyncio.ensure_future(append) for append in appends]
    await asyncio.sleep(0)
    other.execute("COMMIT")
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_those_who_wait_share_one_transaction(store, other, commits):
    streams = [TypeID.new("account") for _ in range(20)]

    await waiting(store, other, *(store.append_stream(s, new_events(2)) for s in streams))

    assert commits() == ["BEGIN IMMEDIATE", "COMMIT"]
    for stream_id in streams:
        assert await versions(store, stream_id) == [1, 2]


async def test_a_refused_one_disturbs_no_other(store, other, commits):
    streams = [TypeID.new("account") for _ in range(5)]
    refused = await written(store)

    outcomes = await waiting(
        store,
        other,
        *(store.append_stream(s, new_events(1)) for s in streams[:2]),
        store.append_stream(refused, new_events(1), expect=9),
        *(store.append_stream(s, new_events(1)) for s in streams[2:]),
    )

    assert [type(o) for o in outcomes if isinstance(o, BaseException)] == [
        StreamVersionMismatchError
    ]
    assert commits()[-2:] == ["BEGIN IMMEDIATE", "COMMIT"]
    for stream_id in streams:
        assert await versions(store, stream_id) == [1]


async def test_one_that_fails_after_writing_is_undone_alone(store, other):
    """A repeated batch is found by its ids only after its stream was moved."""
    batch, streams = new_events(2), [TypeID.new("account") for _ in range(4)]
    repeated = TypeID.new("account")
    first = await store.append_stream(repeated, batch)

    outcomes = await waiting(
        store,
        other,
        *(store.append_stream(s, new_events(1)) for s in streams[:2]),
        store.append_stream(repeated, batch),
        *(store.append_stream(s, new_events(1)) for s in streams[2:]),
    )

    assert outcomes[2] == first
    assert await versions(store, repeated) == [1, 2]
    for stream_id in streams:
        assert await versions(store, stream_id) == [1]


async def test_one_that_is_cancelled_while_it_waits_never_runs(store, other):
    streams = [TypeID.new("account") for _ in range(3)]
    other.execute("BEGIN IMMEDIATE")
    tasks = [asyncio.ensure_future(store.append_stream(s, new_events(1))) for s in streams]
    await asyncio.sleep(0.05)
    for task in tasks[1:]:
        task.cancel()
    await asyncio.wait(tasks[1:])
    other.execute("COMMIT")
    await tasks[0]
    await store._database.write(lambda _: None)

    assert await versions(store, streams[0]) == [1]
    for stream_id in streams[1:]:
        with pytest.raises(StreamNotFoundError):
            await versions(store, stream_id)


async def test_a_group_is_bounded(store, other, commits, monkeypatch):
    monkeypatch.setattr(_worker, "MAX_GROUP", 4)
    streams = [TypeID.new("account") for _ in range(9)]

    await waiting(store, other, *(store.append_stream(s, new_events(1)) for s in streams))

    assert commits() == ["BEGIN IMMEDIATE", "COMMIT"] * 3


async def test_appends_to_one_stream_keep_their_order_in_a_group(store, other):
    stream_id, batches = TypeID.new("account"), [new_events(1) for _ in range(10)]

    await waiting(
        store,
        other,
        *(
            store.append_stream(stream_id, batch, expect=number or Expect.NO_STREAM)
            for number, batch in enumerate(batches)
        ),
    )

    stored = await store.read_stream(stream_id).collect()
    assert [event.id for event in stored] == [batch[0].id for batch in batches]


async def test_a_lock_is_waited_for_within_the_timeout(path, other):
    async with SQLiteDatabase.open(path, busy_timeout=0.3) as database:
        store = SQLiteEventStore(database)
        await store.setup()
        other.execute("BEGIN IMMEDIATE")
        streams = [TypeID.new("account") for _ in range(8)]
        start = monotonic()

        outcomes = await asyncio.gather(
            *(store.append_stream(s, new_events(1)) for s in streams), return_exceptions=True
        )

        # All of them together, not one after the other.
        assert {type(outcome) for outcome in outcomes} == {StoreBusyError}
        assert 0.25 < monotonic() - start < 1.5
        assert "locked" in str(outcomes[0])
        other.execute("COMMIT")
        await written(store)


async def test_readers_don_t_wait_for_a_writer(path, store, other):
    stream_id = await written(store, events=2)
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM estoria_events")

    assert await versions(store, stream_id) == [1, 2]
    assert len(await store.read_all().collect()) == 2
    other.execute("ROLLBACK")


@pytest.fixture
async def crossings(store):
    """Counts how often work crosses to a thread and back: this store's round trips."""
    counted = []
    for worker in (store._database._writer, store._database._reader):
        run = worker.run

        def counting(operation, *, run=run, writes):
            counted.append(writes)
            return run(operation, writes=writes)

        worker.run = counting
    return counted


async def test_an_append_costs_one_round_trip_and_a_refused_one_no_more(store, crossings):
    stream_id = await written(store, events=100)
    assert crossings == [True]

    with pytest.raises(StreamVersionMismatchError):
        await store.append_stream(stream_id, new_events(1), expect=3)
    assert crossings == [True, True]


async def test_a_repeat_costs_two(store, crossings):
    stream_id, batch = TypeID.new("account"), new_events(1)
    await store.append_stream(stream_id, batch)
    crossings.clear()

    await store.append_stream(stream_id, batch)

    assert crossings == [True, False]


async def test_a_read_costs_one_round_trip_for_each_page(store, crossings):
    stream_id = TypeID.new("account")
    await store.append_stream(stream_id, new_events(2_500))
    cases = [({}, 3), ({"reverse": True}, 3), ({"count": 1_000}, 1), ({"after_version": 2_400}, 1)]
    for options, pages in cases:
        crossings.clear()
        await store.read_stream(stream_id, **options).collect()
        assert crossings == [False] * pages
    crossings.clear()
    await store.read_all(after_position=2_000).collect()
    assert crossings == [False]


class TestWithin:
    async def test_it_keeps_the_caller_s_settings(self, path, store):
        """Whatever row factory, text factory or isolation level they prefer."""
        connection = sqlite3.connect(path, isolation_level="DEFERRED")
        connection.row_factory = sqlite3.Row
        connection.text_factory = bytes
        connection.execute("BEGIN IMMEDIATE")
        inside, stream_id = store.within(connection), TypeID.new("account")

        appended = await inside.append_stream(stream_id, [NewEvent("é", b"x", "t", {"a": "ü"})])
        read = await inside.read_stream(stream_id).collect()
        (row,) = connection.execute("SELECT type AS name FROM estoria_events").fetchall()
        connection.commit()
        connection.close()

        assert read == appended
        assert row["name"] == "é".encode()
        assert await store.read_stream(stream_id).collect() == appended

    async def test_it_works_beside_the_caller_s_tables(self, store, other):
        other.execute("CREATE TABLE orders (id TEXT)")
        for end in ("ROLLBACK", "COMMIT"):
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO orders VALUES ('1')")
            stream_id = TypeID.new("account")
            await store.within(other).append_stream(stream_id, new_events(1))
            other.execute(end)
            count = len(other.execute("SELECT * FROM orders").fetchall())
            found = [s.stream_id async for s in store.list_streams()]
            assert (count, stream_id in found) == ((0, False) if end == "ROLLBACK" else (1, True))

    async def test_a_transaction_that_came_too_late_is_aborted(self, path, store, other):
        """It has read, others have written since: SQLite lets it write no more."""
        stream_id = await written(store)
        other.execute("BEGIN")
        inside = store.within(other)
        assert await versions(inside, stream_id) == [1, 2, 3]
        await store.append_stream(stream_id, new_events(1))

        with pytest.raises(Exception, match="run it again") as caught:
            await inside.append_stream(stream_id, new_events(1), expect=3)

        assert type(caught.value).__name__ == "TransactionAbortedError"
        other.execute("ROLLBACK")

    async def test_another_file_is_refused(self, tmp_path, store):
        elsewhere = sqlite3.connect(tmp_path / "other.db")
        with pytest.raises(ValueError, match=r"other\.db"):
            store.within(elsewhere)
        elsewhere.close()
        with pytest.raises(TypeError, match=r"sqlite3\.Connection"):
            store.within(object())

    async def test_a_store_in_memory_has_no_other_connections(self):
        connection = sqlite3.connect(":memory:")
        async with SQLiteEventStore.connect("sqlite://") as store:
            with pytest.raises(ValueError, match="memory"):
                store.within(connection)
        connection.close()

    async def test_an_open_transaction_bounds_other_writers(self, path, other):
        async with SQLiteDatabase.open(path, busy_timeout=0.1) as database:
            store = SQLiteEventStore(database)
            await store.setup()
            other.execute("BEGIN IMMEDIATE")
            await store.within(other).append_stream(TypeID.new("account"), new_events(1))

            with pytest.raises(StoreBusyError):
                await written(store)

            other.execute("COMMIT")
            await written(store)
