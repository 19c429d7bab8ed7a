"""Clients and stores for the tests."""

import gc
import warnings
from contextlib import asynccontextmanager

import pytest
from estoria_testservers import Proxy
from pymongo import AsyncMongoClient, common

from estoria.mongodb import Layout, MongoEventStore

LAYOUTS = {
    "single": Layout.single(),
    "per type": Layout.per_type(),
    "selected": Layout.selected("by first letter", lambda name: f"events {name[:1].lower()}"),
}

HURRIED = {"heartbeatFrequencyMS": 50}
"""A server that says that it is going is asked again so soon."""


@pytest.fixture(autouse=True)
def hasty_driver(monkeypatch):
    """It waits half a second after every cut connection, which the tests cut by the hundred."""
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.02)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=["single", "per type"])
def layout(request):
    """For what must hold whether an append is one insert or a transaction."""
    return LAYOUTS[request.param]


@pytest.fixture
async def client(mongodb_server):
    async with AsyncMongoClient(mongodb_server.url, **HURRIED) as client:
        yield client


@pytest.fixture
async def store(client, mongodb_database):
    store = MongoEventStore(client, mongodb_database)
    await store.setup()
    return store


@pytest.fixture
def open_transaction(client):
    """Opens a transaction of the test's own: `async with open_transaction() as session`."""

    @asynccontextmanager
    async def transaction():
        async with client.start_session() as session, await session.start_transaction():
            yield session

    return transaction


@pytest.fixture
async def laid_out(client, mongodb_database, layout):
    """A store of this layout, straight at the server."""
    store = MongoEventStore(client, mongodb_database, layout=layout)
    await store.setup()
    return store


def is_heartbeat(request):
    """What the driver sends by itself."""
    return b"hello\x00" in request or b"ismaster\x00" in request or b"endSessions" in request


@pytest.fixture
def proxy(mongodb_server):
    with Proxy(mongodb_server.host, mongodb_server.port, ignore=is_heartbeat) as proxy:
        yield proxy


@pytest.fixture
async def proxied(proxy, mongodb_server):
    """A client through the proxy."""
    async with AsyncMongoClient(proxy.url(mongodb_server.url), **HURRIED) as client:
        yield client


@pytest.fixture
def fail(client):
    """Arms the server's fail point: `async with fail("insert", errorCode=91):`."""

    @asynccontextmanager
    async def fail(*commands, times=1, **data):
        point = {"configureFailPoint": "failCommand"}
        data = {"failCommands": list(commands), **data}
        await client.admin.command({**point, "mode": {"times": times}, "data": data})
        try:
            yield
        finally:
            await client.admin.command({**point, "mode": "off"})

    return fail


@pytest.fixture
def lost_sockets():
    """For tests in which servers go: the driver loses sockets of its own then.

    Those that its monitors are connecting when the client closes.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
