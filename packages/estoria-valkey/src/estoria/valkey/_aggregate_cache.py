"""The aggregate cache on Valkey."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from estoria.core import CachedAggregate, StateCodec, TypeID
from estoria.core.backends import CacheEntries
from estoria.valkey import _schema
from estoria.valkey._connections import Client, Connections, open_client

_DEFAULT_TTL = timedelta(minutes=5)
_DEFAULT_TIMEOUT = 1.0


class ValkeyAggregateCache:
    """Keeps states of aggregates in a Valkey server, for all processes that reach it.

    One round trip for each call. The server itself compares versions, so a slow writer never
    puts an older state over a newer one. What another release of the application wrote, in
    another schema of the state, is a miss and gets replaced.
    """

    def __init__(
        self,
        client: Client,
        codec: StateCodec[Any],
        *,
        prefix: str = _schema.DEFAULT_PREFIX,
        ttl: timedelta | None = _DEFAULT_TTL,
        timeout: float | None = _DEFAULT_TIMEOUT,
    ) -> None:
        """Takes a client of `valkey.asyncio`, of whatever settings, and never closes it.

        The client may be of one server, of a sentinel's master or of a cluster. `codec` turns
        states into bytes and names their schema. `prefix` begins all keys. `ttl` is how long
        an entry stays after it was put, five minutes by default; None leaves it to the
        server's own eviction. `timeout` bounds each call, in seconds, one by default.

        Raises `ValueError` for a prefix that is empty and for times that aren't above 0.
        """
        self._connections = Connections(client, type(self).__name__, timeout)
        self._entries: CacheEntries[Any] = CacheEntries(codec)
        self._prefix = _schema.check_prefix(prefix)
        self._ttl = _milliseconds(ttl)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        codec: StateCodec[Any],
        *,
        prefix: str = _schema.DEFAULT_PREFIX,
        ttl: timedelta | None = _DEFAULT_TTL,
        timeout: float | None = _DEFAULT_TIMEOUT,
    ) -> AsyncIterator["ValkeyAggregateCache"]:
        """A cache on the server of this URL, with a client that it opens and closes.

        ``valkey://user:password@host:6379/0``, ``valkeys://`` for TLS, ``unix://``; the query
        may hold what valkey-py takes, such as ``ssl_ca_certs=FILE``. The server is asked for
        nothing yet: a cache that is down is no reason not to start.

        Raises `ValueError` for a URL that can't be read.
        """
        async with open_client(url) as client:
            yield cls(client, codec, prefix=prefix, ttl=ttl, timeout=timeout)

    async def get(self, aggregate_id: TypeID) -> CachedAggregate | None:
        """See `AggregateCache.get`."""
        key = _schema.state_key(self._prefix, aggregate_id)
        data = await self._connections.run(key, "GET", key)
        return None if data is None else self._entries.decode(data)

    async def put(self, aggregate_id: TypeID, entry: CachedAggregate) -> None:
        """See `AggregateCache.put`."""
        key = _schema.state_key(self._prefix, aggregate_id)
        data = self._entries.encode(entry)
        await self._connections.run_script(_schema.PUT, key, data, self._ttl)

    async def evict(self, aggregate_id: TypeID) -> None:
        """See `AggregateCache.evict`."""
        key = _schema.state_key(self._prefix, aggregate_id)
        await self._connections.run(key, "DEL", key)


def _milliseconds(ttl: timedelta | None) -> int:
    """The time in milliseconds, at least one; 0 stands for no end."""
    if ttl is None:
        return 0
    if not isinstance(ttl, timedelta) or ttl <= timedelta(0):
        raise ValueError(f"ttl is {ttl!r}, not a timedelta above 0")
    return max(ttl // timedelta(milliseconds=1), 1)
