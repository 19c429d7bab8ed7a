"""The memory store: what the library itself costs."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec

from estoria.core import EventSourcedStore, TypeID
from estoria.core.memory import MemoryEventStore
from estoria_bench._account import Account, Deposited, Opened, account_events
from estoria_bench._measure import Bar, Side, Workload

EVENTS = 1_000
LOADS = 20


@asynccontextmanager
async def load_aggregate() -> AsyncIterator[Mapping[str, Side]]:
    """Load from memory, against decoding the same payloads and nothing else."""
    store, account_id = MemoryEventStore(), TypeID.new("account")
    events = account_events(EVENTS)
    await store.append_stream(account_id, events)
    accounts = EventSourcedStore(store, "account", Account, events=[Opened, Deposited])
    decoders = {cls.__name__: msgspec.json.Decoder(cls) for cls in (Opened, Deposited)}
    payloads = [(decoders[event.type].decode, event.data) for event in events]

    async def ours() -> int:
        for _ in range(LOADS):
            account = await accounts.load(account_id)
        assert account.version == EVENTS
        return LOADS

    async def decoding() -> int:
        for _ in range(LOADS):
            for decode, data in payloads:
                decode(data)
        return LOADS

    yield {"ours": ours, "decoding alone": decoding}


WORKLOADS = [
    Workload(
        "memory.load_aggregate",
        f"load an aggregate of {EVENTS:,} events",
        [Bar.time("decoding alone", at_most=8)],
        load_aggregate,
        rounds=9,
    )
]
