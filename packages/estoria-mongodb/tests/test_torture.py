"""Many processes at random, with servers that are killed, restarted and stepped down meanwhile.

Short by default. ``ESTORIA_TORTURE_SECONDS=20 ESTORIA_TORTURE_WRITERS=8`` make it long.
"""

import asyncio
import json
import os
import random
import sys
from pathlib import Path

import pytest
from estoria_testservers import start_mongodb, start_mongodb_replica_set
from pymongo import AsyncMongoClient

from estoria.mongodb import MongoEventStore

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("lost_sockets")]

SECONDS = float(os.environ.get("ESTORIA_TORTURE_SECONDS", "3"))
WRITERS = int(os.environ.get("ESTORIA_TORTURE_WRITERS", "3"))
READERS = int(os.environ.get("ESTORIA_TORTURE_READERS", "2"))
PROGRAMS = Path(__file__).with_name("programs.py")
DATABASE = "torture"


async def test_a_server_that_is_killed_and_restarted(fresh_server, layout):
    """Its journal keeps all that was acknowledged."""
    server = fresh_server(start_mongodb)

    def disturb(_number):
        server.kill()
        server.start()

    await _torture(server.url, layout, disturb)


async def test_three_nodes_whose_primary_is_killed_and_steps_down(fresh_server, layout):
    """In turn; what a majority has, the next primary has."""
    nodes = fresh_server(start_mongodb_replica_set)

    def disturb(number):
        primary = nodes.primary()
        if number % 2:
            primary.step_down(2)
        else:
            primary.kill()
            nodes.primary()
            primary.start()
        nodes.primary()

    await _torture(nodes.url, layout, disturb)


async def _torture(url, layout, disturb):
    """Every acknowledged event is seen once and in order, by every reader; none twice, no holes."""
    async with AsyncMongoClient(url) as client:
        await MongoEventStore(client, DATABASE, layout=layout).setup()

    async def start(job, *arguments):
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *(str(PROGRAMS), job, url, DATABASE, layout.name, *map(str, arguments)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**26,
        )

    readers = [await start("tail", number) for number in range(READERS)]
    writers = [await start("write_at_random", SECONDS, number) for number in range(WRITERS)]
    over = asyncio.Event()
    disturbing = asyncio.ensure_future(_disturb(disturb, over))
    reports = []
    for writer in writers:
        output, _ = await writer.communicate()
        assert writer.returncode == 0
        reports.append(json.loads(output))
    over.set()
    assert await disturbing >= 1
    logs = []
    for reader in readers:
        output, _ = await reader.communicate(b"stop\n")
        assert reader.returncode == 0
        logs.append(json.loads(output))

    acknowledged = {tuple(event) for report in reports for event in report["acknowledged"]}
    removed = {stream for report in reports for stream in report["removed"]}
    assert len(acknowledged) > 50
    async with AsyncMongoClient(url) as client:
        store = MongoEventStore(client, DATABASE, layout=layout, patience=0)
        await store.head_position()
        events = await store.read_all().collect()
        for stream_id in {event.stream_id for event in events}:
            whole = await store.read_stream(stream_id).collect()
            shown = [event for event in events if event.stream_id == stream_id]
            same = whole == shown
            assert same
            versions = [event.stream_version for event in whole]
            assert versions == list(range(versions[0], versions[0] + len(versions)))
    stored = {(e.global_position, str(e.stream_id), e.stream_version, str(e.id)) for e in events}
    assert len({(stream, event_id) for _, stream, _, event_id in stored}) == len(stored)
    for log in logs:
        seen = [tuple(event) for event in log]
        positions = [event[0] for event in seen]
        assert positions == sorted(set(positions))
        # What a deletion or a truncation took away may be gone before a reader came by.
        assert not {event for event in acknowledged if event[1] not in removed} - set(seen)
        assert not stored - set(seen)


async def _disturb(disturb, over):
    """Again and again until it is over, with the server up at the end; how often."""
    rng = random.Random(5)
    number = 0
    while not over.is_set():
        await asyncio.sleep(rng.uniform(0.3, 1.0))
        await asyncio.to_thread(disturb, number)
        number += 1
    return number
