"""What the tests of the SQLite package share."""

import sqlite3

import pytest

from estoria.sqlite import SQLiteEventStore


@pytest.fixture
def anyio_backend():
    """These tests run on asyncio, as the library does."""
    return "asyncio"


@pytest.fixture
def path(tmp_path):
    """Where the events are."""
    return tmp_path / "events.db"


@pytest.fixture
async def store(path):
    """A store on a new file."""
    async with SQLiteEventStore.connect(path) as store:
        await store.setup()
        yield store


@pytest.fixture
def other(path):
    """A connection of somebody else's to the same file."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    yield connection
    connection.close()
