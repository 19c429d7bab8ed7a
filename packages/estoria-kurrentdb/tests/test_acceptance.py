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
    # The server keeps what is truncated in its log until it is scavenged.
    shows_truncated = True

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
    async def events(self, url):
        async with KurrentDBEventStore.connect(url) as store:
            yield store

    @pytest.fixture
    async def store(self, events):
        return EventStreamSnapshotStore(events)

    @pytest.fixture
    async def store_of_newest_two(self, events):
        return EventStreamSnapshotStore(events, keep_newest=2)
