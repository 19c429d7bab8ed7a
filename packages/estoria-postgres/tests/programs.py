"""What tests run in processes of their own: ``programs.py JOB URL [ARGUMENT...]``."""

import asyncio
import json
import random
import sys
import time

import psycopg

from estoria.core import (
    DuplicateEventError,
    Expect,
    NewEvent,
    StreamChangedError,
    StreamNotFoundError,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.postgres import PostgresCheckpointStore, PostgresEventStore, PostgresSnapshotStore


async def append(url):
    """Append one event, print its position."""
    async with PostgresEventStore.connect(url) as store:
        (event,) = await store.append_stream(TypeID.new("account"), [NewEvent("seen", b"")])
        print(event.global_position)


async def append_and_hang(url):
    """Append in a transaction that is open until a line comes in."""
    async with (
        PostgresEventStore.connect(url) as store,
        await psycopg.AsyncConnection.connect(url) as connection,
    ):
        inside = store.within(connection)
        (event,) = await inside.append_stream(TypeID.new("account"), [NewEvent("seen", b"")])
        print(event.global_position, flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def read(url):
    """Print all positions."""
    async with PostgresEventStore.connect(url) as store:
        print([event.global_position for event in await store.read_all().collect()])


async def setup(url):
    """Set everything up, with all others at once."""
    async with PostgresEventStore.connect(url + "?pool_size=1") as store:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await store.setup()
        pool = store._connections._pool
        for other in (PostgresSnapshotStore(pool), PostgresCheckpointStore(pool)):
            await other.setup()


async def write_at_random(url, seconds, seed):
    """Append, truncate, delete and read; print what was acknowledged, one JSON array each."""
    rng = random.Random(seed)
    own = [TypeID.new("own") for _ in range(4)]
    shared = [TypeID.parse(f"shared_00000000-0000-4000-8000-00000000000{n}") for n in range(3)]
    deadline = time.monotonic() + float(seconds)
    acknowledged, removed = [], []
    async with PostgresEventStore.connect(url + "?pool_size=4") as store:

        async def write():
            while time.monotonic() < deadline:
                stream_id = rng.choice(own + shared)
                try:
                    await act(stream_id)
                except (
                    StreamVersionMismatchError,
                    StreamNotFoundError,
                    StreamChangedError,
                    DuplicateEventError,
                ) as error:
                    assert not isinstance(error, DuplicateEventError), error

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
                    await store.truncate_stream(
                        stream_id, rng.randint(stream.first_version, stream.version)
                    )
                    removed.append(str(stream_id))
                return
            else:
                await store.delete_stream(stream_id)
                removed.append(str(stream_id))
                return
            versions = [event.stream_version for event in appended]
            assert versions == list(range(versions[0], versions[0] + len(batch)))
            acknowledged.extend(
                (event.global_position, str(event.stream_id), event.stream_version, str(event.id))
                for event in appended
            )

        await asyncio.gather(*(write() for _ in range(3)))
    print(json.dumps({"acknowledged": acknowledged, "removed": sorted(set(removed))}))


async def tail(url, seed):
    """Read on from the last position until a line comes in; print every event once seen."""
    rng = random.Random(seed)
    seen = []
    stop = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    last_round = False
    while True:
        async with PostgresEventStore.connect(url + "?pool_size=1") as store:
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
                else:
                    if last_round:
                        print(json.dumps(seen))
                        return
                    last_round = stop.done()
                await asyncio.sleep(0.002)


if __name__ == "__main__":
    job = globals()[sys.argv[1]]
    asyncio.run(job(*sys.argv[2:]))
