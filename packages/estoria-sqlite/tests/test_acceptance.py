"""The stores on SQLite, held to the contract: in a file, and in memory."""

import sqlite3
from contextlib import asynccontextmanager

import pytest

from estoria.core import EventStreamSnapshotStore
from estoria.core.testing import (
    AggregatesAcceptance,
    CheckpointStoreAcceptance,
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    RandomScriptsAcceptance,
    SnapshotStoreAcceptance,
    StreamDeleterAcceptance,
    StreamListerAcceptance,
    StreamTruncatorAcceptance,
    TransactionSharingAcceptance,
)
from estoria.sqlite import (
    SQLiteCheckpointStore,
    SQLiteDatabase,
    SQLiteEventStore,
    SQLiteSnapshotStore,
)


class TestSQLiteEventStore(
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    StreamDeleterAcceptance,
    StreamTruncatorAcceptance,
    StreamListerAcceptance,
    TransactionSharingAcceptance,
    AggregatesAcceptance,
    RandomScriptsAcceptance,
):
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "events.db"

    @pytest.fixture
    async def store(self, path):
        async with SQLiteEventStore.connect(path) as store:
            await store.setup()
            yield store

    @pytest.fixture
    async def transaction(self, path, store):
        @asynccontextmanager
        async def transaction():
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()

        return transaction

    @pytest.fixture
    async def idle_connection(self, path, store):
        connection = sqlite3.connect(path)
        yield connection
        connection.close()


class TestSQLiteEventStoreInMemory(
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    StreamDeleterAcceptance,
    StreamTruncatorAcceptance,
    StreamListerAcceptance,
    AggregatesAcceptance,
    RandomScriptsAcceptance,
):
    @pytest.fixture
    async def store(self):
        async with SQLiteEventStore.connect("sqlite://") as store:
            await store.setup()
            yield store


@pytest.fixture
async def database(tmp_path):
    async with SQLiteDatabase.open(tmp_path / "stores.db") as database:
        yield database


class TestSQLiteSnapshotStore(SnapshotStoreAcceptance):
    @pytest.fixture
    async def store(self, database):
        store = SQLiteSnapshotStore(database, keep_newest=None)
        await store.setup()
        return store

    @pytest.fixture
    async def store_of_newest_two(self, database):
        store = SQLiteSnapshotStore(database, keep_newest=2)
        await store.setup()
        return store


class TestEventStreamSnapshotStore(SnapshotStoreAcceptance):
    @pytest.fixture
    async def events(self, database):
        store = SQLiteEventStore(database)
        await store.setup()
        return store

    @pytest.fixture
    async def store(self, events):
        return EventStreamSnapshotStore(events)

    @pytest.fixture
    async def store_of_newest_two(self, events):
        return EventStreamSnapshotStore(events, keep_newest=2)


class TestSQLiteCheckpointStore(CheckpointStoreAcceptance):
    @pytest.fixture
    async def store(self, database):
        store = SQLiteCheckpointStore(database)
        await store.setup()
        return store
