"""Many processes at random, with connections killed all the while.

Short by default. ``ESTORIA_TORTURE_SECONDS=20 ESTORIA_TORTURE_WRITERS=8`` make it long.
"""

import asyncio
import json
import os
import random
import sys
from pathlib import Path

import psycopg
import pytest

pytestmark = pytest.mark.anyio

SECONDS = float(os.environ.get("ESTORIA_TORTURE_SECONDS", "3"))
WRITERS = int(os.environ.get("ESTORIA_TORTURE_WRITERS", "3"))
READERS = int(os.environ.get("ESTORIA_TORTURE_READERS", "2"))
PROGRAMS = Path(__file__).with_name("programs.py")
KILL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"""


async def test_every_acknowledged_event_is_seen_once_and_in_order(store, postgres_database):
    """By every reader; versions have no gaps; nothing that wasn't acknowledged is there twice."""

    async def start(job, *arguments):
        return await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAMS),
            job,
            postgres_database,
            *map(str, arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**26,
        )

    readers = [await start("tail", number) for number in range(READERS)]
    writers = [await start("write_at_random", SECONDS, number) for number in range(WRITERS)]
    killing = asyncio.ensure_future(_kill_at_random(postgres_database))
    reports = []
    for writer in writers:
        output, _ = await writer.communicate()
        assert writer.returncode == 0
        reports.append(json.loads(output))
    killing.cancel()
    await asyncio.wait([killing])
    logs = []
    for reader in readers:
        output, _ = await reader.communicate(b"stop\n")
        assert reader.returncode == 0
        logs.append(json.loads(output))

    acknowledged = {tuple(event) for report in reports for event in report["acknowledged"]}
    removed = {stream for report in reports for stream in report["removed"]}
    assert len(acknowledged) > 50
    stored = [
        (e.global_position, str(e.stream_id), e.stream_version, str(e.id))
        for e in await store.read_all().collect()
    ]
    ids = [(stream, event_id) for _, stream, _, event_id in stored]
    assert len(set(ids)) == len(ids)
    for log in logs:
        seen = [tuple(event) for event in log]
        positions = [event[0] for event in seen]
        assert positions == sorted(set(positions))
        # What a deletion or a truncation took away may be gone before a reader came by.
        assert {e for e in acknowledged if e[1] not in removed} <= set(seen)
        assert set(stored) <= set(seen)
    for stream in {event[1] for event in stored}:
        versions = [event[2] for event in stored if event[1] == stream]
        assert versions == list(range(versions[0], versions[0] + len(versions)))


async def _kill_at_random(url):
    rng = random.Random(5)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
        while True:
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            await admin.execute(KILL)
