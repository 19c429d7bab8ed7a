"""Several processes on one file, and what is left when they are killed."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from estoria.core import EventSourcedStore, StreamVersionMismatchError, TypeID
from estoria.core.testing import Balance, Deposited, new_events
from estoria.sqlite import SQLiteEventStore

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("ESTORIA_SQLITE_KILLS", "20"))
"""How often the processes are killed."""


def start(role, *arguments):
    """Run one of the programs in a process of its own."""
    program = Path(__file__).with_name("programs.py")
    command = [sys.executable, str(program), role, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def finish(process):
    """Wait until it ends, and expect that all went well."""
    text, _ = await asyncio.to_thread(process.communicate, timeout=120)
    assert process.returncode == 0, text


async def test_ten_processes_may_set_up_at_once(path):
    for round_ in range(2):
        for process in [start("set_up", path) for _ in range(10)]:
            await finish(process)
        async with SQLiteEventStore.connect(path) as store:
            assert len(await store.read_all().collect()) == 10 * (round_ + 1)


async def test_writers_of_several_processes_lose_nothing(path):
    """Each reads, decides and writes; those who collide try again."""
    await finish(start("set_up", path))
    wallet_id = TypeID.new("wallet")
    for process in [start("deposit", path, wallet_id, 40) for _ in range(4)]:
        await finish(process)

    async with SQLiteEventStore.connect(path) as store:
        wallets = EventSourcedStore(store, "wallet", Balance, events=[Deposited])
        loaded = await wallets.load(wallet_id)
        assert (loaded.version, loaded.state) == (160, Balance(160, 160))


async def test_what_was_acknowledged_outlives_a_kill(path):
    """Four processes append until they are killed, again and again."""
    rng = random.Random(1)
    shared = [TypeID.new("shared") for _ in range(3)]
    Path(f"{path}.shared").write_text("\n".join(map(str, shared)))
    acknowledged = {}
    for round_ in range(ROUNDS):
        processes = [start("append_for_ever", path, round_ * 4 + n) for n in range(4)]
        # Killed only when all are at work: at whatever point they are then.
        first = [await asyncio.to_thread(p.stdout.readline) for p in processes]
        await asyncio.sleep(rng.uniform(0, 0.15))
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process, line in zip(processes, first, strict=True):
            lines = (line + await asyncio.to_thread(process.stdout.read)).splitlines(keepends=True)
            process.stdout.close()
            await asyncio.to_thread(process.wait)
            for whole in (line for line in lines if line.endswith("\n")):
                stream_id, events = json.loads(whole)
                acknowledged.setdefault(stream_id, []).extend(map(tuple, events))
        await check(path, acknowledged)
    assert len(acknowledged) == 4 * ROUNDS + 3


async def check(path, acknowledged):
    """Every acknowledged event is there, versions have no gaps, positions grow."""
    async with SQLiteEventStore.connect(path) as store:
        everything = await store.read_all().collect()
        positions = [event.global_position for event in everything]
        assert positions == sorted(set(positions))
        streams = {}
        for event in everything:
            streams.setdefault(str(event.stream_id), []).append(event)
        for stream_id, events in streams.items():
            assert [e.stream_version for e in events] == list(range(1, len(events) + 1))
            stored = {(e.stream_version, str(e.id)) for e in events}
            assert stored >= set(acknowledged.get(stream_id, ()))
        assert streams.keys() >= acknowledged.keys()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


async def test_one_winner_for_each_version_between_processes(path):
    """Two stores, two connections, one expected version."""
    await finish(start("set_up", path))
    async with SQLiteEventStore.connect(path) as mine, SQLiteEventStore.connect(path) as theirs:
        stream_id = TypeID.new("account")
        for version in range(20):
            outcomes = await asyncio.gather(
                mine.append_stream(stream_id, new_events(1), expect=version),
                theirs.append_stream(stream_id, new_events(1), expect=version),
                return_exceptions=True,
            )
            (refused,) = [o for o in outcomes if isinstance(o, BaseException)]
            assert isinstance(refused, StreamVersionMismatchError)
            assert refused.actual == version + 1
