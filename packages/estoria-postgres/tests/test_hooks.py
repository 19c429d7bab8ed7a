"""Hooks in the append's transaction."""

import psycopg
import pytest
from estoria_testservers import Proxy

from estoria.core import StreamNotFoundError, StreamVersionMismatchError, TypeID
from estoria.core.testing import new_events, versions
from estoria.postgres import PostgresEventStore

pytestmark = pytest.mark.anyio


@pytest.fixture
async def outbox(store, connect):
    """A table of the test's own; gives what is in it."""
    async with connect(autocommit=True) as admin:
        await admin.execute("CREATE TABLE outbox (id uuid PRIMARY KEY)")

        async def outbox():
            rows = await admin.execute("SELECT id FROM outbox ORDER BY id")
            return [id for (id,) in await rows.fetchall()]

        yield outbox


async def keep(connection, events):
    for event in events:
        await connection.execute("INSERT INTO outbox VALUES (%s)", [event.id])


async def test_what_a_hook_writes_commits_with_the_events(pool, outbox):
    """In the order of the hooks, with the events as they are stored."""
    seen = []

    async def look(connection, events):
        seen.append((events, len(await outbox())))
        rows = await connection.execute("SELECT count(*) FROM outbox")
        assert await rows.fetchone() == (2,)

    store = PostgresEventStore(pool, hooks=[keep, look])
    stream_id, batch = TypeID.new("account"), new_events(2)

    appended = await store.append_stream(stream_id, batch, expect=0)

    assert seen == [(appended, 0)]
    assert sorted(event.id for event in batch) == await outbox()
    assert appended == await store.read_stream(stream_id).collect()


class RefusedError(Exception):
    """Of the hook's own."""


@pytest.mark.parametrize("error", [RefusedError, KeyError, psycopg.errors.UniqueViolation])
async def test_what_a_hook_raises_rolls_all_back(pool, outbox, error):
    """And passes through, also when it is an error of the driver's that looks like one of ours."""

    async def refuse(connection, events):
        if error is psycopg.errors.UniqueViolation:
            await keep(connection, events)
        raise error

    store = PostgresEventStore(pool, hooks=[keep, refuse])
    stream_id = TypeID.new("account")

    with pytest.raises(error):
        await store.append_stream(stream_id, new_events(1))

    assert await outbox() == []
    with pytest.raises(StreamNotFoundError):
        await store.read_stream(stream_id).collect()
    assert pool.get_stats().get("returns_bad", 0) == 0


async def test_a_hook_doesn_t_run_for_what_happened_already_or_is_refused(pool, outbox):
    """Repeated, the append gives the first result."""
    runs = []

    async def count(_connection, events):
        runs.append(len(events))

    store = PostgresEventStore(pool, hooks=[count, keep])
    stream_id, batch = TypeID.new("account"), new_events(2)
    first = await store.append_stream(stream_id, batch)
    assert first == await store.append_stream(stream_id, batch)
    assert first == await store.append_stream(stream_id, batch, expect=0)
    with pytest.raises(StreamVersionMismatchError):
        await store.append_stream(stream_id, new_events(1), expect=7)

    assert runs == [2]
    assert len(await outbox()) == 2


async def test_a_hook_runs_again_with_the_transaction_and_commits_once(pool, outbox):
    """After a serialization failure that came up in the hook itself."""
    runs = []

    async def fail_first(connection, _events):
        runs.append(1)
        if len(runs) == 1:
            await connection.execute(
                "DO $$ BEGIN RAISE EXCEPTION 'later' USING ERRCODE = '40001'; END $$"
            )

    store = PostgresEventStore(pool, hooks=[keep, fail_first])
    stream_id = TypeID.new("account")
    await store.append_stream(stream_id, new_events(1))

    assert len(runs) == 2
    assert len(await outbox()) == 1
    assert await versions(store, stream_id) == [1]


@pytest.mark.parametrize("moment", ["cut_before_request", "cut_after_request", "cut_before_answer"])
async def test_a_commit_that_is_cut_off_happens_once(
    postgres_server, postgres_database, open_pool, outbox, moment
):
    """Nobody knows at first whether it took place; the ids tell."""
    with Proxy(postgres_server.host, postgres_server.port) as proxy:
        async with open_pool(proxy.url(postgres_database), max_size=1) as pool:
            store = PostgresEventStore(pool, hooks=[keep])
            stream_id = TypeID.new("account")
            await store.append_stream(stream_id, new_events(1))
            fault = getattr(proxy, moment)(b"COMMIT")

            await store.append_stream(stream_id, new_events(1), expect=1)

            assert fault.happened
            assert await versions(store, stream_id) == [1, 2]
            assert len(await outbox()) == 2


async def test_a_hook_may_append_in_the_same_transaction(pool, store):
    """Through `within`, to another stream."""
    other = TypeID.new("audit")

    async def audit(connection, _events):
        await store.within(connection).append_stream(other, new_events(1))

    hooked = PostgresEventStore(pool, hooks=[audit])
    await hooked.append_stream(TypeID.new("account"), new_events(1))
    await hooked.append_stream(TypeID.new("account"), new_events(1))

    assert await versions(store, other) == [1, 2]
    assert len(await store.read_all().collect()) == 4
