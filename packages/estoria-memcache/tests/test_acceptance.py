"""The three caches, held to the contract."""

from datetime import timedelta

import pytest

from estoria.core import JSONStateCodec
from estoria.core.testing import AggregateCacheAcceptance, Cart
from estoria.memcache import LRUAggregateCache, SizedAggregateCache, TTLAggregateCache


class TestLRUAggregateCache(AggregateCacheAcceptance):
    @pytest.fixture(params=[None, timedelta(minutes=5)])
    async def cache(self, request):
        return LRUAggregateCache(10_000, request.param, codec=JSONStateCodec(Cart))


class TestSizedAggregateCache(AggregateCacheAcceptance):
    @pytest.fixture(params=[None, timedelta(minutes=5)])
    async def cache(self, request):
        return SizedAggregateCache(2**24, request.param, codec=JSONStateCodec(Cart))


class TestTTLAggregateCache(AggregateCacheAcceptance):
    @pytest.fixture(params=[None, 10_000])
    async def cache(self, request):
        return TTLAggregateCache(timedelta(minutes=5), request.param, codec=JSONStateCodec(Cart))
