"""Clients, caches and stores for the tests."""

import pytest
from estoria_testservers import fresh_name
from redis.asyncio import Redis


@pytest.fixture
def anyio_backend():
    """These tests run on asyncio, as the library does."""
    return "asyncio"


@pytest.fixture
def prefix():
    """Keys of the test's own."""
    return fresh_name("test")


@pytest.fixture
async def client(redis_server):
    """A client as somebody has it who reads texts elsewhere."""
    async with Redis.from_url(redis_server.url, decode_responses=True) as client:
        yield client
