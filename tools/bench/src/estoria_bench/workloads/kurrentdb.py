"""KurrentDB, against the client that the store is built on, on one server.

Where no KurrentDB can be had the server is the test double: a ratio then says what the store
adds to the client's own work, and nothing of a server's speed.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from typing import Any

from estoria_testservers import start_kurrentdb
from kurrentdbclient import AsyncKurrentDBClient, StreamState
from kurrentdbclient import NewEvent as Proposal

from estoria.core import Expect, NewEvent, TypeID
from estoria.kurrentdb import KurrentDBEventStore
from estoria_bench._account import sample_events
from estoria_bench._measure import Bar, Side, Workload

LOAD_EVENTS = 1_000
ALL_EVENTS = 50_000

WITH_VERSION = "raw client that learns the version"
"""The client doesn't tell which version the server gave."""

WITH_POSITIONS = "raw client that learns the positions"
"""The protocol tells the position of a batch's last event alone; the others must be read."""


@asynccontextmanager
async def bench() -> AsyncIterator[tuple[KurrentDBEventStore, AsyncKurrentDBClient]]:
    """A server of its own for a workload; each side has a client of its own."""
    with closing(start_kurrentdb()) as server:
        async with KurrentDBEventStore.connect(server.url) as store:
            client = AsyncKurrentDBClient(server.url)
            await client.connect()
            try:
                yield store, client
            finally:
                await client.close()


def raw_events(count: int) -> list[Proposal]:
    """What `sample_events` makes, as a program would hand it to the client."""
    return [_proposal(event) for event in sample_events(count)]


def _proposal(event: NewEvent) -> Proposal:
    metadata = json.dumps(dict(event.metadata)).encode()
    return Proposal(event.type, event.data, metadata, "application/json", event.id)


def appends(batch: int, times: int, bars: list[Bar]) -> Workload:
    """One writer, one stream, an exact expectation each time."""

    @asynccontextmanager
    async def sides() -> AsyncIterator[Mapping[str, Side]]:
        async with bench() as (store, client):
            stream_id = TypeID.new("account")

            async def append_ours(version: int) -> None:
                await store.append_stream(stream_id, sample_events(batch), expect=version)

            async def append_raw(version: int) -> None:
                state = version - 1 if version else StreamState.NO_STREAM
                await client.append_to_stream(
                    f"raw-{stream_id}", events=raw_events(batch), current_version=state
                )

            async def append_and_read(version: int) -> None:
                state = version - 1 if version else StreamState.NO_STREAM
                name = f"read-{stream_id}"
                await client.append_to_stream(name, events=raw_events(batch), current_version=state)
                found = await client.get_stream(name, stream_position=version, limit=batch)
                assert len(found) == batch

            def side(append: Callable[[int], Awaitable[None]]) -> Side:
                version = 0

                async def run() -> int:
                    nonlocal version
                    for _ in range(times):
                        await append(version)
                        version += batch
                    return times * batch

                return run

            chosen = {"ours": side(append_ours), "raw client": side(append_raw)}
            if batch > 1:
                chosen[WITH_POSITIONS] = side(append_and_read)
            yield chosen

    what = "1 event" if batch == 1 else f"{batch:,} events in a batch"
    return Workload(
        f"kurrentdb.append_{batch}", f"append {what}, exact version, one writer", bars, sides, 9
    )


@asynccontextmanager
async def append_any() -> AsyncIterator[Mapping[str, Side]]:
    """One event at a time, without an expectation: the version is read back."""
    times = 150
    async with bench() as (store, client):
        stream_id = TypeID.new("account")

        async def ours() -> int:
            for _ in range(times):
                await store.append_stream(stream_id, sample_events(1), expect=Expect.ANY)
            return times

        async def raw() -> int:
            for _ in range(times):
                await client.append_to_stream(
                    f"raw-{stream_id}", events=raw_events(1), current_version=StreamState.ANY
                )
            return times

        async def append_and_read() -> int:
            name = f"read-{stream_id}"
            for _ in range(times):
                await client.append_to_stream(
                    name, events=raw_events(1), current_version=StreamState.ANY
                )
                assert len(await client.get_stream(name, backwards=True, limit=1)) == 1
            return times

        yield {"ours": ours, "raw client": raw, WITH_VERSION: append_and_read}


async def _drained(response: Any) -> int:
    found = [record async for record in response]
    return len(found)


@asynccontextmanager
async def load() -> AsyncIterator[Mapping[str, Side]]:
    """A stream as values."""
    loads = 10
    async with bench() as (store, client):
        stream_id = TypeID.new("account")
        await store.append_stream(stream_id, sample_events(LOAD_EVENTS))

        async def ours() -> int:
            for _ in range(loads):
                assert len(await store.read_stream(stream_id).collect()) == LOAD_EVENTS
            return loads

        async def raw() -> int:
            for _ in range(loads):
                assert await _drained(await client.read_stream(str(stream_id))) == LOAD_EVENTS
            return loads

        yield {"ours": ours, "raw client": raw}


@asynccontextmanager
async def read_all() -> AsyncIterator[Mapping[str, Side]]:
    """Everything there is, as values."""
    batch = 1_000
    async with bench() as (store, client):
        for _ in range(ALL_EVENTS // batch):
            await store.append_stream(TypeID.new("account"), sample_events(batch))

        async def ours() -> int:
            assert len(await store.read_all().collect()) == ALL_EVENTS
            return ALL_EVENTS

        async def raw() -> int:
            assert await _drained(await client.read_all()) == ALL_EVENTS
            return ALL_EVENTS

        yield {"ours": ours, "raw client": raw}


WORKLOADS = [
    appends(1, 150, [Bar("raw client", 0.45)]),
    appends(100, 15, [Bar("raw client", 0.6), Bar(WITH_POSITIONS, 0.6)]),
    Workload(
        "kurrentdb.append_any",
        "append 1 event, whatever the version, one writer",
        [Bar(WITH_VERSION, 0.6)],
        append_any,
        9,
    ),
    Workload(
        "kurrentdb.load",
        f"read a stream of {LOAD_EVENTS:,} events into Event values",
        [Bar("raw client", 0.6)],
        load,
        9,
    ),
    Workload(
        "kurrentdb.read_all",
        f"read_all of {ALL_EVENTS:,} events into Event values",
        [Bar("raw client", 0.6)],
        read_all,
    ),
]
