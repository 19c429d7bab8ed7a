"""An aggregate store that takes snapshots, and when it does."""

import logging
from datetime import UTC, datetime
from typing import Protocol, TypeVar
from uuid import UUID

from estoria.core._aggregate import Aggregate
from estoria.core._aggregate_store import AggregateStore
from estoria.core._codecs import StateCodec
from estoria.core._errors import (
    AggregateNotFoundError,
    HistoryTruncatedError,
    StreamChangedError,
)
from estoria.core._ids import TypeID
from estoria.core._snapshot_store import Snapshot, SnapshotStore

S = TypeVar("S")

_log = logging.getLogger(__name__)


class SnapshotPolicy(Protocol):
    """Decides, after each save, whether a snapshot is due."""

    def is_due(self, before: int, after: int) -> bool:
        """Whether to take one, the aggregate having gone from version `before` to `after`."""
        ...


class EveryNEvents:
    """A snapshot whenever a save reaches or crosses a multiple of `n` versions."""

    def __init__(self, n: int) -> None:
        """Raises `ValueError` for an `n` below 1; 1 takes one at each save."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"n is {n!r}, not a number from 1 on")
        self.n = n

    def is_due(self, before: int, after: int) -> bool:
        """See `SnapshotPolicy.is_due`."""
        return before // self.n != after // self.n


class SnapshottingStore(AggregateStore[S]):
    """Loads aggregates from their newest snapshot and the events after it.

    A snapshot that is unreadable, of another content type or schema, or of another life of
    the stream is passed over, and the stream replayed. A snapshot that can't be written or
    read never fails a save or a load: it is logged.
    """

    def __init__(
        self,
        inner: AggregateStore[S],
        snapshot_store: SnapshotStore,
        policy: SnapshotPolicy,
        codec: StateCodec[S],
    ) -> None:
        self._inner = inner
        self._snapshots = snapshot_store
        self._policy = policy
        self._codec = codec

    def new(self, id: UUID | TypeID | None = None) -> Aggregate[S]:
        """See `AggregateStore.new`."""
        return self._inner.new(id)

    async def load(self, id: UUID | TypeID, *, to_version: int | None = None) -> Aggregate[S]:
        """See `AggregateStore.load`."""
        aggregate = self._inner.new(id)
        if await self._restore(aggregate, to_version):
            try:
                await self._inner.hydrate(aggregate, to_version=to_version)
            except (StreamChangedError, HistoryTruncatedError):
                await self._forget(aggregate.id)
            else:
                return aggregate
        return await self._inner.load(id, to_version=to_version)

    async def hydrate(self, aggregate: Aggregate[S], *, to_version: int | None = None) -> None:
        """See `AggregateStore.hydrate`; a snapshot stands in for events that are truncated."""
        try:
            await self._inner.hydrate(aggregate, to_version=to_version)
        except HistoryTruncatedError:
            restored = self._inner.new(aggregate.id)
            if not await self._restore(restored, to_version, above=aggregate.version):
                raise
            await self._inner.hydrate(restored, to_version=to_version)
            aggregate.restore(restored.version, restored.state)

    async def save(self, aggregate: Aggregate[S]) -> None:
        """See `AggregateStore.save`."""
        before = aggregate.version
        await self._inner.save(aggregate)
        if aggregate.version != before and self._policy.is_due(before, aggregate.version):
            await self._take(aggregate)

    async def delete(self, id: UUID | TypeID) -> None:
        """See `AggregateStore.delete`."""
        typed = self._inner.new(id).id
        try:
            await self._inner.delete(id)
        except AggregateNotFoundError:
            # What an earlier attempt left behind when it failed after the stream was gone.
            await self._snapshots.delete_snapshots(typed)
            raise
        await self._snapshots.delete_snapshots(typed)

    async def _restore(
        self, aggregate: Aggregate[S], to_version: int | None, *, above: int = 0
    ) -> bool:
        """Put the newest snapshot's state in, if there is one above that version to be had."""
        if isinstance(to_version, int) and to_version < 1:
            return False
        try:
            snapshot = await self._snapshots.read_snapshot(aggregate.id, max_version=to_version)
            if snapshot is None or snapshot.aggregate_version <= above:
                return False
            if snapshot.data_content_type != self._codec.content_type:
                _log.debug("passed over a snapshot of %s in another format", aggregate.id)
                return False
            state = self._codec.decode(snapshot.data)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the events are there
            _report("read", aggregate.id, error)
            return False
        aggregate.restore(snapshot.aggregate_version, state)
        return True

    async def _take(self, aggregate: Aggregate[S]) -> None:
        try:
            snapshot = Snapshot(
                aggregate.id,
                aggregate.version,
                datetime.now(UTC),
                self._codec.encode(aggregate.state),
                self._codec.content_type,
            )
            await self._snapshots.write_snapshot(snapshot)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the events are durable
            _report("write", aggregate.id, error)

    async def _forget(self, aggregate_id: TypeID) -> None:
        try:
            await self._snapshots.delete_snapshots(aggregate_id)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the events are there
            _report("delete", aggregate_id, error)


def _report(what: str, aggregate_id: TypeID, error: Exception) -> None:
    _log.warning(
        "failed to %s a snapshot of %s: %s",
        what,
        aggregate_id,
        type(error).__name__,
        extra={"operation": what, "aggregate_id": str(aggregate_id)},
    )
