"""What can be wrong with a file, and what is said then."""

import asyncio
import multiprocessing
import os
import pwd
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from estoria.core import (
    EstoriaError,
    NewEvent,
    ProjectionID,
    SchemaError,
    SchemaMissingError,
    SchemaVersionError,
    StoreClosedError,
    StoreFullError,
    StoreMisusedError,
    StoreReadOnlyError,
    StoreUnavailableError,
    TypeID,
    connect,
)
from estoria.core.testing import new_events, versions, written
from estoria.sqlite import (
    SQLiteCheckpointStore,
    SQLiteDatabase,
    SQLiteEventStore,
    SQLiteSnapshotStore,
)

pytestmark = pytest.mark.anyio


async def test_what_was_written_is_there_after_opening_again(path):
    async with SQLiteEventStore.connect(path) as store:
        await store.setup()
        stream_id = await written(store, events=3)
        before = await store.read_stream(stream_id).collect()

    async with SQLiteEventStore.connect(path) as store:
        assert await store.read_stream(stream_id).collect() == before


async def test_closing_leaves_one_file(path):
    async with SQLiteEventStore.connect(path) as store:
        await store.setup()
        await written(store)

    assert [file.name for file in path.parent.iterdir()] == ["events.db"]


async def test_a_closed_store_says_so(path):
    async with SQLiteEventStore.connect(path) as store:
        await store.setup()

    with pytest.raises(StoreClosedError, match=r"events\.db"):
        await written(store)


async def test_a_database_outlives_the_stores_on_it(path):
    async with SQLiteDatabase.open(path) as database:
        for _ in range(2):
            store = SQLiteEventStore(database)
            await store.setup()
            await written(store)


@pytest.mark.parametrize(
    "form", ["sqlite:///{}", "sqlite:////{}?busy_timeout=1.5&durable=false&readers=1"]
)
async def test_urls_name_files(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    name = "a b%20c.db"
    place = name if form.count("/") == 3 else str(tmp_path / name).lstrip("/")
    async with connect(form.format(place.replace("%", "%25").replace(" ", "%20"))) as store:
        await store.setup()

    assert (tmp_path / name).exists()


async def test_a_relative_path_is_one_file_wherever_the_process_goes(tmp_path, monkeypatch):
    """Readers open their connections when they are needed first."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with connect("SQLITE:///events.db") as store:
        await store.setup()
        stream_id = await written(store, events=2)
        monkeypatch.chdir(tmp_path / "elsewhere")

        assert await versions(store, stream_id) == [1, 2]

    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:"])
async def test_urls_name_memory(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    async with connect(url) as store:
        await store.setup()
        assert await versions(store, await written(store, events=2)) == [1, 2]

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://host/x.db",
        "sqlite:x.db",
        "sqlite:///x.db?busy_timeout=soon",
        "sqlite:///x.db?busy_timeout=-1",
        "sqlite:///x.db?busy_timeout=inf",
        "sqlite:///x.db?busy_timeout=nan",
        "sqlite:///x.db?durable=yes",
        "sqlite:///x.db?readers=0",
        "sqlite:///x.db?mode=ro",
    ],
)
async def test_a_url_that_makes_no_sense_is_refused(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="busy_timeout|readers"):
        async with connect(url):
            pass

    assert not list(tmp_path.iterdir())


async def test_a_file_that_is_no_database_is_left_alone(path):
    text = b"these are somebody's notes\n" * 500
    path.write_bytes(text)

    with pytest.raises(SchemaError, match="not an SQLite database"):
        async with SQLiteEventStore.connect(path):
            pass

    assert path.read_bytes() == text


@pytest.mark.parametrize("name", ["missing/events.db", "."])
async def test_a_file_that_can_t_be_opened(tmp_path, name):
    with pytest.raises(StoreUnavailableError, match="can't be opened"):
        async with SQLiteEventStore.connect(tmp_path / name):
            pass


def attempt(path, pipe):
    """In a process without rights, try to write, and tell what was said."""
    if os.geteuid() == 0:
        os.setuid(pwd.getpwnam("nobody").pw_uid)

    async def write():
        async with SQLiteEventStore.connect(path) as store:
            await written(store)

    try:
        asyncio.run(write())
    except EstoriaError as error:
        pipe.send((type(error).__name__, str(error)))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("there", ["nothing", "a database", "an open database"])
def test_a_read_only_directory(there):
    """Root may write anywhere: the attempt is made by a user who may not."""
    with TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        folder = Path(parent) / "locked"
        folder.mkdir()
        path = folder / "events.db"
        if there != "nothing":
            asyncio.run(one_stream(path))
        opened = sqlite3.connect(path) if there == "an open database" else None
        if opened:
            opened.execute("SELECT count(*) FROM estoria_events").fetchall()
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        mine, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=attempt, args=(path, theirs))
        child.start()
        assert mine.poll(20)
        name, text = mine.recv()
        child.join()
        mine.close()
        theirs.close()
        if opened:
            opened.close()
        folder.chmod(0o755)

    assert name in ("StoreReadOnlyError", "StoreUnavailableError")
    assert "events.db" in text
    assert "read-only" in text or "writable" in text


async def one_stream(path):
    async with SQLiteEventStore.connect(path) as store:
        await store.setup()
        await written(store)


async def test_a_full_disk_loses_nothing(path, store):
    stream_id = await written(store, events=3)
    (pages,) = await store._database.write(
        lambda connection: connection.execute("PRAGMA page_count").fetchone()
    )
    limit = f"PRAGMA max_page_count = {pages + 2}"
    await store._database._writer.run(lambda connection: connection.execute(limit), writes=False)

    with pytest.raises(StoreFullError) as caught:
        await store.append_stream(stream_id, [NewEvent("large", bytes(2**20))], expect=3)
    assert str(path) in str(caught.value)
    assert await versions(store, stream_id) == [1, 2, 3]

    more = "PRAGMA max_page_count = 1000000"
    await store._database._writer.run(lambda connection: connection.execute(more), writes=False)
    await store.append_stream(stream_id, [NewEvent("large", bytes(2**20))], expect=3)
    assert await versions(store, stream_id) == [1, 2, 3, 4]


async def test_of_a_group_only_what_doesn_t_fit_fails(path, store, other):
    """Others that wait in the same transaction get in."""
    run = store._database._writer.run
    (pages,) = await run(lambda c: c.execute("PRAGMA page_count").fetchone(), writes=False)
    limit = f"PRAGMA max_page_count = {pages + 30}"
    await run(lambda c: c.execute(limit), writes=False)
    other.execute("BEGIN IMMEDIATE")
    small = [TypeID.new("account") for _ in range(5)]
    large = TypeID.new("account")
    writes = [store.append_stream(s, new_events(1)) for s in small[:2]]
    writes += [store.append_stream(large, [NewEvent("large", bytes(2**20))])]
    writes += [store.append_stream(s, new_events(1)) for s in small[2:]]
    tasks = [asyncio.ensure_future(write) for write in writes]
    await asyncio.sleep(0)
    other.execute("COMMIT")

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    failed = [o for o in outcomes if isinstance(o, BaseException)]
    assert [type(error) for error in failed] == [StoreFullError]
    for stream_id in small:
        assert await versions(store, stream_id) == [1]


STORES = [SQLiteEventStore, SQLiteSnapshotStore, SQLiteCheckpointStore]
FIRST_CALLS = {
    SQLiteEventStore: lambda store: store.head_position(),
    SQLiteSnapshotStore: lambda store: store.read_snapshot(TypeID.new("account")),
    SQLiteCheckpointStore: lambda store: store.delete(ProjectionID("x", 1)),
}


@pytest.mark.parametrize("kind", STORES)
async def test_a_missing_schema_is_named(path, kind):
    async with SQLiteDatabase.open(path) as database:
        with pytest.raises(SchemaMissingError, match="setup"):
            await FIRST_CALLS[kind](kind(database))
        await kind(database).setup()
        await FIRST_CALLS[kind](kind(database))


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize(("version", "advice"), [(0, "migrates"), (2, "upgrade"), (99, "upgrade")])
async def test_a_schema_of_another_version_is_named(path, kind, version, advice):
    async with SQLiteDatabase.open(path) as database:
        await kind(database).setup()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE estoria_schema SET version = ?", (version,))
    connection.close()

    async with SQLiteDatabase.open(path) as database:
        with pytest.raises(SchemaVersionError, match=advice) as caught:
            await FIRST_CALLS[kind](kind(database))
        assert (caught.value.found, caught.value.known) == (version, 1)
        if version > 1:
            with pytest.raises(SchemaVersionError, match="upgrade"):
                await kind(database).setup()


async def test_setup_leaves_the_events_alone(path, store):
    stream_id = await written(store, events=3)

    async with SQLiteEventStore.connect(path) as again:
        await again.setup()
        assert await versions(again, stream_id) == [1, 2, 3]


async def test_a_setup_that_fails_half_way_leaves_nothing(path, other):
    """The tables come all together: a name that somebody else uses is in the way of all."""
    other.execute("CREATE TABLE estoria_events (mine TEXT)")
    async with SQLiteEventStore.connect(path) as store:
        with pytest.raises(StoreUnavailableError, match="already exists"):
            await store.setup()

    tables = other.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    assert tables == [("estoria_events",)]


async def test_positions_are_never_used_again(store):
    """A plain rowid is, once the newest stream is deleted."""
    stream_id = await written(store, events=3)
    head = await store.head_position()
    await store.delete_stream(stream_id)
    assert await store.head_position() == head

    appended = await store.append_stream(TypeID.new("account"), new_events(1))

    assert appended[0].global_position > head


async def test_what_was_committed_is_synced_to_the_disk(store):
    """FULL, and WAL: the settings on which the durability rests."""

    def settings(connection):
        names = ("synchronous", "journal_mode")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await store._database.write(settings) == [2, "wal"]


def test_a_second_event_loop_is_told(path):
    async def open_it():
        manager = SQLiteEventStore.connect(path)
        store = await manager.__aenter__()
        await store.setup()
        return manager, store

    async def use(store):
        await store.head_position()

    loop = asyncio.new_event_loop()
    manager, store = loop.run_until_complete(open_it())
    with pytest.raises(StoreMisusedError):
        asyncio.run(use(store))
    loop.run_until_complete(manager.__aexit__(None, None, None))
    loop.close()


async def test_one_payload_of_100_mib_comes_back(store):
    data = os.urandom(2**20) * 100
    stream_id = TypeID.new("file")

    await store.append_stream(stream_id, [NewEvent("uploaded", data)])

    (event,) = await store.read_stream(stream_id).collect()
    assert event.data == data


async def test_large_payloads_are_read_a_few_at_a_time(store):
    """A page is bounded by bytes as well as by events."""
    stream_id = TypeID.new("file")
    for _ in range(6):
        await store.append_stream(stream_id, [NewEvent("uploaded", bytes(3 * 2**20))])

    backwards = store.read_stream(stream_id, reverse=True)
    for read in (store.read_stream(stream_id), backwards, store.read_all()):
        sizes = [len(page) async for page in read.pages()]
        assert sum(sizes) == 6
        assert max(sizes) == 2


async def test_a_batch_of_100_000_is_one_append(store):
    stream_id, batch = TypeID.new("account"), new_events(100_000)

    appended = await store.append_stream(stream_id, batch, expect=0)

    assert appended.stream.version == 100_000
    assert (await store.append_stream(stream_id, batch, expect=0))[-1] == appended[-1]
    positions = [event.global_position async for event in store.read_stream(stream_id)]
    assert positions == [event.global_position for event in appended]
    assert positions == sorted(set(positions))


async def test_a_read_only_connection_is_named(path, store):
    await written(store)
    run = store._database._writer.run
    await run(lambda connection: connection.execute("PRAGMA query_only = 1"), writes=False)

    with pytest.raises(StoreReadOnlyError):
        await written(store)
