"""Servers, clients and stores for the tests."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from anyio.pytest_plugin import get_runner
from estoria_testservers import fresh_name

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


@pytest.fixture
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
