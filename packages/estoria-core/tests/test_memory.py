"""The in-memory stores, held to the contract."""

import pytest

from estoria.core import EventStreamSnapshotStore
from estoria.core.memory import (
    MemoryAggregateCache,
    MemoryCheckpointStore,
    MemoryEventStore,
    MemorySnapshotStore,
)
from estoria.core.testing import (
    AggregateCacheAcceptance,
    AggregatesAcceptance,
    CheckpointStoreAcceptance,
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    RandomScriptsAcceptance,
    SnapshotStoreAcceptance,
    StreamDeleterAcceptance,
    StreamListerAcceptance,
    StreamTruncatorAcceptance,
)


class TestMemoryEventStore(
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
        return MemoryEventStore()


class ShowsTruncated(MemoryEventStore):
    """Its global reads give truncated events until somebody cleans up, which nobody does."""

    async def truncate_stream(self, stream_id, to_version):
        log = self._log
        await super().truncate_stream(stream_id, to_version)
        self._log = log


class TestTruncatedEventsThatStillShow(RandomScriptsAcceptance):
    shows_truncated = True
    scripts = 25

    @pytest.fixture
    async def store(self):
        return ShowsTruncated()


class TestMemorySnapshotStore(SnapshotStoreAcceptance):
    @pytest.fixture
    async def store(self):
        return MemorySnapshotStore()

    @pytest.fixture
    async def store_of_newest_two(self):
        return MemorySnapshotStore(keep_newest=2)


class TestEventStreamSnapshotStore(SnapshotStoreAcceptance):
    @pytest.fixture
    async def store(self):
        return EventStreamSnapshotStore(MemoryEventStore())

    @pytest.fixture
    async def store_of_newest_two(self):
        return EventStreamSnapshotStore(MemoryEventStore(), keep_newest=2)


class TestMemoryAggregateCache(AggregateCacheAcceptance):
    @pytest.fixture
    async def cache(self):
        return MemoryAggregateCache()


class TestMemoryCheckpointStore(CheckpointStoreAcceptance):
    @pytest.fixture
    async def store(self):
        return MemoryCheckpointStore()
