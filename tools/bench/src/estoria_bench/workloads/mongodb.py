"""MongoDB, against the same documents by hand, and against the counters that suggest themselves.

Each side has a database of its own on one replica set of one node, and one client for all; every
write waits for the majority and the journal.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from time import time_ns
from typing import Any

from estoria_testservers import MongoServer, start_mongodb
from pymongo import AsyncMongoClient

from estoria.core import EventSourcedStore, Expect, TypeID, uuid7
from estoria.mongodb import Layout, MongoEventStore
from estoria_bench._account import Account, Deposited, Opened, account_events, sample_events
from estoria_bench._measure import Bar, Side, Workload
from estoria_bench.floors.mongodb import CountersInATransaction, RawMongo

DATA = sample_events(1)[0].data
METADATA = ["who", "me"]
PROCESSES = 4
ALL_EVENTS = 100_000
SMALL, LARGE = 10_000, 1_000_000


class Bench:
    """A server, and what the sides need of it."""

    def __init__(self, server: MongoServer, client: Any) -> None:
        self.server, self.client = server, client
        self._databases = 0

    def database(self) -> str:
        """The name of a fresh database; it goes with the server."""
        self._databases += 1
        return f"bench{self._databases}"

    async def ours(self, layout: Layout | None = None) -> MongoEventStore:
        """Our store, set up."""
        store = MongoEventStore(self.client, self.database(), layout=layout)
        await store.setup()
        return store

    async def floor(self) -> RawMongo:
        """The same collection, by hand."""
        name = self.database()
        await MongoEventStore(self.client, name).setup()
        return RawMongo(self.client, name)

    async def counters(self) -> CountersInATransaction:
        """Counters in a transaction, set up."""
        counters = CountersInATransaction(self.client, self.database())
        await counters.setup()
        return counters


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """A server of its own for a workload."""
    with closing(start_mongodb()) as server:
        client: AsyncMongoClient[Any] = AsyncMongoClient(server.url, maxPoolSize=256)
        async with client:
            yield Bench(server, client)


def raw_events(count: int) -> list[dict[str, Any]]:
    """What `sample_events` makes, as a hand-written program would make it."""
    return [
        {
            "id": uuid7(),
            "type": "happened",
            "data": DATA,
            "content_type": "application/json",
            "metadata": METADATA,
        }
        for _ in range(count)
    ]


def now() -> int:
    """The clock, in microseconds."""
    return time_ns() // 1_000


@asynccontextmanager
async def append_1() -> AsyncIterator[Mapping[str, Side]]:
    """One writer, one stream, an exact expectation each time."""
    times = 200
    async with bench() as b:
        store, floor = await b.ours(), await b.floor()
        stream_id = TypeID.new("account")

        async def append_ours(version: int) -> None:
            await store.append_stream(stream_id, sample_events(1), expect=version)

        async def append_raw(version: int) -> None:
            await floor.append("account", stream_id.uuid, version, now(), raw_events(1))

        def side(append: Callable[[int], Awaitable[None]]) -> Side:
            version = 0

            async def run() -> int:
                nonlocal version
                for _ in range(times):
                    await append(version)
                    version += 1
                return times

            return run

        yield {"ours": side(append_ours), "floor": side(append_raw)}


def many_streams(
    tasks: int, bars: list[Bar], layout: Layout | None = None, name: str = "single"
) -> Workload:
    """So many tasks, each on a new stream of its own."""
    each = max(4, 400 // tasks)

    @asynccontextmanager
    async def sides() -> AsyncIterator[Mapping[str, Side]]:
        async with bench() as b:
            store, floor, counters = await b.ours(layout), await b.floor(), await b.counters()

            async def write_ours() -> None:
                stream_id = TypeID.new("account")
                for version in range(each):
                    await store.append_stream(
                        stream_id, sample_events(1), expect=version or Expect.NO_STREAM
                    )

            async def write_raw() -> None:
                uuid = uuid7()
                for version in range(each):
                    await floor.append("account", uuid, version, now(), raw_events(1))

            async def write_counted() -> None:
                uuid = uuid7()
                # A tenth of the work: it is that slow.
                for _ in range(max(1, each // 10)):
                    await counters.append("account", uuid, now(), raw_events(1)[0])

            def side(write: Callable[[], Awaitable[None]], count: int) -> Side:
                async def run() -> int:
                    await asyncio.gather(*(write() for _ in range(tasks)))
                    return tasks * count

                return run

            yield {
                "ours": side(write_ours, each),
                "floor": side(write_raw, each),
                "counters": side(write_counted, max(1, each // 10)),
            }

    return Workload(
        f"mongodb.{name}_{tasks}_streams",
        f"{tasks} tasks appending to {tasks} streams, one event each, {name} layout"
        + ("" if bars else " (reported)"),
        bars,
        sides,
        rounds=7,
    )


@asynccontextmanager
async def four_processes() -> AsyncIterator[Mapping[str, Side]]:
    """Sixteen tasks in each of four processes, with their own clients."""
    async with bench() as b, AsyncExitStack() as stack:
        workers = {}
        for side_name in ("ours", "floor"):
            name = b.database()
            await MongoEventStore(b.client, name).setup()
            workers[side_name] = [
                await stack.enter_async_context(worker(b.server.url, name, side_name, number))
                for number in range(PROCESSES)
            ]

        def side(processes: list[Callable[[], Awaitable[int]]]) -> Side:
            async def run() -> int:
                return sum(await asyncio.gather(*(process() for process in processes)))

            return run

        yield {name: side(processes) for name, processes in workers.items()}


@asynccontextmanager
async def worker(
    url: str, database: str, side: str, number: int
) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """A process that appends, as often as it is asked to."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", __name__, url, database, side, str(number)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    asking, answers = process.stdin, process.stdout
    assert asking is not None
    assert answers is not None

    async def run() -> int:
        asking.write(b"go\n")
        return int(json.loads(await answers.readline()))

    try:
        yield run
    finally:
        asking.close()
        await process.wait()


async def work(url: str, database: str, side: str, number: int) -> None:
    """The other end of `worker`."""
    tasks, each = 16, 25
    client: AsyncMongoClient[Any] = AsyncMongoClient(url)
    async with client:
        store, floor = MongoEventStore(client, database), RawMongo(client, database)
        floor.start(number)

        async def write() -> None:
            stream_id = TypeID.new("account")
            for version in range(each):
                if side == "ours":
                    await store.append_stream(stream_id, sample_events(1), expect=version)
                else:
                    uuid = stream_id.uuid
                    await floor.append("account", uuid, version, now(), raw_events(1))

        while await asyncio.to_thread(sys.stdin.readline):
            await asyncio.gather(*(write() for _ in range(tasks)))
            sys.stdout.write(f"{tasks * each}\n")
            sys.stdout.flush()


@asynccontextmanager
async def load_aggregate() -> AsyncIterator[Mapping[str, Side]]:
    """Read, decode and apply a thousand events, against fetching their documents."""
    loads, events = 10, 1_000
    async with bench() as b:
        name = b.database()
        store = MongoEventStore(b.client, name)
        await store.setup()
        floor = RawMongo(b.client, name)
        account_id = TypeID.new("account")
        for start in range(0, events, 10):
            # Appends of ten events, as commands make them.
            await store.append_stream(account_id, account_events(events)[start : start + 10])
        accounts = EventSourcedStore(store, "account", Account, events=[Opened, Deposited])

        async def ours() -> int:
            for _ in range(loads):
                account = await accounts.load(account_id)
            assert account.version == events
            return loads

        async def raw() -> int:
            for _ in range(loads):
                found = await floor.stream("account", account_id.uuid)
            assert found[-1]["last"] == events
            return loads

        yield {"ours": ours, "floor": raw}


@asynccontextmanager
async def read_all() -> AsyncIterator[Mapping[str, Side]]:
    """Everything there is, as values."""
    batch = 10
    async with bench() as b:
        name = b.database()
        store = MongoEventStore(b.client, name)
        await store.setup()
        floor = RawMongo(b.client, name)
        for _ in range(ALL_EVENTS // batch // 100):
            streams = [TypeID.new("account") for _ in range(100)]
            await asyncio.gather(*(store.append_stream(s, sample_events(batch)) for s in streams))

        async def ours() -> int:
            events = await store.read_all().collect()
            assert len(events) == ALL_EVENTS
            return ALL_EVENTS

        async def raw() -> int:
            found = await floor.everything()
            assert sum(len(document["events"]) for document in found) == ALL_EVENTS
            return ALL_EVENTS

        yield {"ours": ours, "floor": raw}


@asynccontextmanager
async def growth() -> AsyncIterator[Mapping[str, Side]]:
    """Append to and load from a small store and a large one, in turn."""
    times = 40
    async with bench() as b:
        stores = {SMALL: await b.ours(), LARGE: await b.ours()}
        for stored, store in stores.items():
            for _ in range(stored // 10_000):
                streams = [TypeID.new("account") for _ in range(1_000)]
                await asyncio.gather(*(store.append_stream(s, sample_events(10)) for s in streams))

        def side(store: MongoEventStore) -> Side:
            async def run() -> int:
                for _ in range(times):
                    stream_id = TypeID.new("account")
                    await store.append_stream(stream_id, sample_events(100), expect=0)
                    await store.append_stream(stream_id, sample_events(1), expect=100)
                    await store.read_stream(stream_id).collect()
                return times * 3

            return run

        yield {"ours": side(stores[LARGE]), f"ours at {SMALL:,}": side(stores[SMALL])}


_MANY = [Bar("floor", 0.4), Bar("counters", 4)]

WORKLOADS = [
    Workload(
        "mongodb.append_1",
        "append 1 event, exact version, one writer",
        [Bar("floor", 0.45)],
        append_1,
        9,
    ),
    *(many_streams(tasks, _MANY) for tasks in (16, 64, 200)),
    *(many_streams(tasks, [], Layout.per_type(), "per_type") for tasks in (16, 64)),
    Workload(
        "mongodb.four_processes",
        f"16 tasks in each of {PROCESSES} processes, one event each (reported)",
        [],
        four_processes,
    ),
    Workload(
        "mongodb.load_aggregate",
        "load an aggregate of 1,000 events (read, decode, apply), against a raw fetch",
        [Bar("floor", 0.3)],
        load_aggregate,
        9,
    ),
    Workload(
        "mongodb.read_all",
        f"read_all of {ALL_EVENTS:,} events into Event values, against a raw fetch",
        [Bar("floor", 0.3)],
        read_all,
    ),
    Workload(
        "mongodb.growth",
        f"append and load at {LARGE:,} stored events, against {SMALL:,}",
        [Bar.time(f"ours at {SMALL:,}", at_most=1.2)],
        growth,
        9,
    ),
]

if __name__ == "__main__":
    _url, _database, _side, _number = sys.argv[1:]
    asyncio.run(work(_url, _database, _side, int(_number)))
