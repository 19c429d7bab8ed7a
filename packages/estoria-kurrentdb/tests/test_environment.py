"""URLs, clients, TLS, what other clients see, what an operation costs."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import pytest
from estoria_testservers import kurrentdb_candidate, kurrentdb_double, start_kurrentdb
from kurrentdbclient import NewEvent as Proposal
from kurrentdbclient import StreamState

from estoria.core import (
    EventDecodingError,
    EventSourcedStore,
    Expect,
    NewEvent,
    SchemaError,
    StoreUnavailableError,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core import connect as core_connect
from estoria.core.testing import new_events, versions, written
from estoria.kurrentdb import AccessDeniedError, KurrentDBEventStore, StreamDeletedError

pytestmark = pytest.mark.anyio


@pytest.fixture
def name_of(url):
    """The name in the server of a stream of `store`."""
    prefix = url.rpartition("prefix=")[2]
    return lambda stream_id: f"{prefix}.{stream_id}"


@pytest.mark.parametrize("scheme", ["kurrentdb", "kurrentdb+discover"])
async def test_core_connects_by_url(url, scheme):
    """The entry points name this store, for one server and for a cluster."""
    async with core_connect(url.replace("kurrentdb", scheme, 1)) as store:
        assert isinstance(store, KurrentDBEventStore)
        await store.setup()
        assert await versions(store, await written(store, events=2)) == [1, 2]


async def test_a_client_of_the_caller_s_is_used_and_left_open(client):
    """Stores may share one, also with different prefixes."""
    stores = [KurrentDBEventStore(client, prefix=prefix) for prefix in ("here", "there", "")]
    stream_id = TypeID.new("account")
    for store in stores:
        await store.append_stream(stream_id, new_events(1), expect=Expect.NO_STREAM)
    names = [f"{prefix}{stream_id}" for prefix in ("here.", "there.", "")]
    assert [len(await client.get_stream(name)) for name in names] == [1, 1, 1]


@pytest.mark.parametrize("prefix", ["a.b", "ä", "x" * 65, "a b", "$a", "a\n"])
async def test_a_prefix_that_could_overlap_with_another_is_refused(client, prefix):
    """Letters, digits, dashes and underscores."""
    with pytest.raises(ValueError, match="prefix"):
        KurrentDBEventStore(client, prefix=prefix)


@pytest.mark.parametrize(
    "url",
    [
        "kurrentdb://u:p@ss@h:x/db",
        "mysql://h/db",
        "kurrentdb://",
        "kurrentdb://h:2113?prefix=a.b&tls=false",
        "kurrentdb://h:2113?tls=false&nodePreference=p@ss",
        "kurrentdb://h:2113",
        "kurrentdb://u:p%40ss@h:2113?tlsCaFile=/nowhere/p@ss",
    ],
)
async def test_a_url_that_can_t_be_read_is_refused(connect, url):
    """With the form that it should have, and without quoting what may be a password."""
    with pytest.raises(ValueError, match=r"write a KurrentDB URL as|prefix") as caught:
        async with connect(url, retry_seconds=0):
            pass
    assert "p@ss" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_tls(fresh_server, connect, with_prefix):
    """With the authority of the URL; without it the error says what is missing."""
    server = fresh_server(start_kurrentdb, kurrentdb_double(), tls=True)
    url = server.url.replace("://", "://admin:changeit@")
    async with connect(with_prefix(url, "shop")) as store:
        assert await versions(store, await written(store, events=2)) == [1, 2]
    with pytest.raises(StoreUnavailableError, match="SSL|TLS") as caught:
        async with connect(url.partition("&")[0], retry_seconds=0):
            pass
    assert "changeit" not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"


async def test_a_login_is_asked_for(fresh_server, connect):
    """The right one is let in; a wrong one is named, and not shown."""
    server = fresh_server(start_kurrentdb, kurrentdb_double(), tls=True, login="ledger:right-word")
    async with connect(server.url) as store:
        await written(store, events=1)
    for part, other in (("right-word", "secret-word"), ("ledger:", "x:")):
        with pytest.raises(AccessDeniedError) as caught:
            async with connect(server.url.replace(part, other)):
                pass
        shown = f"{caught.value!r} {caught.value} {caught.value.__cause__}"
        assert "-word" not in shown


PAYLOADS = [
    (b'{"a": 1}', "application/json", "application/json"),
    (b'{"a": 1}', "Application/JSON; charset=utf-8", "application/json"),
    (b"{}", "application/json ", "application/json"),
    (b"\x00\xff", "", "application/octet-stream"),
    (b"\x00\xff", "application/octet-stream", "application/octet-stream"),
    (b"<a/>", "text/xml; q=\"ä 'x' 🎈", "application/octet-stream"),
    (b"[]", "application/vnd.me+json", "application/octet-stream"),
    (b"", "application/json-seq", "application/octet-stream"),
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=str)
async def test_content_types_come_back_to_the_letter(store, client, name_of, payload):
    """The server is told JSON or binary, and what was declared stands beside it."""
    data, declared, told = payload
    stream_id = TypeID.new("account")

    (appended,) = await store.append_stream(stream_id, [NewEvent("e", data, declared)])

    (event,) = await store.read_stream(stream_id).collect()
    assert event == appended
    assert (event.data, event.data_content_type) == (data, declared)
    (recorded,) = await client.get_stream(name_of(stream_id))
    assert (recorded.data, recorded.content_type) == (data, told)


async def test_other_clients_read_the_metadata(store, client, name_of):
    """A plain JSON object: correlation and causation where the server looks for them."""
    stream_id = TypeID.new("account")
    metadata = {"$correlationId": "c-1", "$causationId": "c-0", "who": "ä\n🎈"}
    (event,) = await store.append_stream(
        stream_id, [NewEvent("opened", b"{}", "application/json", metadata)]
    )

    (recorded,) = await client.get_stream(name_of(stream_id))
    found = json.loads(recorded.metadata)
    assert datetime.fromisoformat(found.pop("estoria.timestamp")) == event.timestamp
    assert found == metadata == event.metadata
    assert (recorded.id, recorded.type) == (event.id, "opened")
    assert recorded.commit_position == event.global_position
    assert recorded.stream_position == event.stream_version - 1
    assert [event] == await store.read_stream(stream_id).collect()


@pytest.mark.parametrize("metadata", [b"[]", b"no json", b'"text"', b"\xff"])
async def test_metadata_that_are_no_object_are_named(store, client, name_of, metadata):
    """With the stream, the version and the type; nothing is given in their place."""
    stream_id = await written(store, events=1)
    other = Proposal("odd", b"{}", metadata, content_type="application/octet-stream")
    await client.append_to_stream(
        name_of(stream_id), events=[other], current_version=StreamState.ANY
    )
    with pytest.raises(EventDecodingError) as caught:
        await store.read_stream(stream_id).collect()
    assert (caught.value.stream_id, caught.value.version) == (stream_id, 2)


@pytest.mark.parametrize("expect", [*Expect, 2], ids=str)
async def test_a_deleted_stream_is_named(store, client, name_of, expect):
    """In reading and in appending, with any expectation: it is none of our doing."""
    for tombstoned in (False, True):
        stream_id = await written(store, events=2)
        name = name_of(stream_id)
        delete = client.tombstone_stream if tombstoned else client.delete_stream
        await delete(name, current_version=StreamState.ANY)
        fresh = KurrentDBEventStore(client, prefix=name.partition(".")[0])
        for use in (
            lambda s=stream_id, f=fresh: f.append_stream(s, new_events(1), expect=expect),
            lambda s=stream_id, f=fresh: f.read_stream(s).collect(),
            lambda s=stream_id, f=fresh: f.read_stream(s, reverse=True).collect(),
            lambda s=stream_id, f=fresh: f.truncate_stream(s, 1),
        ):
            with pytest.raises(StreamDeletedError) as caught:
                await use()
            assert caught.value.tombstoned == tombstoned
            assert caught.value.stream_id == stream_id


async def test_a_stream_that_somebody_deleted_is_no_new_one(store, client, name_of):
    """The server takes it for one; this store has written to it and looks again."""
    stream_id = await written(store, events=2)
    await client.delete_stream(name_of(stream_id), current_version=StreamState.ANY)
    with pytest.raises(StreamDeletedError):
        await store.append_stream(stream_id, new_events(1), expect=Expect.NO_STREAM)


async def test_a_stream_that_has_outlived_all_its_events_is_named(store, client, name_of):
    """Its version can't be known."""
    stream_id = await written(store, events=2)
    await client.set_stream_metadata(name_of(stream_id), metadata={"$maxAge": 0})
    with pytest.raises(SchemaError, match="maxAge"):
        await store.read_stream(stream_id).collect()


COSTS = {
    "append, exact": (0, 1),
    "append, new": (1, 1),
    "append, any": (1, 1),
    "append, exists": (1, 1),
    "batch, exact": (1, 1),
    "batch, any": (1, 1),
    "refused": (1, 1),
    "repeated": (1, 0),
    "page": (1, 0),
    "two pages": (3, 0),
    "reverse": (2, 0),
    "tail": (2, 0),
    "nothing new": (2, 0),
    "head": (1, 0),
    "all": (2, 0),
    "all, two pages": (4, 0),
    "nothing new at all": (1, 0),
    "load": (1, 0),
}


@pytest.mark.parametrize("what", COSTS)
async def test_calls_are_counted(doubled, control, what):
    """Reads and appends of each operation, once a stream has been appended to."""
    short = await written(doubled, events=5)
    long = await written(doubled, events=1_500)
    stream_id = await written(doubled, events=1)
    batch = new_events(2)
    await doubled.append_stream(stream_id, batch)
    accounts = EventSourcedStore(doubled, "account", int, events=[Happened], evolve=_evolve)
    saved = accounts.new()
    saved.append(Happened(), Happened())
    await accounts.save(saved)
    head = await doubled.head_position()

    async def refused():
        with pytest.raises(StreamVersionMismatchError):
            await doubled.append_stream(stream_id, new_events(1), expect=7)

    async def all_pages():
        await doubled.append_stream(short, new_events(1_000))
        control.clear()
        await doubled.read_all().collect()

    def append(number, expect):
        return lambda: doubled.append_stream(stream_id, new_events(number), expect=expect)

    operations = {
        "append, exact": append(1, 3),
        "append, new": lambda: doubled.append_stream(TypeID.new("a"), new_events(1), expect=0),
        "append, any": append(1, Expect.ANY),
        "append, exists": append(1, Expect.STREAM_EXISTS),
        "batch, exact": append(100, 3),
        "batch, any": append(100, Expect.ANY),
        "refused": refused,
        "repeated": lambda: doubled.append_stream(stream_id, batch, expect=1),
        "page": doubled.read_stream(short).collect,
        "two pages": doubled.read_stream(long).collect,
        "reverse": doubled.read_stream(long, reverse=True, count=3).collect,
        "tail": doubled.read_stream(long, after_version=1_490).collect,
        "nothing new": doubled.read_stream(long, after_version=1_500).collect,
        "head": doubled.head_position,
        "all": doubled.read_all(count=100).collect,
        "all, two pages": all_pages,
        "nothing new at all": doubled.read_all(after_position=head).collect,
        "load": lambda: accounts.load(saved.id),
    }
    control.clear()

    await operations[what]()

    calls = control.calls()
    assert (calls.get("Read", 0), calls.get("BatchAppend", 0)) == COSTS[what]


@dataclass(frozen=True)
class Happened:
    """Anything."""


def _evolve(state, _event):
    return state + 1


FORKING = """
import asyncio, os, sys
from estoria.core import StoreMisusedError, TypeID
from estoria.core.testing import written
from estoria.kurrentdb import KurrentDBEventStore


async def main(url):
    async with KurrentDBEventStore.connect(url) as store:
        await written(store)
        child = os.fork()
        if child == 0:
            try:
                await written(store)
            except StoreMisusedError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        await written(store)


asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
async def test_a_forked_child_is_named(url):
    """Before it touches what belongs to its parent."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKING, url, stderr=asyncio.subprocess.PIPE
    )
    _, error = await process.communicate()
    assert process.returncode == 0, error.decode()


async def test_ids_and_large_payloads(fresh_server, connect):
    """Any UUID, and 15 MiB."""
    server = fresh_server(start_kurrentdb, kurrentdb_candidate(owned=True))
    async with connect(server.url) as store:
        stream_id = TypeID.new("account")
        ids = [UUID(int=1), UUID(int=2**128 - 1)]
        batch = [NewEvent("e", bytes(7 * 2**20), id=id) for id in ids]
        appended = await store.append_stream(stream_id, batch, expect=0)
        assert [event.id for event in appended] == ids
        large = NewEvent("e", os.urandom(15 * 2**20))
        (event,) = await store.append_stream(stream_id, [large], expect=2)
        assert event.data == large.data
        assert [e.stream_version for e in await store.read_all().collect()] == [1, 2, 3]
        for after in (0, 1, 2):
            found = await versions(store, stream_id, after_version=after)
            assert found == [1, 2, 3][after:]
        assert await versions(store, stream_id, reverse=True) == [3, 2, 1]
