"""The PyPI package ``eventsource-py``, on PostgreSQL, in its default mode."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from eventsource.adapters.postgresql import PostgreSQLEventStore
from eventsource.domain import StreamId
from eventsource.domain.event import DomainEvent
from eventsource.domain.event_registry import EventRegistry
from eventsource.ports import ExpectedVersion
from sqlalchemy.ext.asyncio import create_async_engine


class Happened(DomainEvent):
    """An event with a payload like that of everybody else."""

    aggregate_type: str = "account"
    note: str


class EventsourceStore:
    """Appends to and reads one stream after the other."""

    def __init__(self, store: PostgreSQLEventStore) -> None:
        self._store = store

    async def append(self, uuid: UUID, version: int, count: int, note: str) -> None:
        """So many events at this exact version."""
        events = [
            Happened(aggregate_id=uuid, aggregate_version=version + number, note=note)
            for number in range(1, count + 1)
        ]
        stream = StreamId(uuid, "account")
        expected = ExpectedVersion.exact(version) if version else ExpectedVersion.no_stream()
        await self._store.append(stream, events, expected)

    async def read(self, uuid: UUID) -> int:
        """All events of a stream; how many there were."""
        stream = StreamId(uuid, "account")
        return len([event async for event in self._store.read_stream(stream)])


@asynccontextmanager
async def open_eventsource(url: str, pool_size: int) -> AsyncIterator[EventsourceStore]:
    """A store on the database of this URL."""
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=pool_size
    )
    registry = EventRegistry()
    registry.register(Happened)
    store = PostgreSQLEventStore(
        engine, event_registry=registry, create_schema=True, owns_engine=True
    )
    try:
        yield EventsourceStore(store)
    finally:
        await store.close()
