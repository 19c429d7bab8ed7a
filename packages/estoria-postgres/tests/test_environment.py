"""Pools, poolers, roles, processes and schemas of every sort."""

import asyncio
import sys
from pathlib import Path

import psycopg
import pytest
from estoria_testservers import Proxy
from psycopg.rows import dict_row, namedtuple_row

from estoria.core import (
    Expect,
    NewEvent,
    ProjectionID,
    SchemaError,
    SchemaMissingError,
    SchemaVersionError,
    Snapshot,
    StreamVersionMismatchError,
    TransactionRequiredError,
    TypeID,
    uuid7,
)
from estoria.core import connect as core_connect
from estoria.core.testing import new_events, versions, written
from estoria.postgres import (
    PermissionMissingError,
    PostgresCheckpointStore,
    PostgresEventStore,
    PostgresSnapshotStore,
    _schema,
    schema_sql,
)

pytestmark = pytest.mark.anyio

PROGRAMS = Path(__file__).with_name("programs.py")

ODD_POOLS = {
    "plain": {},
    "serializable": {"isolation": psycopg.IsolationLevel.SERIALIZABLE},
    "repeatable": {"options": "-c default_transaction_isolation=repeatable\\ read"},
    "dicts": {"row_factory": dict_row},
    "named tuples": {"row_factory": namedtuple_row, "autocommit": True},
    "client cursors": {"cursor_factory": psycopg.AsyncClientCursor},
    "raw cursors": {"cursor_factory": psycopg.AsyncRawCursor},
    "never prepared": {"prepare_threshold": None},
    "always prepared": {"prepare_threshold": 0},
    "another time zone": {"options": "-c timezone=Asia/Kathmandu -c datestyle=German"},
    "asynchronous commit": {"options": "-c synchronous_commit=off"},
    "text escapes": {"options": "-c bytea_output=escape -c standard_conforming_strings=off"},
}


async def exercise(store):
    """A little of everything."""
    head = await store.head_position()
    stream_id = TypeID.new("account")
    first = await store.append_stream(stream_id, new_events(1), expect=0)
    second = await store.append_stream(stream_id, new_events(30), expect=1)
    third = await store.append_stream(stream_id, new_events(1))
    with pytest.raises(StreamVersionMismatchError):
        await store.append_stream(stream_id, new_events(1), expect=1)
    assert second == await store.append_stream(
        stream_id, [_new(event) for event in second], expect=1
    )
    everything = [*first, *second, *third]
    assert everything == await store.read_stream(stream_id).collect()
    seen = await store.read_all(after_position=head).collect()
    assert everything == [event for event in seen if event.stream_id == stream_id]
    assert await versions(store, stream_id, reverse=True, count=2) == [32, 31]
    await store.truncate_stream(stream_id, 5)
    assert stream_id in [info.stream_id async for info in store.list_streams()]
    await store.delete_stream(stream_id)


def _new(event):
    return NewEvent(event.type, event.data, event.data_content_type, event.metadata, event.id)


@pytest.mark.parametrize("odd", ODD_POOLS)
async def test_any_pool_works_and_gets_its_connections_back_as_they_were(
    postgres_database, open_pool, odd
):
    """Whatever its autocommit, isolation, row factory, cursor or prepare threshold."""
    kwargs = dict(ODD_POOLS[odd])
    isolation = kwargs.pop("isolation", None)

    async def configure(connection):
        await connection.set_isolation_level(isolation)

    async with open_pool(postgres_database, kwargs=kwargs, configure=configure, max_size=2) as pool:
        async with pool.connection() as connection:
            before = _state(connection)

        store = PostgresEventStore(pool)
        await store.setup()
        for _ in range(7):
            await exercise(store)
        hooked = PostgresEventStore(pool, hooks=[_no_hook])
        await exercise(hooked)

        async with pool.connection() as connection:
            assert before == _state(connection)
        assert pool.get_stats().get("returns_bad", 0) == 0


async def _no_hook(_connection, _events):
    pass


def _state(connection):
    return (
        connection.autocommit,
        connection.isolation_level,
        connection.row_factory,
        connection.cursor_factory,
        connection.prepare_threshold,
    )


async def test_an_append_is_durable_where_the_pool_is_not(postgres_database, open_pool, store):
    """It turns synchronous_commit on for its own transaction, and for no other."""
    settings = []

    async def look(connection, _events):
        settings.extend(await (await connection.execute("SHOW synchronous_commit")).fetchone())

    options = {"options": "-c synchronous_commit=off"}
    async with open_pool(postgres_database, kwargs=options, max_size=1) as pool:
        await written(PostgresEventStore(pool, hooks=[look]), events=1)
        async with pool.connection() as connection:
            await look(connection, ())
    assert settings == ["on", "off"]


async def test_pgbouncer_in_transaction_mode(pgbouncer_server, postgres_server, open_pool):
    """Without prepared statements, which its older versions can't share; nothing else is lost."""
    name = postgres_server.create_database()
    url = pgbouncer_server.url_of(name)
    async with open_pool(url, max_size=6) as pool:
        store = PostgresEventStore(pool, prepare=False)
        await store.setup()
        await asyncio.gather(*(exercise(store) for _ in range(6)))
        async with core_connect(f"{url}?prepare=false") as connected:
            await exercise(connected)


@pytest.mark.parametrize(
    "cost",
    [
        ("append", 1),
        ("refused", 2),
        ("batch", 1),
        ("page", 1),
        ("two pages", 2),
        ("head", 2),
        ("all", 2),
        ("snapshot", 1),
        ("write snapshot", 1),
        ("checkpoint", 1),
        ("load", 1),
    ],
    ids=str,
)
async def test_round_trips_are_counted_on_the_wire(
    postgres_server, postgres_database, open_pool, store, cost
):
    """Once the statements are prepared and the schema is checked."""
    what, expected = cost
    stream_id = await written(store, events=1)
    long = await written(store, events=3_000)
    short = await written(store, events=5)
    account = TypeID.new("account")
    (moment,) = [e.timestamp for e in await store.read_stream(stream_id).collect()]
    snapshot = Snapshot(account, 1, moment, b"", "")
    projection = ProjectionID("orders", 1)
    with Proxy(postgres_server.host, postgres_server.port) as proxy:
        async with open_pool(proxy.url(postgres_database), max_size=1) as pool:
            through = PostgresEventStore(pool)
            snapshots, checkpoints = PostgresSnapshotStore(pool), PostgresCheckpointStore(pool)
            await snapshots.setup()
            await checkpoints.setup()

            async def refused():
                with pytest.raises(StreamVersionMismatchError):
                    await through.append_stream(stream_id, new_events(1), expect=7)

            version = 1

            async def append(count):
                nonlocal version
                await through.append_stream(stream_id, new_events(count), expect=version)
                version += count

            operations = {
                "append": lambda: append(1),
                "batch": lambda: append(500),
                "refused": refused,
                "page": lambda: through.read_stream(short).collect(),
                "two pages": lambda: through.read_stream(long).collect(),
                "head": through.head_position,
                "all": lambda: through.read_all(after_position=3_000).collect(),
                "snapshot": lambda: snapshots.read_snapshot(account),
                "write snapshot": lambda: snapshots.write_snapshot(snapshot),
                "checkpoint": lambda: checkpoints.save(projection, 5),
                "load": lambda: checkpoints.load(projection),
            }
            # Growth may have a statement prepared anew, and so may cost one more once in a while.
            counts = []
            for _ in range(8):
                with proxy.counting() as traffic:
                    await operations[what]()
                counts.append(traffic.round_trips)
            assert min(counts) == expected
            assert sorted(counts)[len(counts) // 2] == expected


async def test_plans_made_while_the_tables_are_small_are_given_up(
    postgres_database, open_pool, connect
):
    """A prepared statement that passes the indexes by would read the whole table each time."""
    rows_scanned = """
        SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables WHERE schemaname = 'estoria'"""
    async with (
        open_pool(postgres_database, max_size=1, kwargs={"autocommit": True}) as pool,
        connect(autocommit=True) as admin,
    ):
        store = PostgresEventStore(pool)
        await store.setup()
        stream_id = await written(store, events=1)

        async def scanned():
            async with pool.connection() as connection:
                await connection.execute("SELECT pg_stat_force_next_flush()")
            await admin.execute("SELECT pg_stat_clear_snapshot()")
            return (await (await admin.execute(rows_scanned)).fetchone())[0]

        async def use(version):
            await store.append_stream(stream_id, new_events(1), expect=version)
            await store.append_stream(stream_id, new_events(1), expect=Expect.STREAM_EXISTS)
            await store.read_stream(stream_id, after_version=version).collect()
            await store.read_all(count=1).collect()

        for table in ("streams", "events"):
            await admin.execute(f"ALTER TABLE estoria.{table} SET (autovacuum_enabled = off)")
            await admin.execute(f"VACUUM ANALYZE estoria.{table}")
        for version in range(1, 30, 2):
            await use(version)
        for _ in range(1_000):
            await written(store, events=1)
        before = await scanned()
        for version in range(31, 71, 2):
            await use(version)

        assert await scanned() - before < 20 * 500


async def test_ten_processes_set_up_at_once(postgres_database, open_pool):
    """None fails, and what they made works."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAMS),
            "setup",
            postgres_database,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(10)
    ]
    for process in processes:
        await process.stdout.readline()
    for process in processes:
        process.stdin.write(b"go\n")
    for process in processes:
        await process.communicate()
    assert [process.returncode for process in processes] == [0] * 10
    async with open_pool(postgres_database) as pool:
        await exercise(PostgresEventStore(pool))


async def test_ten_stores_set_up_at_once(postgres_database, open_pool):
    """In one process, each with a connection of its own."""
    async with open_pool(postgres_database) as pool:
        stores = [PostgresEventStore(pool, schema="at once") for _ in range(10)]
        await asyncio.gather(*(store.setup() for store in stores))
        await exercise(stores[3])


RIGHTS = {
    "writer": """
        GRANT USAGE ON SCHEMA estoria TO {role};
        GRANT SELECT ON estoria.schema_versions TO {role};
        GRANT SELECT, INSERT, UPDATE ON estoria.streams TO {role};
        GRANT SELECT, INSERT, DELETE ON estoria.events TO {role};
        GRANT SELECT, USAGE ON SEQUENCE estoria.positions TO {role};""",
    "appender": """
        GRANT USAGE ON SCHEMA estoria TO {role};
        GRANT SELECT ON estoria.schema_versions TO {role};
        GRANT SELECT, INSERT, UPDATE ON estoria.streams TO {role};
        GRANT SELECT, INSERT ON estoria.events TO {role};
        GRANT SELECT, USAGE ON SEQUENCE estoria.positions TO {role};""",
    "reader": """
        GRANT USAGE ON SCHEMA estoria TO {role};
        GRANT SELECT ON estoria.schema_versions, estoria.streams, estoria.events,
            estoria.positions TO {role};""",
    "stranger": "",
}
"""The least rights of each role, as the README lists them."""


@pytest.fixture
def as_role(postgres_server, postgres_database, open_pool, request):
    """A pool of a role that has just these rights."""
    name = postgres_database.rpartition("/")[2]

    def as_role(kind, rights):
        role = f"{kind}_{name}"
        with psycopg.connect(postgres_database, autocommit=True) as admin:
            admin.execute(f'CREATE ROLE "{role}" LOGIN')
            for statement in rights.format(role=f'"{role}"', database=f'"{name}"').split(";"):
                if statement.strip():
                    admin.execute(statement)

        def drop():
            with psycopg.connect(postgres_database, autocommit=True) as admin:
                admin.execute(f'DROP OWNED BY "{role}" CASCADE')
                admin.execute(f'DROP ROLE "{role}"')

        request.addfinalizer(drop)
        return open_pool(postgres_database.replace("postgres@", f"{role}@"), max_size=2)

    return as_role


async def test_a_writer_needs_no_more_than_its_rights(store, as_role):
    """And setup() with nothing to do asks for none."""
    await written(store, events=1)
    async with as_role("writer", RIGHTS["writer"]) as pool:
        writer = PostgresEventStore(pool)
        await writer.setup()
        await exercise(writer)
    async with as_role("appender", RIGHTS["appender"]) as pool:
        appender = PostgresEventStore(pool)
        stream_id = await written(appender, events=2)
        with pytest.raises(PermissionMissingError, match="events"):
            await appender.delete_stream(stream_id)


async def test_a_reader_needs_no_more_than_its_rights(store, as_role):
    """What it can't do is named."""
    stream_id = await written(store, events=2)
    async with as_role("reader", RIGHTS["reader"]) as pool:
        reader = PostgresEventStore(pool)
        assert await versions(reader, stream_id) == [1, 2]
        assert len(await reader.read_all(stream_types=["account"]).collect()) == 2
        assert await reader.head_position() > 0
        with pytest.raises(PermissionMissingError, match="permission denied"):
            await written(reader, events=1)


async def test_a_reader_sees_what_another_role_holds_back(store, as_role, connect):
    """The server's lock table shows the locks of all roles to all."""
    async with as_role("reader", RIGHTS["reader"]) as pool, connect() as connection:
        reader = PostgresEventStore(pool)
        await store.within(connection).append_stream(TypeID.new("slow"), new_events(1))
        await written(store, events=1)
        assert await reader.read_all().collect() == []


async def test_a_migrator_needs_no_more_than_its_rights(as_role):
    """To create on the database; and one without them is told."""
    async with as_role("migrator", "GRANT CREATE ON DATABASE {database} TO {role}") as pool:
        store = PostgresEventStore(pool)
        await store.setup()
        await exercise(store)
    async with as_role("stranger", RIGHTS["stranger"]) as pool:
        with pytest.raises(PermissionMissingError):
            await PostgresEventStore(pool, schema="elsewhere").setup()


async def test_a_schema_that_is_missing_is_named(pool):
    """For every kind of store, with what to do."""
    for store in (PostgresEventStore(pool), PostgresEventStore(pool, schema="not there")):
        with pytest.raises(SchemaMissingError, match=r"await store\.setup\(\)"):
            await written(store, events=1)
    with pytest.raises(SchemaMissingError, match="snapshots"):
        await PostgresSnapshotStore(pool).read_snapshot(TypeID.new("account"))
    with pytest.raises(SchemaMissingError, match="checkpoints"):
        await PostgresCheckpointStore(pool).load(ProjectionID("orders", 1))


async def test_a_schema_that_vanishes_is_named(store, connect):
    """Also once it was checked."""
    async with connect(autocommit=True) as admin:
        await admin.execute("DROP SCHEMA estoria CASCADE")
    with pytest.raises(SchemaMissingError):
        await written(store, events=1)


async def test_a_foreign_schema_is_named(pool, connect):
    """Tables of somebody else under the same names are left alone."""
    async with connect(autocommit=True) as admin:
        await admin.execute("CREATE SCHEMA estoria CREATE TABLE events (mine int)")
        with pytest.raises(SchemaError, match="something else"):
            await PostgresEventStore(pool).setup()
        rows = await admin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'estoria'")
        assert await rows.fetchone() == (1,)


async def test_a_newer_schema_is_named(store, pool, connect):
    """By every use, not only by setup()."""
    async with connect(autocommit=True) as admin:
        await admin.execute("UPDATE estoria.schema_versions SET version = 99")
    for use in (PostgresEventStore(pool).setup, PostgresEventStore(pool).head_position):
        with pytest.raises(SchemaVersionError, match="upgrade") as caught:
            await use()
        assert caught.value.found == 99


@pytest.fixture
def next_release(monkeypatch):
    """A release that knows one version more."""

    released = _schema.EVENTS.versions

    def next_release(*steps):
        versions = (*released, steps)
        monkeypatch.setattr(_schema, "EVENTS", _schema.Component("events", versions))

    return next_release


async def test_a_migration_keeps_what_is_there(store, pool, next_release):
    """Run by many at once, and again; an older store says so until then."""
    stream_id = await written(store, events=3)
    next_release("ALTER TABLE {events} ADD COLUMN extra text", "CREATE INDEX ON {events} (extra)")
    newer = [PostgresEventStore(pool) for _ in range(5)]
    with pytest.raises(SchemaVersionError, match="migrates"):
        await versions(newer[0], stream_id)

    await asyncio.gather(*(each.setup() for each in newer))
    await newer[0].setup()

    assert await versions(newer[1], stream_id) == [1, 2, 3]
    await exercise(newer[2])


async def test_a_migration_that_is_stopped_half_way_never_was(store, pool, next_release):
    """All of it or nothing; the next one does it."""
    stream_id = await written(store, events=3)
    next_release("ALTER TABLE {events} ADD COLUMN extra text", "SELECT 1 / 0")
    with pytest.raises(Exception, match="division"):
        await PostgresEventStore(pool).setup()
    assert await versions(store, stream_id) == [1, 2, 3]

    next_release("ALTER TABLE {events} ADD COLUMN extra text")
    await PostgresEventStore(pool).setup()
    assert await versions(store, stream_id) == [1, 2, 3]


async def test_the_printed_schema_is_the_one_that_setup_makes(pool, connect):
    """For those who run their own migrations; setup() then finds nothing to do."""
    async with connect(autocommit=True) as admin:
        await admin.execute(schema_sql("by hand"))
    store = PostgresEventStore(pool, schema="by hand")
    await store.setup()
    await exercise(store)
    await PostgresSnapshotStore(pool, schema="by hand").read_snapshot(TypeID.new("account"))
    await PostgresCheckpointStore(pool, schema="by hand").load(ProjectionID("orders", 1))


NASTY = "x'; DROP TABLE estoria.events; --\"; $$ {events} %s %(id)s \\ /*guard*/"


async def test_no_text_of_a_caller_is_ever_sql(store, pool):
    """Stream types, event types, content types, metadata, filters, projections, schemas."""
    snapshots, checkpoints = PostgresSnapshotStore(pool), PostgresCheckpointStore(pool)
    await snapshots.setup()
    await checkpoints.setup()
    stream_id = TypeID(NASTY, uuid7())
    batch = [NewEvent(NASTY, NASTY.encode(), NASTY, {NASTY: NASTY}) for _ in range(2)]
    for expect in (Expect.NO_STREAM, 2, Expect.ANY, Expect.STREAM_EXISTS):
        renewed = [NewEvent(e.type, e.data, e.data_content_type, e.metadata) for e in batch]
        appended = await store.append_stream(stream_id, renewed, expect=expect)
        assert appended[0].metadata == {NASTY: NASTY}
    assert len(await store.read_all(stream_types=[NASTY], event_types=[NASTY]).collect()) == 8
    assert [info.version async for info in store.list_streams(stream_type=NASTY)] == [8]
    await snapshots.write_snapshot(Snapshot(stream_id, 1, appended[0].timestamp, b"", NASTY))
    assert (await snapshots.read_snapshot(stream_id)).data_content_type == NASTY
    await checkpoints.save(ProjectionID(NASTY, 1), 1)
    assert (await checkpoints.load(ProjectionID(NASTY, 1))).position == 1
    await store.truncate_stream(stream_id, 3)
    await store.delete_stream(stream_id)

    odd = PostgresEventStore(pool, schema="o'dd\"; DROP SCHEMA estoria; --%s{x}")
    await odd.setup()
    await exercise(odd)
    await exercise(store)


@pytest.mark.parametrize("schema", ["", "nul\0", "x" * 64, "é" * 32, "pg_mine", None, 3])
async def test_what_can_t_be_a_schema_is_refused(pool, schema):
    """Before anything is sent."""
    with pytest.raises(ValueError, match="schema"):
        PostgresEventStore(pool, schema=schema)


async def test_json_payloads_are_readable_in_sql(store, connect):
    """And one that is no JSON after all hides nobody else's."""
    stream_id = TypeID.new("account")
    batch = [
        NewEvent("a", b'{"n": 7}', "application/json", {"who": "me"}),
        NewEvent("b", b'{"n": 8', "application/json"),
        NewEvent("c", b"\xff\0", "application/octet-stream"),
        NewEvent("d", b'{"n": "\\u0000"}', "application/vnd.x+json; charset=utf-8"),
    ]
    (event, *_) = await store.append_stream(stream_id, batch)
    async with connect() as connection:
        rows = await connection.execute(
            "SELECT type, data ->> 'n', metadata ->> 'who', stream_id, "
            "timestamp AT TIME ZONE 'UTC' FROM estoria.readable_events "
            "WHERE type <> 'd' ORDER BY position"
        )
        first, *others = await rows.fetchall()
    assert first == ("a", "7", "me", str(stream_id), event.timestamp.replace(tzinfo=None))
    assert [row[:2] for row in others] == [("b", None), ("c", None)]


async def test_very_large_batches_and_events(store):
    """Several statements in one transaction; a page that is cut by its bytes."""
    stream_id = TypeID.new("account")
    appended = await store.append_stream(stream_id, new_events(45_000), expect=0)
    positions = [event.global_position for event in appended]
    assert positions == sorted(set(positions))
    assert [event.stream_version for event in appended] == list(range(1, 45_001))
    assert appended == await store.read_stream(stream_id).collect()

    heavy = TypeID.new("account")
    sizes = [5, 20 * 2**20, 5, 3 * 2**20, 3 * 2**20, 5, 50 * 2**20]
    batch = [NewEvent("big", bytes(size)) for size in sizes]
    await store.append_stream(heavy, batch)
    for reverse in (False, True):
        found = [len(e.data) async for e in store.read_stream(heavy, reverse=reverse)]
        assert found == (sizes[::-1] if reverse else sizes)
    every = store.read_all(after_position=positions[-1])
    assert [len(event.data) async for event in every] == sizes


async def test_a_pool_that_can_t_carry_all_texts_is_named(postgres_database, open_pool, store):
    """Rather than a driver's error at the first emoji."""
    async with open_pool(postgres_database, kwargs={"client_encoding": "latin1"}) as pool:
        with pytest.raises(SchemaError, match="UTF8"):
            await written(PostgresEventStore(pool), events=1)


async def test_within_needs_a_connection_of_the_driver(store):
    """Nothing else has a transaction."""
    with pytest.raises(TypeError, match="AsyncConnection"):
        store.within(object())


async def test_within_begins_no_transaction_by_itself(store, connect):
    """With autocommit on it would commit at once."""
    async with connect(autocommit=True) as connection:
        inside = store.within(connection)
        with pytest.raises(TransactionRequiredError, match="autocommit"):
            await inside.append_stream(TypeID.new("account"), new_events(1))
        async with connection.transaction():
            await inside.append_stream(TypeID.new("account"), new_events(1))
    assert len(await store.read_all().collect()) == 1


async def test_both_schemes_are_registered(postgres_database):
    """For `estoria.core.connect`."""
    for scheme in ("postgres", "postgresql"):
        url = postgres_database.replace("postgresql://", f"{scheme}://")
        async with core_connect(f"{url}?schema=by+scheme&pool_size=2&pool_timeout=5") as store:
            await store.setup()
            await exercise(store)
