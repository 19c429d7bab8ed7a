"""What `test_processes` runs in processes of their own: ``programs.py NAME ARGUMENT...``."""

import asyncio
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from estoria.core import EventSourcedStore, Expect, NewEvent, TypeID
from estoria.sqlite import SQLiteEventStore


@dataclass
class Deposited:
    """Money came in."""

    amount: int

    def apply_to(self, total):
        return total + self.amount


def event():
    """An event like no other."""
    return NewEvent("happened", b"{}", "application/json")


async def set_up(path):
    """A process that sets the store up, as others do at the same time."""
    async with SQLiteEventStore.connect(path) as store:
        await store.setup()
        await store.append_stream(TypeID.new("account"), [event()])


async def append_for_ever(path, seed):
    """Append to a stream of its own and to shared ones; print what was acknowledged."""
    rng = random.Random(int(seed))
    own = TypeID.new("account")
    shared = [TypeID.parse(line) for line in Path(f"{path}.shared").read_text().split()]
    async with SQLiteEventStore.connect(path) as store:
        await store.setup()

        async def write(stream_id, expect):
            appended = await store.append_stream(
                stream_id, [event() for _ in range(rng.randint(1, 4))], expect=expect
            )
            facts = [str(stream_id), [[e.stream_version, str(e.id)] for e in appended]]
            print(json.dumps(facts), flush=True)
            return appended.stream.version

        version = 0
        while True:
            version, *_ = await asyncio.gather(
                write(own, version), *(write(rng.choice(shared), Expect.ANY) for _ in range(3))
            )


async def deposit(path, wallet_id, times):
    """Deposit into one wallet, as others do at the same time."""
    async with SQLiteEventStore.connect(path) as store:
        wallets = EventSourcedStore(store, "wallet", int, events=[Deposited])
        for _ in range(int(times)):
            await wallets.execute(
                TypeID.parse(wallet_id), lambda w: w.append(Deposited(1)), attempts=500
            )


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
