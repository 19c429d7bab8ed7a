"""The store on KurrentDB, held to the contract, with a prefix and without."""

import pytest
from estoria_testservers import fresh_name

from estoria.core import EventStreamSnapshotStore
from estoria.core.testing import (
    AggregatesAcceptance,
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    RandomScriptsAcceptance,
    SnapshotStoreAcceptance,
    StreamTruncatorAcceptance,
)
from estoria.kurrentdb import KurrentDBEventStore


class TestKurrentDBEventStore(
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    StreamTruncatorAcceptance,
    AggregatesAcceptance,
    RandomScriptsAcceptance,
):
    @pytest.fixture(params=["prefix", "no prefix"])
    async def store(self, request, kurrentdb_server, with_prefix):
        url = kurrentdb_server.url
        if request.param == "prefix":
            url = with_prefix(url, fresh_name("test"))
        async with KurrentDBEventStore.connect(url) as store:
            await store.setup()
            yield store


class TestEventStreamSnapshotStore(SnapshotStoreAcceptance):
    @pytest.fixture
    async def store(self, store):
        return EventStreamSnapshotStore(store)

    @pytest.fixture
    async def store_of_newest_two(self, store):
        return EventStreamSnapshotStore(store, keep_newest=2)
