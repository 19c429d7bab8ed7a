"""The stores on MongoDB, held to the contract."""

import os

import pytest
from pymongo import AsyncMongoClient

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
from estoria.mongodb import Layout, MongoCheckpointStore, MongoEventStore, MongoSnapshotStore

SCRIPTS = int(os.environ.get("ESTORIA_RANDOM_SCRIPTS", "20"))
"""Fewer than elsewhere: every step waits for a majority and the journal."""


class TestOneCollection(
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    StreamDeleterAcceptance,
    StreamTruncatorAcceptance,
    StreamListerAcceptance,
    TransactionSharingAcceptance,
    AggregatesAcceptance,
    RandomScriptsAcceptance,
):
    scripts = SCRIPTS

    @pytest.fixture
    async def store(self, store):
        assert isinstance(store, MongoEventStore)
        return store

    @pytest.fixture
    async def transaction(self, open_transaction):
        return open_transaction

    @pytest.fixture
    async def idle_connection(self, client):
        async with client.start_session() as session:
            yield session


class TestACollectionPerType(
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    StreamDeleterAcceptance,
    StreamTruncatorAcceptance,
    StreamListerAcceptance,
    TransactionSharingAcceptance,
    AggregatesAcceptance,
    RandomScriptsAcceptance,
):
    scripts = SCRIPTS

    @pytest.fixture
    async def store(self, client, mongodb_database):
        store = MongoEventStore(client, mongodb_database, layout=Layout.per_type())
        await store.setup()
        return store

    @pytest.fixture
    async def transaction(self, open_transaction):
        return open_transaction

    @pytest.fixture
    async def idle_connection(self, client):
        async with client.start_session() as session:
            yield session


class TestOneCollectionOnAStandaloneServer(
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    StreamDeleterAcceptance,
    StreamTruncatorAcceptance,
    StreamListerAcceptance,
    AggregatesAcceptance,
    RandomScriptsAcceptance,
):
    scripts = SCRIPTS

    @pytest.fixture
    async def store(self, mongodb_standalone):
        with mongodb_standalone.database() as name:
            async with AsyncMongoClient(mongodb_standalone.url) as client:
                store = MongoEventStore(client, name)
                await store.setup()
                yield store


class TestMongoSnapshotStore(SnapshotStoreAcceptance):
    @pytest.fixture
    async def store(self, client, mongodb_database):
        store = MongoSnapshotStore(client, mongodb_database, keep_newest=None)
        await store.setup()
        return store

    @pytest.fixture
    async def store_of_newest_two(self, client, mongodb_database):
        store = MongoSnapshotStore(client, mongodb_database, keep_newest=2)
        await store.setup()
        return store


class TestEventStreamSnapshotStore(SnapshotStoreAcceptance):
    @pytest.fixture
    async def events(self, client, mongodb_database):
        store = MongoEventStore(client, mongodb_database)
        await store.setup()
        return store

    @pytest.fixture
    async def store(self, events):
        return EventStreamSnapshotStore(events)

    @pytest.fixture
    async def store_of_newest_two(self, events):
        return EventStreamSnapshotStore(events, keep_newest=2)


class TestMongoCheckpointStore(CheckpointStoreAcceptance):
    @pytest.fixture
    async def store(self, client, mongodb_database):
        store = MongoCheckpointStore(client, mongodb_database)
        await store.setup()
        return store
