"""The stores on PostgreSQL, held to the contract."""

from contextlib import asynccontextmanager

import psycopg
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
from estoria.postgres import PostgresCheckpointStore, PostgresEventStore, PostgresSnapshotStore


@pytest.fixture(scope="module")
def shared_database(postgres_server):
    """One database for all clauses: they don't disturb each other."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
async def shared_pool(shared_database, open_pool):
    async with open_pool(shared_database, kwargs={"autocommit": True}) as pool:
        yield pool


class TestPostgresEventStore(
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
    async def store(self, shared_pool):
        store = PostgresEventStore(shared_pool)
        await store.setup()
        return store

    @pytest.fixture
    async def transaction(self, shared_database):
        @asynccontextmanager
        async def transaction():
            async with await psycopg.AsyncConnection.connect(shared_database) as connection:
                yield connection

        return transaction

    @pytest.fixture
    async def idle_connection(self, shared_database):
        connect = psycopg.AsyncConnection.connect
        async with await connect(shared_database, autocommit=True) as connection:
            yield connection


class TestPostgresSnapshotStore(SnapshotStoreAcceptance):
    @pytest.fixture
    async def store(self, shared_pool):
        store = PostgresSnapshotStore(shared_pool, keep_newest=None)
        await store.setup()
        return store

    @pytest.fixture
    async def store_of_newest_two(self, shared_pool):
        store = PostgresSnapshotStore(shared_pool, keep_newest=2)
        await store.setup()
        return store


class TestEventStreamSnapshotStore(SnapshotStoreAcceptance):
    @pytest.fixture
    async def events(self, shared_pool):
        store = PostgresEventStore(shared_pool)
        await store.setup()
        return store

    @pytest.fixture
    async def store(self, events):
        return EventStreamSnapshotStore(events)

    @pytest.fixture
    async def store_of_newest_two(self, events):
        return EventStreamSnapshotStore(events, keep_newest=2)


class TestPostgresCheckpointStore(CheckpointStoreAcceptance):
    @pytest.fixture
    async def store(self, shared_pool):
        store = PostgresCheckpointStore(shared_pool)
        await store.setup()
        return store
