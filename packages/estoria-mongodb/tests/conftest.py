"""Clients and stores for the tests."""

from contextlib import asynccontextmanager

import pytest
from pymongo import AsyncMongoClient

from estoria.mongodb import Layout, MongoEventStore

LAYOUTS = {
    "single": Layout.single(),
    "per type": Layout.per_type(),
    "selected": Layout.selected("by first letter", lambda name: f"events {name[:1].lower()}"),
}


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=["single", "per type"])
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture
async def client(mongodb_server):
    async with AsyncMongoClient(mongodb_server.url) as client:
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
