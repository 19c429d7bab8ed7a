"""SQLite, against the same tables by hand and against ``eventsourcing``."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time_ns

from estoria.core import EventSourcedStore, Expect, TypeID, uuid7
from estoria.sqlite import SQLiteEventStore
from estoria_bench._account import Account, Deposited, Opened, account_events, sample_events
from estoria_bench._measure import Bar, Side, Workload
from estoria_bench.floors.sqlite import RawSQLite, Row
from estoria_bench.rivals.es import Account as RivalAccount
from estoria_bench.rivals.es import open_application, write_account

METADATA = '{"who":"me"}'
DATA = sample_events(1)[0].data
ALL_EVENTS = 100_000


@asynccontextmanager
async def files() -> AsyncIterator[tuple[SQLiteEventStore, RawSQLite, Path]]:
    """A store and a raw connection, each on a file of its own, and the folder."""
    with TemporaryDirectory(prefix="estoria-bench-") as folder:
        ours, raw = Path(folder) / "ours.db", Path(folder) / "raw.db"
        async with SQLiteEventStore.connect(raw) as store:
            await store.setup()
        async with SQLiteEventStore.connect(ours) as store:
            await store.setup()
            floor = RawSQLite(raw)
            yield store, floor, Path(folder)
            await floor.close()


def raw_rows(count: int) -> list[Row]:
    """What `sample_events` makes, as a hand-written program would make it."""
    now = time_ns() // 1_000
    return [
        (uuid7().bytes, "happened", now, DATA, "application/json", METADATA) for _ in range(count)
    ]


def appends(batch: int, times: int) -> "Workload":
    """One writer, one stream, an exact expectation each time."""

    @asynccontextmanager
    async def sides() -> AsyncIterator[Mapping[str, Side]]:
        async with files() as (store, floor, _):
            versions = {"ours": 0, "floor": 0}
            stream_id = TypeID.new("account")

            async def ours() -> int:
                for _ in range(times):
                    version = versions["ours"]
                    await store.append_stream(stream_id, sample_events(batch), expect=version)
                    versions["ours"] += batch
                return times * batch

            async def raw() -> int:
                for _ in range(times):
                    version = versions["floor"]
                    await floor.append("account", stream_id.uuid, version, raw_rows(batch))
                    versions["floor"] += batch
                return times * batch

            yield {"ours": ours, "floor": raw}

    bar = 0.5 if batch == 1 else 0.7
    what = "1 event" if batch == 1 else f"{batch} events in a batch"
    return Workload(
        f"sqlite.append_{batch}",
        f"append {what}, one writer, durable",
        [Bar("floor", bar)],
        sides,
        9,
    )


@asynccontextmanager
async def many_streams() -> AsyncIterator[Mapping[str, Side]]:
    """Sixteen tasks, each on streams of its own."""
    tasks, each = 16, 200
    async with files() as (store, floor, _):

        async def write_ours() -> None:
            stream_id = TypeID.new("account")
            for version in range(each):
                await store.append_stream(
                    stream_id, sample_events(1), expect=version or Expect.NO_STREAM
                )

        async def write_raw() -> None:
            uuid = uuid7()
            for version in range(each):
                await floor.append("account", uuid, version, raw_rows(1))

        async def ours() -> int:
            await asyncio.gather(*(write_ours() for _ in range(tasks)))
            return tasks * each

        async def raw() -> int:
            await asyncio.gather(*(write_raw() for _ in range(tasks)))
            return tasks * each

        yield {"ours": ours, "floor": raw}


@asynccontextmanager
async def load_aggregate() -> AsyncIterator[Mapping[str, Side]]:
    """Read, decode and apply a thousand events."""
    loads = 10
    async with files() as (store, _, folder):
        account_id = TypeID.new("account")
        await store.append_stream(account_id, account_events(1_000))
        accounts = EventSourcedStore(store, "account", Account, events=[Opened, Deposited])
        application = open_application(
            {
                "PERSISTENCE_MODULE": "eventsourcing.sqlite",
                "SQLITE_DBNAME": str(folder / "eventsourcing.db"),
            }
        )
        rival_id = write_account(application, 1_000)

        async def ours() -> int:
            for _ in range(loads):
                account = await accounts.load(account_id)
            assert account.version == 1_000
            return loads

        async def rival() -> int:
            for _ in range(loads):
                rival_account: RivalAccount = application.repository.get(rival_id)
            assert rival_account.version == 1_000
            return loads

        yield {"ours": ours, "eventsourcing": rival}
        application.close()


@asynccontextmanager
async def read_all() -> AsyncIterator[Mapping[str, Side]]:
    """Everything there is, as values on our side and as tuples on the other."""
    async with files() as (store, floor, _):
        for _ in range(ALL_EVENTS // 1_000):
            stream_id = TypeID.new("account")
            await store.append_stream(stream_id, sample_events(1_000))
            await floor.append("account", stream_id.uuid, 0, raw_rows(1_000))
        started = datetime.now(UTC)

        async def ours() -> int:
            events = await store.read_all().collect()
            assert len(events) == ALL_EVENTS
            assert events[-1].timestamp < started
            return ALL_EVENTS

        async def raw() -> int:
            count = await floor.read_all(1_000)
            assert count == ALL_EVENTS
            return ALL_EVENTS

        yield {"ours": ours, "floor": raw}


WORKLOADS = [
    appends(1, 400),
    appends(100, 30),
    Workload(
        "sqlite.append_16_streams",
        "16 tasks appending to 16 streams, one event each",
        [Bar("floor", 0.8)],
        many_streams,
        9,
    ),
    Workload(
        "sqlite.load_aggregate",
        "load an aggregate of 1,000 events (read, decode, apply)",
        [Bar("eventsourcing", 3)],
        load_aggregate,
        9,
    ),
    Workload(
        "sqlite.read_all",
        f"read_all of {ALL_EVENTS:,} events into Event values",
        [Bar("floor", 0.25)],
        read_all,
    ),
]
