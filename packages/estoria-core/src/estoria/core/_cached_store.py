"""An aggregate store that remembers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar
from uuid import UUID

from estoria.core._aggregate import Aggregate
from estoria.core._aggregate_cache import AggregateCache, CachedAggregate
from estoria.core._aggregate_store import AggregateStore
from estoria.core._errors import (
    AggregateNotFoundError,
    EventsAppendedError,
    HistoryTruncatedError,
    StreamChangedError,
    StreamVersionMismatchError,
)
from estoria.core._ids import TypeID

S = TypeVar("S")
T = TypeVar("T")
P = ParamSpec("P")

_log = logging.getLogger(__name__)

_MAX_DISTRUSTED = 10_000


class CachedStore(AggregateStore[S]):
    """Loads aggregates from a cache, and puts them there when they are loaded or saved.

    A hit is brought up to date by reading the events after its version, so that other
    processes' writes are seen; with `trust_cache` it is taken as it is, and what another
    process wrote shows as a conflict, which evicts the entry. Either way a hit that
    belongs to another life of the stream is dropped and the stream replayed.

    A cache that is down, slow or broken costs speed, never an error. Loads with
    `to_version` bypass the cache both ways. Only what is durable is ever put there.
    """

    def __init__(
        self,
        inner: AggregateStore[S],
        cache: AggregateCache,
        *,
        trust_cache: bool = False,
        timeout: float | None = 0.25,
    ) -> None:
        """`timeout` is in seconds, for each call of the cache; None waits for ever."""
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout!r}, not a number of seconds above 0")
        self._inner = inner
        self._cache = cache
        self._trust_cache = trust_cache
        self._timeout = timeout
        self._distrusted: set[TypeID] = set()

    def new(self, id: UUID | TypeID | None = None) -> Aggregate[S]:
        """See `AggregateStore.new`."""
        return self._inner.new(id)

    async def load(self, id: UUID | TypeID, *, to_version: int | None = None) -> Aggregate[S]:
        """See `AggregateStore.load`."""
        if to_version is not None:
            return await self._inner.load(id, to_version=to_version)
        aggregate = self._inner.new(id)
        entry = await self._ask("get", aggregate.id, self._cache.get, aggregate.id)
        if entry is not None:
            aggregate.restore(entry.version, entry.state)
            if self._trust_cache and aggregate.id not in self._distrusted:
                return aggregate
            try:
                await self._inner.hydrate(aggregate)
            except AggregateNotFoundError:
                await self._evict(aggregate.id)
                raise
            except (StreamChangedError, HistoryTruncatedError):
                await self._evict(aggregate.id)
                aggregate = await self._inner.load(id)
        else:
            aggregate = await self._inner.load(id)
        self._distrusted.discard(aggregate.id)
        if entry is None or entry.version != aggregate.version:
            await self._put(aggregate)
        return aggregate

    async def hydrate(self, aggregate: Aggregate[S], *, to_version: int | None = None) -> None:
        """See `AggregateStore.hydrate`; goes straight to the inner store."""
        await self._inner.hydrate(aggregate, to_version=to_version)

    async def save(self, aggregate: Aggregate[S]) -> None:
        """See `AggregateStore.save`."""
        version = aggregate.version
        try:
            await self._inner.save(aggregate)
        except (StreamVersionMismatchError, EventsAppendedError):
            await self._evict(aggregate.id)
            raise
        if aggregate.version != version:
            await self._put(aggregate)

    async def delete(self, id: UUID | TypeID) -> None:
        """See `AggregateStore.delete`."""
        typed = self._inner.new(id).id
        try:
            await self._inner.delete(id)
        finally:
            await self._evict(typed)

    async def _put(self, aggregate: Aggregate[S]) -> None:
        entry = CachedAggregate(aggregate.version, aggregate.state)
        await self._ask("put", aggregate.id, self._cache.put, aggregate.id, entry)

    async def _evict(self, aggregate_id: TypeID) -> None:
        """Evict the entry, and distrust it until it is known to be gone or up to date."""
        if len(self._distrusted) >= _MAX_DISTRUSTED:
            self._distrusted.clear()
        self._distrusted.add(aggregate_id)
        await self._ask("evict", aggregate_id, self._cache.evict, aggregate_id)

    async def _ask(
        self,
        what: str,
        aggregate_id: TypeID,
        call: Callable[P, Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        try:
            async with asyncio.timeout(self._timeout):
                return await call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a cache raises, the store is there
            _log.warning(
                "aggregate cache failed to %s %s: %s",
                what,
                aggregate_id,
                type(error).__name__,
                extra={"operation": what, "aggregate_id": str(aggregate_id)},
            )
            return None
