"""Caches and snapshots over event stores, end to end, in two processes at once."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from estoria.core import TypeID, connect

PROGRAM = Path(__file__).with_name("programs.py")
SECONDS = os.environ.get("ESTORIA_CACHES_SECONDS", "1")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/events.db"
    else:
        with request.getfixturevalue("newest_postgres_server").database() as url:
            yield url


@pytest.fixture
def cache_url(request):
    kind = request.param
    if kind not in ("redis", "valkey"):
        return kind
    server = request.getfixturevalue(f"{kind}_server")
    with server.client() as client:
        client.flushall()
    return server.url


KINDS = ["lru", "lru-shared", "sized", "ttl", "redis", "valkey"]


@pytest.mark.parametrize("cache_url", KINDS, indirect=True)
async def test_no_command_acts_on_a_stale_state_unnoticed(store_url, cache_url):
    """Two processes, one store: conflicts are retried, and the result is that of a replay."""
    await run_two(store_url, cache_url, "check")


@pytest.mark.parametrize("cache_url", ["lru", "sized", "redis", "valkey"], indirect=True)
async def test_trusting_the_cache_costs_nothing_but_conflicts(store_url, cache_url):
    """A cache that isn't checked is stale at times; the event store tells, every time."""
    await run_two(store_url, cache_url, "trust")


async def run_two(store_url, cache_url, trust):
    async with connect(store_url) as store:
        await store.setup()
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            *(store_url, cache_url, trust, SECONDS, str(seed)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for seed in (1, 2)
    ]
    reports = []
    for process in processes:
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        assert b"aggregate cache failed" not in errors
        reports.append(json.loads(output))
    assert all(report["commands"] > 10 for report in reports), reports
    assert sum(report["conflicts"] for report in reports) > 0

    async with connect(store_url) as store:
        seen: dict[TypeID, int] = {}
        async for event in store.read_all():
            entries = seen.get(event.stream_id, 0)
            # Every command had seen all that stood before it.
            assert json.loads(event.data)["seen"] == entries == event.stream_version - 1
            seen[event.stream_id] = entries + 1
    assert sum(seen.values()) == sum(report["commands"] for report in reports)
