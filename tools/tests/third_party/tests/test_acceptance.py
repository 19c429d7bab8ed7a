"""The file store, held to the contract."""

import pytest
from acme_files import FileEventStore

from estoria.core.testing import (
    AggregatesAcceptance,
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    RandomScriptsAcceptance,
    new_events,
    versions,
    written,
)


class TestFileEventStore(
    EventStoreAcceptance, GlobalReaderAcceptance, AggregatesAcceptance, RandomScriptsAcceptance
):
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "events.jsonl"

    @pytest.fixture
    async def store(self, path):
        store = FileEventStore(path)
        await store.setup()
        return store

    async def test_what_a_crash_left_of_an_append_never_was(self, store, path):
        stream_id = await written(store, events=2)
        with path.open("ab") as file:
            file.write(b'{"stream": "account_')

        late = FileEventStore(path)
        await late.append_stream(stream_id, new_events(1), expect=2)

        assert await versions(store, stream_id) == [1, 2, 3]
