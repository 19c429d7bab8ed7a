"""What tests run in processes of their own."""

import asyncio
import json
import random
import sys
import time
from contextlib import asynccontextmanager

from pymongo import AsyncMongoClient

from estoria.core import (
    Expect,
    NewEvent,
    StreamChangedError,
    StreamNotFoundError,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.mongodb import (
    Layout,
    MongoCheckpointStore,
    MongoEventStore,
    MongoSnapshotStore,
)


@asynccontextmanager
async def opened(url, database, layout, **options):
    """A store, and its client."""
    chosen = Layout.single() if layout.startswith("single") else Layout.per_type()
    async with AsyncMongoClient(url, heartbeatFrequencyMS=500) as client:
        yield MongoEventStore(client, database, layout=chosen, **options), client


async def append(url, database, layout):
    """Append one event; print its position."""
    async with opened(url, database, layout) as (store, _):
        (event,) = await store.append_stream(TypeID.new("account"), [NewEvent("seen", b"")])
        print(event.global_position)


async def append_and_hang(url, database, layout):
    """Append in a transaction that is open until a line comes in."""
    async with opened(url, database, layout) as (store, client), client.start_session() as session:
        await session.start_transaction()
        inside = store.within(session)
        (event,) = await inside.append_stream(TypeID.new("account"), [NewEvent("seen", b"")])
        print(event.global_position, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await session.commit_transaction()


async def read(url, database, layout):
    """Print all positions."""
    async with opened(url, database, layout, patience=0) as (store, _):
        print([event.global_position for event in await store.read_all().collect()])


async def setup(url, database, layout):
    """Set everything up, with all others at once."""
    async with opened(url, database, layout) as (store, client):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await store.setup()
        for other in (MongoSnapshotStore(client, database), MongoCheckpointStore(client, database)):
            await other.setup()
        await store.append_stream(TypeID.new("account"), [NewEvent("seen", b"")])


async def write_at_random(url, database, layout, seconds, seed):
    """Append, truncate, delete and read; print what was acknowledged, one JSON array each."""
    rng = random.Random(seed)
    own = [TypeID.new("own") for _ in range(4)]
    shared = [TypeID.parse(f"shared_00000000-0000-4000-8000-00000000000{n}") for n in range(3)]
    deadline = time.monotonic() + float(seconds)
    acknowledged, removed = [], []
    async with opened(url, database, layout, timeout=60) as (store, _):

        async def write():
            while time.monotonic() < deadline:
                try:
                    await act(rng.choice(own + shared))
                except (StreamVersionMismatchError, StreamNotFoundError, StreamChangedError):
                    continue

        async def act(stream_id):
            dice = rng.random()
            batch = [
                NewEvent("seen", rng.randbytes(rng.choice((0, 10, 3_000))))
                for _ in range(rng.choice((1, 1, 1, 2, 5, 40)))
            ]
            if dice < 0.55:
                appended = await store.append_stream(stream_id, batch)
            elif dice < 0.65:
                appended = await store.append_stream(stream_id, batch, expect=Expect.STREAM_EXISTS)
            elif dice < 0.9:
                async with store.read_stream(stream_id, reverse=True, count=3) as events:
                    version = events.stream.version
                appended = await store.append_stream(stream_id, batch, expect=version)
            elif dice < 0.97:
                async with store.read_stream(stream_id, count=1) as events:
                    stream = events.stream
                if stream.first_version < stream.version:
                    removed.append(str(stream_id))
                    await store.truncate_stream(
                        stream_id, rng.randint(stream.first_version, stream.version)
                    )
                return
            else:
                removed.append(str(stream_id))
                await store.delete_stream(stream_id)
                return
            versions = [event.stream_version for event in appended]
            assert versions == list(range(versions[0], versions[0] + len(batch)))
            acknowledged.extend(
                (event.global_position, str(event.stream_id), event.stream_version, str(event.id))
                for event in appended
            )

        await asyncio.gather(*(write() for _ in range(3)))
    print(json.dumps({"acknowledged": acknowledged, "removed": sorted(set(removed))}))


async def tail(url, database, layout, seed):
    """Read on from the last position until a line comes in; print every event once seen."""
    rng = random.Random(seed)
    seen = []
    stop = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    last_round = 0.0
    while True:
        async with opened(url, database, layout, timeout=60, patience=0.1) as (store, _):
            for _ in range(rng.randint(1, 40)):
                after = seen[-1][0] if seen else 0
                async for event in store.read_all(after_position=after):
                    seen.append(
                        (
                            event.global_position,
                            str(event.stream_id),
                            event.stream_version,
                            str(event.id),
                        )
                    )
                    if not last_round and rng.random() < 0.001:
                        break
                if last_round and time.monotonic() > last_round:
                    print(json.dumps(seen))
                    return
                if stop.done() and not last_round:
                    # Gaps that dead writers left are closed within the patience.
                    last_round = time.monotonic() + 1.0
                await asyncio.sleep(0.002)


if __name__ == "__main__":
    job = globals()[sys.argv[1]]
    asyncio.run(job(*sys.argv[2:]))
