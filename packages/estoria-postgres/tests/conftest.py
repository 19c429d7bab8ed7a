"""Databases, pools and stores for the tests."""

from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from estoria.postgres import PostgresEventStore


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def open_pool():
    """Opens a pool on a URL: `async with open_pool(url, max_size=2) as pool`."""

    @asynccontextmanager
    async def open_pool(url, *, min_size=1, max_size=10, timeout=10, name="test", **options):
        async with AsyncConnectionPool(
            url,
            min_size=min_size,
            max_size=max_size,
            timeout=timeout,
            name=name,
            open=False,
            **options,
        ) as pool:
            yield pool

    return open_pool


@pytest.fixture
async def pool(postgres_database, open_pool):
    async with open_pool(postgres_database, kwargs={"autocommit": True}) as pool:
        yield pool


@pytest.fixture
async def store(pool):
    store = PostgresEventStore(pool)
    await store.setup()
    return store


@pytest.fixture
def connect(postgres_database):
    """Opens connections of the test's own, to the test's database."""

    @asynccontextmanager
    async def connect(**options):
        async with await psycopg.AsyncConnection.connect(postgres_database, **options) as c:
            yield c

    return connect
