"""Servers, clients and stores for the tests."""

import asyncio
from contextlib import asynccontextmanager, closing

import pytest
from anyio.pytest_plugin import get_runner
from estoria_testservers import fresh_name, kurrentdb_double, start_kurrentdb
from kurrentdbclient import AsyncKurrentDBClient

from estoria.kurrentdb import KurrentDBEventStore


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
def one_loop():
    """Keeps the event loop from test to test.

    gRPC tells a loop of cancelled calls a little later, and the client cancels each append's
    call once it is answered: a loop that is closed after every test can't be told.
    """
    with get_runner("asyncio", {}) as runner:
        yield
        runner.run_fixture(asyncio.sleep, {"delay": 0.1})


@pytest.fixture(scope="session")
def with_prefix():
    """A URL with a prefix in it."""

    def with_prefix(url, prefix):
        return f"{url}{'&' if '?' in url else '?'}prefix={prefix}"

    return with_prefix


@pytest.fixture
def url(kurrentdb_server, with_prefix):
    """The server, with a prefix of the test's own."""
    return with_prefix(kurrentdb_server.url, fresh_name("test"))


@pytest.fixture
async def store(url):
    async with KurrentDBEventStore.connect(url) as store:
        yield store


@pytest.fixture
def connect():
    """Opens a store on a URL."""

    @asynccontextmanager
    async def connect(url, **options):
        async with KurrentDBEventStore.connect(url, **options) as store:
            yield store

    return connect


@pytest.fixture
def open_client():
    """Opens a client of somebody else's on a URL."""

    @asynccontextmanager
    async def open_client(url):
        client = AsyncKurrentDBClient(url)
        await client.connect()
        try:
            yield client
        finally:
            await client.close()

    return open_client


@pytest.fixture
async def client(kurrentdb_server, open_client):
    """A client of somebody else's, on the server of `store`."""
    async with open_client(kurrentdb_server.url) as client:
        yield client


@pytest.fixture(scope="module")
def double_server():
    """A test double, also where there is a real server: what goes wrong is said to it alone."""
    with closing(start_kurrentdb(kurrentdb_double())) as server:
        yield server


@pytest.fixture
def control(double_server):
    """The switch of the test double."""
    with closing(double_server.control()) as control:
        control.clear()
        yield control
        control.clear()


@pytest.fixture
def double_url(double_server, with_prefix, control):  # noqa: ARG001 - cleared before and after
    """The test double, with a prefix of the test's own."""
    return with_prefix(double_server.url, fresh_name("test"))


@pytest.fixture
async def doubled(double_url):
    """A store on the test double, where `control` makes things go wrong."""
    async with KurrentDBEventStore.connect(double_url, retry_seconds=15) as store:
        yield store
