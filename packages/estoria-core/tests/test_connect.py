"""Finding backends by URL, and stores that are used from elsewhere."""

import asyncio
import multiprocessing
import pickle
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint, EntryPoints
from unittest import mock
from uuid import UUID

import pytest

from estoria import core
from estoria.core import (
    EstoriaError,
    StoreMisusedError,
    StreamVersionMismatchError,
    TypeID,
    UnknownSchemeError,
    connect,
)
from estoria.core.memory import (
    MemoryAggregateCache,
    MemoryCheckpointStore,
    MemoryEventStore,
    MemorySnapshotStore,
)
from estoria.core.testing import new_events

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("url", ["memory://", "memory:", "MEMORY://"])
async def test_memory_is_always_there(url):
    async with connect(url) as store:
        await store.setup()
        assert isinstance(store, MemoryEventStore)


async def test_a_memory_url_holds_nothing_more():
    with pytest.raises(ValueError, match="nothing more"):
        async with connect("memory://host/name"):
            pass


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("postgresql://me:secret@host/db", "estoria-postgres"),
        ("mongodb+srv://me:secret@host/db", "estoria-mongodb"),
        ("kurrentdb://me:secret@host", "estoria-kurrentdb"),
        ("sqlite:///secret.db", "estoria-sqlite"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(url, package):
    memory_alone = EntryPoints(())
    with (
        mock.patch("estoria.core._connect.entry_points", lambda **_: memory_alone),
        pytest.raises(UnknownSchemeError, match=f"pip install {package}") as caught,
    ):
        connect(url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["ledger.db", "", "//x", "oracle://me:secret@host"])
def test_what_nobody_serves_is_refused(url):
    with pytest.raises(UnknownSchemeError) as caught:
        connect(url)

    assert "secret" not in str(caught.value)


@asynccontextmanager
async def serve(url):
    yield url


async def test_a_third_party_s_scheme_is_found():
    point = EntryPoint("acme+v1", f"{__name__}:serve", "estoria.event_stores")
    found = mock.Mock(return_value=[mock.Mock(spec=point, load=lambda: serve)])
    with mock.patch("estoria.core._connect.entry_points", found):
        async with connect("ACME+v1://host/x") as store:
            assert store == "ACME+v1://host/x"
    found.assert_called_once_with(group="estoria.event_stores", name="acme+v1")


def test_errors_survive_pickling():
    id = TypeID("user", UUID(int=7))
    error = StreamVersionMismatchError(id, 3, 5)

    copy = pickle.loads(pickle.dumps(error))

    assert str(copy) == str(error)
    assert (copy.stream_id, copy.expected, copy.actual) == (id, 3, 5)


def test_every_error_is_in_the_tree():
    """The module's docstring draws it; nothing is missing there, and nothing else is there."""
    errors = {
        name
        for name, item in vars(core).items()
        if isinstance(item, type) and issubclass(item, EstoriaError)
    }
    drawn = {word for word in core._errors.__doc__.split() if word.endswith("Error")}

    assert drawn >= errors
    assert {name for name in core.__all__ if name.endswith("Error")} == errors


CALLS = [
    (MemoryEventStore, lambda store, id: store.append_stream(id, new_events(1))),
    (MemoryEventStore, lambda store, id: store.read_stream(id).collect()),
    (MemoryEventStore, lambda store, _: store.read_all().collect()),
    (MemorySnapshotStore, lambda store, id: store.read_snapshot(id)),
    (MemoryAggregateCache, lambda store, id: store.get(id)),
    (MemoryCheckpointStore, lambda store, _: store.load(core.ProjectionID("x", 1))),
]


@pytest.mark.parametrize(("make", "call"), CALLS, ids=range(len(CALLS)))
def test_a_second_event_loop_is_refused(make, call):
    store, id = make(), TypeID.new("account")

    async def use():
        try:
            await call(store, id)
        except core.StreamNotFoundError:
            pass

    asyncio.run(use())

    with pytest.raises(StoreMisusedError, match="event loop"):
        asyncio.run(use())


def _use_in_child(store, pipe):
    try:
        asyncio.run(store.append_stream(TypeID.new("account"), new_events(1)))
    except StoreMisusedError as error:
        pipe.send(str(error))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_refused():
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    store = MemoryEventStore()
    child = context.Process(target=_use_in_child, args=(store, theirs))
    child.start()

    assert mine.poll(10)
    assert "process" in mine.recv()
    child.join()
    mine.close()
    theirs.close()
