"""PostgreSQL, against the same tables by hand and against other libraries, on one server.

Each side has a database of its own and a pool of the same size; the server keeps its defaults,
so that every commit waits for the disk.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from time import time_ns
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from estoria_testservers import PostgresServer, start_postgres
from eventsourcing.persistence import StoredEvent
from psycopg_pool import AsyncConnectionPool

from estoria.core import EventSourcedStore, Expect, TypeID, uuid7
from estoria.postgres import PostgresEventStore
from estoria_bench._account import Account, Deposited, Opened, account_events, sample_events
from estoria_bench._measure import Bar, Side, Workload
from estoria_bench.floors.postgres import AllocatorRow, RawPostgres, Row
from estoria_bench.rivals.es import open_application, write_account
from estoria_bench.rivals.eventsource import open_eventsource

METADATA = '{"who":"me"}'
DATA = sample_events(1)[0].data
TASKS = 16
ALL_EVENTS = 100_000
READ_EVENTS = 10_000
SMALL, LARGE = 10_000, 2_000_000


class Bench:
    """A server, and what the sides need of it."""

    def __init__(self, server: PostgresServer, stack: AsyncExitStack, pool_size: int) -> None:
        self._server, self._stack, self.pool_size = server, stack, pool_size

    def database(self) -> str:
        """The URL of a fresh database; it goes with the server."""
        return self._server.url_of(self._server.create_database())

    async def pool(self, url: str) -> "AsyncConnectionPool[Any]":
        """An open pool with all its connections."""
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            url, kwargs={"autocommit": True}, min_size=self.pool_size, open=False
        )
        return await self._stack.enter_async_context(pool)

    async def ours(self) -> PostgresEventStore:
        """Our store, set up."""
        store = PostgresEventStore(await self.pool(self.database()))
        await store.setup()
        return store

    async def floor(self) -> RawPostgres:
        """The same tables, by hand."""
        return RawPostgres(await self._tables())

    async def allocator(self) -> AllocatorRow:
        """The same tables, and a row to take positions from."""
        floor = AllocatorRow(await self._tables())
        await floor.setup()
        return floor

    def application(self) -> Any:
        """``eventsourcing``, set up."""
        parts = urlsplit(self.database())
        application = open_application(
            {
                "PERSISTENCE_MODULE": "eventsourcing.postgres",
                "POSTGRES_DBNAME": parts.path[1:],
                "POSTGRES_HOST": parts.hostname or "",
                "POSTGRES_PORT": str(parts.port),
                "POSTGRES_USER": parts.username or "",
                "POSTGRES_PASSWORD": "none",
                "POSTGRES_POOL_SIZE": str(self.pool_size),
            }
        )
        self._stack.callback(application.close)
        return application

    async def eventsource(self) -> Any:
        """``eventsource-py``."""
        opened = open_eventsource(self.database(), self.pool_size)
        return await self._stack.enter_async_context(opened)

    async def _tables(self) -> "AsyncConnectionPool[Any]":
        pool = await self.pool(self.database())
        await PostgresEventStore(pool).setup()
        return pool


@asynccontextmanager
async def bench(pool_size: int = 1) -> AsyncIterator[Bench]:
    """A server of its own for a workload."""
    with closing(start_postgres()) as server:
        async with AsyncExitStack() as stack:
            yield Bench(server, stack, pool_size)


def raw_rows(count: int) -> list[Row]:
    """What `sample_events` makes, as a hand-written program would make it."""
    return [(uuid7(), "happened", "application/json", METADATA, DATA) for _ in range(count)]


def rival_events(uuid: UUID, version: int, count: int) -> list[StoredEvent]:
    """The same for ``eventsourcing``."""
    return [StoredEvent(uuid, version + n, "happened", DATA) for n in range(1, count + 1)]


def appends(batch: int, times: int, bars: list[Bar], rounds: int = 7) -> Workload:
    """One writer, one stream, an exact expectation each time."""

    @asynccontextmanager
    async def sides() -> AsyncIterator[Mapping[str, Side]]:
        async with bench() as b:
            store, floor, other = await b.ours(), await b.floor(), await b.eventsource()
            recorder = b.application().recorder
            stream_id = TypeID.new("account")
            uuid = stream_id.uuid

            async def append_ours(version: int) -> None:
                await store.append_stream(stream_id, sample_events(batch), expect=version)

            async def append_raw(version: int) -> None:
                now = time_ns() // 1_000
                if batch == 1:
                    await floor.append_one("account", uuid, version, now, raw_rows(1)[0])
                else:
                    await floor.append("account", uuid, version, now, raw_rows(batch))

            async def append_rival(version: int) -> None:
                recorder.insert_events(rival_events(uuid, version, batch))

            async def append_other(version: int) -> None:
                await other.append(uuid, version, batch, "x" * 89)

            def side(append: Callable[[int], Awaitable[None]]) -> Side:
                version = 0

                async def run() -> int:
                    nonlocal version
                    for _ in range(times):
                        await append(version)
                        version += batch
                    return times * batch

                return run

            yield {
                "ours": side(append_ours),
                "floor": side(append_raw),
                "eventsourcing": side(append_rival),
                "eventsource-py": side(append_other),
            }

    what = "1 event" if batch == 1 else f"{batch:,} events in a batch"
    return Workload(
        f"postgres.append_{batch}", f"append {what}, exact version, one writer", bars, sides, rounds
    )


@asynccontextmanager
async def many_streams() -> AsyncIterator[Mapping[str, Side]]:
    """Sixteen tasks (or threads), each on a new stream of its own."""
    each = 25
    async with bench(TASKS) as b:
        store, floor, allocator = await b.ours(), await b.floor(), await b.allocator()
        other = await b.eventsource()
        recorder = b.application().recorder
        threads = ThreadPoolExecutor(TASKS)

        async def write_ours() -> None:
            stream_id = TypeID.new("account")
            for version in range(each):
                await store.append_stream(
                    stream_id, sample_events(1), expect=version or Expect.NO_STREAM
                )

        async def write_raw(raw: RawPostgres) -> None:
            uuid = uuid7()
            for version in range(each):
                now = time_ns() // 1_000
                await raw.append_one("account", uuid, version, now, raw_rows(1)[0])

        def write_rival() -> None:
            uuid = uuid7()
            for version in range(each):
                recorder.insert_events(rival_events(uuid, version, 1))

        async def write_other() -> None:
            uuid = uuid7()
            for version in range(each):
                await other.append(uuid, version, 1, "x" * 89)

        def side(write: Callable[[], Awaitable[None]]) -> Side:
            async def run() -> int:
                await asyncio.gather(*(write() for _ in range(TASKS)))
                return TASKS * each

            return run

        async def write_in_thread() -> None:
            await asyncio.get_running_loop().run_in_executor(threads, write_rival)

        yield {
            "ours": side(write_ours),
            "floor": side(lambda: write_raw(floor)),
            "allocator row": side(lambda: write_raw(allocator)),
            "eventsourcing": side(write_in_thread),
            "eventsource-py": side(write_other),
        }
        threads.shutdown()


@asynccontextmanager
async def read_stream() -> AsyncIterator[Mapping[str, Side]]:
    """A stream as values."""
    async with bench() as b:
        store, other = await b.ours(), await b.eventsource()
        recorder = b.application().recorder
        stream_id = TypeID.new("account")
        await store.append_stream(stream_id, sample_events(READ_EVENTS))
        await other.append(stream_id.uuid, 0, READ_EVENTS, "x" * 89)
        recorder.insert_events(rival_events(stream_id.uuid, 0, READ_EVENTS))

        async def ours() -> int:
            return len(await store.read_stream(stream_id).collect())

        async def rival() -> int:
            return len(recorder.select_events(stream_id.uuid))

        async def third() -> int:
            return int(await other.read(stream_id.uuid))

        yield {"ours": ours, "eventsourcing": rival, "eventsource-py": third}


@asynccontextmanager
async def read_all() -> AsyncIterator[Mapping[str, Side]]:
    """Everything there is, as values, in pages of a thousand."""
    page = 1_000
    async with bench() as b:
        store = await b.ours()
        recorder = b.application().recorder
        for _ in range(ALL_EVENTS // page):
            stream_id = TypeID.new("account")
            await store.append_stream(stream_id, sample_events(page))
            recorder.insert_events(rival_events(stream_id.uuid, 0, page))

        async def ours() -> int:
            events = await store.read_all().collect()
            assert len(events) == ALL_EVENTS
            return ALL_EVENTS

        async def rival() -> int:
            found: list[Any] = []
            while True:
                start = found[-1].id if found else None
                more = recorder.select_notifications(start, page, inclusive_of_start=False)
                if not more:
                    break
                found += more
            assert len(found) == ALL_EVENTS
            return ALL_EVENTS

        yield {"ours": ours, "eventsourcing": rival}


@asynccontextmanager
async def load_aggregate() -> AsyncIterator[Mapping[str, Side]]:
    """Read, decode and apply a thousand events."""
    loads, events = 10, 1_000
    async with bench() as b:
        store, application = await b.ours(), b.application()
        account_id = TypeID.new("account")
        await store.append_stream(account_id, account_events(events))
        accounts = EventSourcedStore(store, "account", Account, events=[Opened, Deposited])
        rival_id = write_account(application, events)

        async def ours() -> int:
            for _ in range(loads):
                account = await accounts.load(account_id)
            assert account.version == events
            return loads

        async def rival() -> int:
            for _ in range(loads):
                account = application.repository.get(rival_id)
            assert account.version == events
            return loads

        yield {"ours": ours, "eventsourcing": rival}


@asynccontextmanager
async def growth() -> AsyncIterator[Mapping[str, Side]]:
    """Append to and load from a small store and a large one, in turn."""
    times = 60
    async with bench() as b:
        stores = {SMALL: await b.ours(), LARGE: await b.ours()}
        for stored, store in stores.items():
            for _ in range(stored // 10_000):
                streams = [TypeID.new("account") for _ in range(100)]
                for stream_id in streams:
                    await store.append_stream(stream_id, sample_events(100))

        def side(store: PostgresEventStore) -> Side:
            async def run() -> int:
                for _ in range(times):
                    stream_id = TypeID.new("account")
                    await store.append_stream(stream_id, sample_events(100), expect=0)
                    await store.append_stream(stream_id, sample_events(1), expect=100)
                    await store.read_stream(stream_id).collect()
                return times * 3

            return run

        yield {"ours": side(stores[LARGE]), f"ours at {SMALL:,}": side(stores[SMALL])}


WORKLOADS = [
    appends(1, 200, [Bar("floor", 0.75), Bar("eventsourcing", 1.5)], 9),
    appends(100, 20, [Bar("floor", 0.75), Bar("eventsourcing", 1.7)]),
    appends(10_000, 1, [Bar("floor", 0.7), Bar("eventsourcing", 1.6)]),
    Workload(
        "postgres.append_16_streams",
        f"{TASKS} tasks appending to {TASKS} streams, one event each",
        [Bar("floor", 0.7), Bar("eventsourcing", 2.5), Bar("allocator row", 1.3)],
        many_streams,
        9,
    ),
    Workload(
        "postgres.read_stream",
        f"read a stream of {READ_EVENTS:,} events into Event values",
        [Bar("eventsourcing", 1.2)],
        read_stream,
    ),
    Workload(
        "postgres.read_all",
        f"read_all of {ALL_EVENTS:,} events into Event values",
        [Bar("eventsourcing", 1.1)],
        read_all,
    ),
    Workload(
        "postgres.load_aggregate",
        "load an aggregate of 1,000 events (read, decode, apply)",
        [Bar("eventsourcing", 3)],
        load_aggregate,
        9,
    ),
    Workload(
        "postgres.growth",
        f"append and load at {LARGE:,} stored events, against {SMALL:,}",
        [Bar.time(f"ours at {SMALL:,}", at_most=1.2)],
        growth,
        9,
    ),
]
