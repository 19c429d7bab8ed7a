"""The cache and the snapshot store on Redis, held to the contract."""

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import Sentinel

from estoria.core import JSONStateCodec
from estoria.core.testing import AggregateCacheAcceptance, Cart, SnapshotStoreAcceptance
from estoria.redis import RedisAggregateCache, RedisSnapshotStore


class OnEachKindOfServer:
    """A server alone, a cluster, and the master that a sentinel names."""

    @pytest.fixture(params=["server", "cluster", "sentinel"])
    async def client(self, request):
        server = request.getfixturevalue(f"redis_{request.param}")
        if request.param == "cluster":
            client = RedisCluster.from_url(server.url)
        elif request.param == "sentinel":
            watchers = Sentinel([(server.host, server.port)])
            client = watchers.master_for(server.service)
        else:
            client = Redis.from_url(server.url)
        yield client
        await client.aclose()
        if request.param == "sentinel":
            for watcher in watchers.sentinels:
                await watcher.aclose()


class TestRedisAggregateCache(OnEachKindOfServer, AggregateCacheAcceptance):
    @pytest.fixture
    async def cache(self, client, prefix):
        return RedisAggregateCache(client, JSONStateCodec(Cart), prefix=prefix, timeout=30)


class TestRedisSnapshotStore(OnEachKindOfServer, SnapshotStoreAcceptance):
    @pytest.fixture
    async def store(self, client, prefix):
        return RedisSnapshotStore(client, prefix=prefix, keep_newest=None, timeout=30)

    @pytest.fixture
    async def store_of_newest_two(self, client, prefix):
        return RedisSnapshotStore(client, prefix=prefix, keep_newest=2, timeout=30)
