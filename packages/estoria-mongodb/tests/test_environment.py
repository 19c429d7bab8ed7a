"""Clients, layouts, rights, processes and schemas of every sort."""

import asyncio
import sys
from pathlib import Path

import pytest
from bson.binary import UuidRepresentation
from bson.raw_bson import RawBSONDocument
from estoria_testservers import start_mongodb
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.read_concern import ReadConcern

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
from estoria.mongodb import (
    BatchTooLargeError,
    Layout,
    MongoCheckpointStore,
    MongoEventStore,
    MongoSnapshotStore,
    PermissionMissingError,
    _schema,
)

pytestmark = pytest.mark.anyio

PROGRAMS = Path(__file__).with_name("programs.py")


def as_given(events):
    return [NewEvent(e.type, e.data, e.data_content_type, e.metadata, e.id) for e in events]


async def exercise(store):
    """A little of everything."""
    head = await store.head_position()
    stream_id = TypeID.new("account")
    first = await store.append_stream(stream_id, new_events(1), expect=0)
    second = await store.append_stream(stream_id, new_events(30), expect=1)
    third = await store.append_stream(stream_id, new_events(1))
    with pytest.raises(StreamVersionMismatchError):
        await store.append_stream(stream_id, new_events(1), expect=1)
    assert second == await store.append_stream(stream_id, as_given(second), expect=1)
    everything = [*first, *second, *third]
    assert everything == await store.read_stream(stream_id).collect()
    seen = await store.read_all(after_position=head).collect()
    assert everything == [event for event in seen if event.stream_id == stream_id]
    assert await versions(store, stream_id, reverse=True, count=2) == [32, 31]
    await store.truncate_stream(stream_id, 5)
    assert stream_id in [info.stream_id async for info in store.list_streams()]
    await store.delete_stream(stream_id)


ODD_CLIENTS = {
    "secondary preferred": {"readPreference": "secondaryPreferred"},
    "unacknowledged": {"w": 0},
    "one acknowledgement": {"w": 1, "journal": False},
    "local reads": {"readConcernLevel": "local"},
    "no retries": {"retryWrites": False, "retryReads": False},
    "legacy uuids": {"uuidRepresentation": "pythonLegacy"},
    "raw documents": {"document_class": RawBSONDocument},
    "aware moments": {"tz_aware": True},
    "compressed": {"compressors": "zlib"},
    "one connection": {"maxPoolSize": 1},
}


@pytest.mark.parametrize("odd", ODD_CLIENTS)
async def test_any_client_works(mongodb_server, mongodb_database, layout, odd):
    """Whatever its concerns, preferences, codecs and retries."""
    async with AsyncMongoClient(mongodb_server.url, **ODD_CLIENTS[odd]) as client:
        store = MongoEventStore(client, mongodb_database, layout=layout)
        await store.setup()
        await exercise(store)
        snapshots = MongoSnapshotStore(client, mongodb_database)
        await snapshots.setup()
        (event,) = await store.append_stream(TypeID.new("account"), new_events(1))
        snapshot = Snapshot(event.stream_id, 1, event.timestamp, b"\0\xff", "x")
        await snapshots.write_snapshot(snapshot)
        assert snapshot == await snapshots.read_snapshot(event.stream_id)


@pytest.fixture
def sent(mongodb_server):
    """Commands that a client sent, as it sent them."""
    from pymongo import monitoring  # noqa: PLC0415 - a listener must inherit from it

    class Listener(monitoring.CommandListener):
        def __init__(self):
            self.commands = []

        def started(self, event):
            self.commands.append(dict(event.command))

        def succeeded(self, event):
            pass

        def failed(self, event):
            pass

    return Listener()


async def test_what_is_acknowledged_lasts_and_what_is_read_stays(
    mongodb_server, mongodb_database, layout, sent
):
    """A majority and the journal for every write but the counter's; majority and primary for reads.

    Whatever the client is set to.
    """
    async with AsyncMongoClient(
        mongodb_server.url, w=1, journal=False, readConcernLevel="local", event_listeners=[sent]
    ) as client:
        store = MongoEventStore(client, mongodb_database, layout=layout)
        await store.setup()
        sent.commands.clear()
        await exercise(store)
    writes = reads = 0
    majority = {"w": "majority", "j": True}
    for command in sent.commands:
        name = next(iter(command))
        if name in ("insert", "update", "delete", "commitTransaction") and (
            "txnNumber" not in command or name == "commitTransaction"
        ):
            concern = command["writeConcern"]
            assert {key: concern[key] for key in majority} == majority
            writes += 1
        elif name in ("find", "aggregate"):
            assert command["readConcern"]["level"] == "majority"
            assert command.get("$readPreference", {"mode": "primary"})["mode"] in (
                "primary",
                "primaryPreferred",  # of a direct connection, to a primary
            )
            reads += 1
    assert writes >= 4
    assert reads >= 4


async def test_the_caller_s_transaction_keeps_its_concerns(client, mongodb_database, laid_out):
    """The library sets none inside it."""
    async with client.start_session() as session:
        await session.start_transaction(
            read_concern=ReadConcern("snapshot"),
            write_concern=WriteConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        inside = laid_out.within(session)
        stream_id = TypeID.new("account")
        await inside.append_stream(stream_id, new_events(2))
        assert await versions(inside, stream_id) == [1, 2]
        await session.commit_transaction()
    assert await versions(laid_out, stream_id) == [1, 2]


COSTS = {
    "append": (2, 4),
    "first append": (3, 5),
    "refused": (1, 1),
    "batch": (2, 4),
    "unknown": (3, 5),
    "page": (1, 1),
    "two pages": (2, 2),
    "head": (1, 1),
    "all": (2, 3),
    "snapshot": (1, 1),
    "write snapshot": (1, 1),
    "checkpoint": (1, 1),
    "load": (1, 1),
}
"""Round trips with one collection, and with one for each type."""


@pytest.mark.parametrize("what", COSTS)
async def test_round_trips_are_counted_on_the_wire(
    mongodb_server, mongodb_database, laid_out, layout, proxy, proxied, what
):
    """Once the connection stands and the schema is checked."""
    stream_id = await written(laid_out, events=1)
    short = await written(laid_out, events=5)
    long = await written(laid_out, events=1)
    for _ in range(3):
        await laid_out.append_stream(long, new_events(600))
    account = TypeID.new("account")
    (moment,) = [e.timestamp for e in await laid_out.read_stream(stream_id).collect()]
    snapshot = Snapshot(account, 1, moment, b"", "")
    projection = ProjectionID("orders", 1)
    through = MongoEventStore(proxied, mongodb_database, layout=layout)
    snapshots = MongoSnapshotStore(proxied, mongodb_database)
    checkpoints = MongoCheckpointStore(proxied, mongodb_database)
    await snapshots.setup()
    await checkpoints.setup()
    await snapshots.write_snapshot(snapshot)
    version = 1

    async def append(count):
        nonlocal version
        await through.append_stream(stream_id, new_events(count), expect=version)
        version += count

    async def refused():
        with pytest.raises(StreamVersionMismatchError):
            await through.append_stream(stream_id, new_events(1), expect=Expect.NO_STREAM)

    async def unknown():
        through._streams.forget_all()
        await through.append_stream(short, new_events(1))

    operations = {
        "append": lambda: append(1),
        "first append": lambda: written(through, events=1),
        "batch": lambda: append(500),
        "refused": refused,
        "unknown": unknown,
        "page": lambda: through.read_stream(short).collect(),
        "two pages": lambda: through.read_stream(long).collect(),
        "head": through.head_position,
        "all": lambda: through.read_all(count=10).collect(),
        "snapshot": lambda: snapshots.read_snapshot(account),
        "write snapshot": lambda: snapshots.write_snapshot(snapshot),
        "checkpoint": lambda: checkpoints.save(projection, 5),
        "load": lambda: checkpoints.load(projection),
    }
    await operations[what]()
    with proxy.counting() as traffic:
        await operations[what]()
    assert traffic.round_trips == COSTS[what][layout.only is None]


async def test_ten_processes_set_up_at_once(mongodb_server, mongodb_database, layout, client):
    """None fails, and what they made works."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *(str(PROGRAMS), "setup", mongodb_server.url, mongodb_database, layout.name),
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
    store = MongoEventStore(client, mongodb_database, layout=layout, patience=0)
    assert len(await store.read_all().collect()) == 10
    await exercise(store)


LAYOUTS = {
    "single": Layout.single(),
    "single elsewhere": Layout.single("elsewhere"),
    "per type": Layout.per_type(),
    "per type with prefix": Layout.per_type("events "),
    "selected": Layout.selected("by first letter", lambda name: f"e{name[:1]}"),
    "selected again": Layout.selected("by last letter", lambda name: f"e{name[-1:]}"),
}


async def test_another_layout_is_refused(client, mongodb_database):
    """By setup, and by every use of a store that didn't set up."""
    for name, layout in LAYOUTS.items():
        store = MongoEventStore(client, mongodb_database, layout=layout)
        await store.setup()
        stream_id = await written(store, events=1)
        for other_name, other in LAYOUTS.items():
            if other_name == name:
                continue
            stranger = MongoEventStore(client, mongodb_database, layout=other)
            uses = [
                stranger.setup(),
                stranger.head_position(),
                versions(stranger, stream_id),
                written(stranger, events=1),
            ]
            for use in uses:
                with pytest.raises(SchemaError, match="layout"):
                    await use
        assert await versions(store, stream_id) == [1]
        assert len(await store.read_all().collect()) == 1
        await client.drop_database(mongodb_database)


async def test_another_layout_is_refused_in_a_transaction(client, mongodb_database, store):
    """Before anything is written."""
    stranger = MongoEventStore(client, mongodb_database, layout=Layout.per_type())
    async with client.start_session() as session, await session.start_transaction():
        with pytest.raises(SchemaError, match="layout"):
            await stranger.within(session).append_stream(TypeID.new("account"), new_events(1))
    assert await store.read_all().collect() == []


ODD_TYPES = ["system.profile", "a$b", "100%", "é" * 100, "x" * 200, "a.b", "Ab", "aB", "ab", " "]


@pytest.mark.parametrize("name", ["per type", "per type with prefix", "selected"])
async def test_any_type_has_a_collection(client, mongodb_database, name):
    """What a collection's name can't hold is written otherwise, and no two meet by accident."""
    layout = LAYOUTS[name]
    if name == "selected":
        layout = Layout.selected("hash", lambda type_name: f"e{sum(type_name.encode()) % 3}")
    store = MongoEventStore(client, mongodb_database, layout=layout)
    await store.setup()
    streams = [TypeID(name, uuid7()) for name in ODD_TYPES]
    for stream_id in streams:
        await store.append_stream(stream_id, new_events(2, type=stream_id.type[:10].strip() or "x"))

    assert [e.stream_id for e in await store.read_all().collect()] == [
        stream_id for stream_id in streams for _ in range(2)
    ]
    assert [info.stream_id async for info in store.list_streams()] == sorted(
        streams, key=lambda stream_id: (stream_id.type.encode(), stream_id.uuid)
    )
    for stream_id in streams:
        assert await versions(store, stream_id) == [1, 2]
        found = await store.read_all(stream_types=[stream_id.type]).collect()
        assert {event.stream_id for event in found} == {stream_id}
    names = await client[mongodb_database].list_collection_names()
    owned = {name for name in names if name.startswith("_")}
    assert owned == {"_schema", "_counters", "_positions", "_collections"}
    assert len(set(names) - owned) == (3 if name == "selected" else len(ODD_TYPES))


async def test_collections_by_the_hundred_are_listed_and_read(client, mongodb_database):
    """An answer's first batch has 101 documents unless it is asked for more."""
    store = MongoEventStore(client, mongodb_database, layout=Layout.per_type())
    await store.setup()
    streams = [TypeID.new(f"t{number:03}") for number in range(105)]
    for stream_id in streams:
        await store.append_stream(stream_id, new_events(1), expect=0)
    assert [info.stream_id async for info in store.list_streams()] == streams
    assert [event.stream_id for event in await store.read_all().collect()] == streams


@pytest.mark.parametrize(
    "make",
    [
        lambda: Layout.single(""),
        lambda: Layout.single("_mine"),
        lambda: Layout.single("a$b"),
        lambda: Layout.single("system.x"),
        lambda: Layout.single("nul\0"),
        lambda: Layout.single("x" * 250),
        lambda: Layout.per_type("_mine"),
        lambda: Layout.selected("s", lambda _: "_mine").select("a"),
        lambda: Layout.selected("s", lambda _: None).select("a"),
    ],
)
async def test_what_can_t_be_a_collection_is_refused(make):
    """Before anything is sent."""
    with pytest.raises(ValueError, match="collection"):
        make()


async def test_a_selector_that_gives_nonsense_writes_nothing(client, mongodb_database):
    """Its error names what it gave."""
    layout = Layout.selected("s", lambda name: "_x" if name == "bad" else "good")
    store = MongoEventStore(client, mongodb_database, layout=layout)
    await store.setup()
    with pytest.raises(ValueError, match="_x"):
        await written(store, events=1, stream_type="bad")
    await written(store, events=1)
    assert len(await store.read_all().collect()) == 1


@pytest.fixture
def guarded(fresh_server):
    """A server that lets nobody in without a user; makes users and their clients."""
    server = fresh_server(start_mongodb, password="right")

    def url(name="root", privileges=None):
        if privileges is None:
            return server.url
        with server.client() as admin:
            database = admin["estoria"]
            database.command("createRole", name, privileges=privileges, roles=[])
            database.command("createUser", name, pwd="p", roles=[name])
        return server.url.replace("root:right@", f"{name}:p@").replace("/?", "/estoria?")

    return url


def on(collection, *actions):
    return {"resource": {"db": "estoria", "collection": collection}, "actions": [*actions]}


WRITER = [
    on("_schema", "find"),
    on("_counters", "find", "insert", "update"),
    on("events", "find", "insert", "update"),
]
READER = [on("_schema", "find"), on("_counters", "find"), on("events", "find")]
MIGRATOR = [
    on("_schema", "find", "insert", "update"),
    on("events", "createIndex", "createCollection"),
]
WRITER_PER_TYPE = [
    on("_schema", "find"),
    on("", "find", "insert", "update", "createIndex", "createCollection"),
]
"""The least rights of each, as the README lists them."""


async def test_everybody_needs_no_more_than_the_listed_rights(guarded):
    """What they can't do is named."""
    async with AsyncMongoClient(guarded("migrator", MIGRATOR)) as client:
        await MongoEventStore(client).setup()
    async with AsyncMongoClient(guarded("writer", WRITER)) as client:
        writer = MongoEventStore(client)
        await exercise(writer)
        stream_id = await written(writer, events=2)
        with pytest.raises(PermissionMissingError):
            await MongoSnapshotStore(client).setup()
    async with AsyncMongoClient(guarded("reader", READER)) as client:
        reader = MongoEventStore(client)
        assert await versions(reader, stream_id) == [1, 2]
        assert len(await reader.read_all(stream_types=["account"]).collect()) == 2
        assert [info.stream_id async for info in reader.list_streams()] == [stream_id]
        with pytest.raises(PermissionMissingError, match="README"):
            await written(reader, events=1)
        with pytest.raises(PermissionMissingError):
            await reader.setup()


async def test_rights_with_a_collection_per_type(guarded):
    """A writer makes collections for types that are new, and so on the whole database."""
    layout = Layout.per_type()
    async with AsyncMongoClient(guarded()) as client:
        await MongoEventStore(client, layout=layout).setup()
    async with AsyncMongoClient(guarded("writer", WRITER_PER_TYPE)) as client:
        await exercise(MongoEventStore(client, layout=layout))


async def test_a_schema_that_is_missing_is_named(client, mongodb_database):
    """For every kind of store, with what to do."""
    store = MongoEventStore(client, mongodb_database)
    with pytest.raises(SchemaMissingError, match=r"await store\.setup\(\)"):
        await written(store, events=1)
    with pytest.raises(SchemaMissingError, match="snapshots"):
        await MongoSnapshotStore(client, mongodb_database).read_snapshot(TypeID.new("account"))
    with pytest.raises(SchemaMissingError, match="checkpoints"):
        await MongoCheckpointStore(client, mongodb_database).load(ProjectionID("orders", 1))
    assert await client[mongodb_database].list_collection_names() == []


async def test_a_newer_schema_is_named(store, client, mongodb_database):
    """By every use, not only by setup()."""
    schema = client[mongodb_database][_schema.SCHEMA]
    await schema.update_one({"_id": "events"}, {"$set": {"version": 99}})
    newer = MongoEventStore(client, mongodb_database)
    for use in (newer.setup, newer.head_position):
        with pytest.raises(SchemaVersionError, match="upgrade") as caught:
            await use()
        assert caught.value.found == 99


async def test_stores_in_two_databases_don_t_disturb_each_other(store, client, mongodb_database):
    """An open transaction of one doesn't hold back the readers of the other."""
    name = f"{mongodb_database}_other"
    other = MongoEventStore(client, name)
    await other.setup()
    try:
        async with client.start_session() as session, await session.start_transaction():
            await store.within(session).append_stream(TypeID.new("slow"), new_events(1))
            there = await other.append_stream(TypeID.new("fast"), new_events(2))
            assert there == await other.read_all().collect()
    finally:
        await client.drop_database(name)


NASTY = '$where: {"$gt": ""}; .a.$b \\ \u202e %s ${x}'


async def test_no_text_of_a_caller_is_ever_an_operator(laid_out, client, mongodb_database):
    """Stream types, event types, content types, metadata, filters and projections."""
    snapshots = MongoSnapshotStore(client, mongodb_database)
    checkpoints = MongoCheckpointStore(client, mongodb_database)
    await snapshots.setup()
    await checkpoints.setup()
    stream_type = NASTY.removeprefix("$")
    stream_id = TypeID(stream_type, uuid7())
    metadata = {NASTY: NASTY, "$ref": "x", "a.b": "$set", "": ""}
    for expect in (Expect.NO_STREAM, 2, Expect.ANY, Expect.STREAM_EXISTS):
        batch = [NewEvent(stream_type, NASTY.encode(), NASTY, metadata) for _ in range(2)]
        appended = await laid_out.append_stream(stream_id, batch, expect=expect)
        assert appended[0].metadata == metadata
    found = await laid_out.read_all(stream_types=[stream_type], event_types=[stream_type]).collect()
    assert [event.metadata for event in found] == [metadata] * 8
    assert [info.version async for info in laid_out.list_streams(stream_type=stream_type)] == [8]
    await snapshots.write_snapshot(Snapshot(stream_id, 1, appended[0].timestamp, b"", NASTY))
    assert (await snapshots.read_snapshot(stream_id)).data_content_type == NASTY
    projection = ProjectionID(stream_type, 1)
    await checkpoints.save(projection, 1)
    assert (await checkpoints.load(projection)).position == 1
    await laid_out.truncate_stream(stream_id, 3)
    await laid_out.delete_stream(stream_id)
    assert await laid_out.read_all().collect() == []


async def test_very_large_batches_and_events(laid_out):
    """Several documents in one transaction; a page that is cut by its bytes."""
    stream_id = TypeID.new("account")
    many = 20_000
    appended = await laid_out.append_stream(stream_id, new_events(many), expect=0)
    positions = [event.global_position for event in appended]
    assert positions == sorted(set(positions))
    assert [event.stream_version for event in appended] == list(range(1, many + 1))
    assert len(await laid_out.read_stream(stream_id).collect()) == many

    heavy = TypeID.new("account")
    sizes = [5, 15 * 2**20, 5, 3 * 2**20, 3 * 2**20, 5, 14 * 2**20]
    batch = [NewEvent("big", bytes(size)) for size in sizes]
    await laid_out.append_stream(heavy, batch)
    for reverse in (False, True):
        found = [len(e.data) async for e in laid_out.read_stream(heavy, reverse=reverse)]
        assert found == (sizes[::-1] if reverse else sizes)
    every = laid_out.read_all(after_position=positions[-1])
    assert [len(event.data) async for event in every] == sizes
    await laid_out.truncate_stream(heavy, 3)
    assert [len(e.data) async for e in laid_out.read_stream(heavy)] == sizes[3:]


async def test_a_batch_that_is_too_large_for_the_server_is_named(laid_out):
    """What its cache takes is the server's; nobody else of the group is hurt."""
    stream_id = TypeID.new("account")
    refused = asyncio.ensure_future(laid_out.append_stream(stream_id, new_events(90_000)))
    others = await asyncio.gather(*(written(laid_out, events=1) for _ in range(5)))
    with pytest.raises(BatchTooLargeError, match="split it"):
        await refused
    reader = await laid_out.read_all().collect()
    assert {event.stream_id for event in reader} == set(others)


async def test_uuids_and_payloads_are_readable_by_others(client, mongodb_database, store):
    """Standard UUIDs, bytes as they are; the timestamp in microseconds."""
    stream_id, batch = TypeID.new("account"), [NewEvent("a", b'{"n": 7}', "application/json")]
    (event,) = await store.append_stream(stream_id, batch)
    options = {"uuid_representation": UuidRepresentation.STANDARD}
    database = client.get_database(mongodb_database).with_options(
        codec_options=client.codec_options.with_options(**options)
    )
    document = await database["events"].find_one({"type": "account", "uuid": stream_id.uuid})
    assert document["events"] == [
        {"type": "a", "data": b'{"n": 7}', "content_type": "application/json"}
    ]
    assert document["claims"] == [1, event.id]
    assert document["timestamp"] == int(event.timestamp.timestamp() * 1_000_000 + 0.5)


async def test_reads_go_along_indexes(laid_out, client, mongodb_database, sent, mongodb_server):
    """No query looks at more documents than it gives, but for a few."""
    for _ in range(60):
        await written(laid_out, events=2)
    stream_id = await written(laid_out, events=1)
    for _ in range(20):
        await laid_out.append_stream(stream_id, new_events(1))
    database = client[mongodb_database]
    await database.command("profile", 2)
    await versions(laid_out, stream_id, after_version=15)
    await versions(laid_out, stream_id, reverse=True, count=2)
    await laid_out.append_stream(stream_id, new_events(1))
    await laid_out.truncate_stream(stream_id, 3)
    await database.command("profile", 0)
    entries = await database["system.profile"].find().to_list()
    assert len(entries) >= 5
    for entry in entries:
        assert entry.get("docsExamined", 0) <= 40, entry["command"]


async def test_within_needs_a_session_of_the_driver(store):
    """Nothing else has a transaction."""
    with pytest.raises(TypeError, match="AsyncClientSession"):
        store.within(object())


async def test_within_begins_no_transaction_by_itself(store, client):
    """It would be nobody's to commit."""
    async with client.start_session() as session:
        with pytest.raises(TransactionRequiredError):
            await store.within(session).append_stream(TypeID.new("account"), new_events(1))


async def test_the_scheme_is_registered(mongodb_server, mongodb_database):
    """For `estoria.core.connect`."""
    url = mongodb_server.url.replace("/?", f"/{mongodb_database}?")
    async with core_connect(url) as store:
        await store.setup()
        await exercise(store)
        assert isinstance(store, MongoEventStore)


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": -1}, {"patience": -1}, {"patience": float("nan")}]
)
async def test_times_that_make_no_sense_are_refused(client, options):
    """At once."""
    with pytest.raises(ValueError, match="seconds"):
        MongoEventStore(client, **options)
