"""The snapshot store on Redis."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from estoria.core import SchemaError, Snapshot, TypeID
from estoria.core.backends import check_bound, check_keep_newest
from estoria.redis import _schema
from estoria.redis._connections import Client, Connections, open_client

_DEFAULT_TIMEOUT = 5.0


class RedisSnapshotStore:
    """Keeps snapshots in a sorted set for each aggregate; one round trip for each call.

    A snapshot is written, and those that it replaces or that are too many are removed, in one
    atomic step. As durable as the server is set to be, and gone when it evicts the key: the
    events are still there.
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str = _schema.DEFAULT_PREFIX,
        keep_newest: int | None = 1,
        timeout: float | None = _DEFAULT_TIMEOUT,
    ) -> None:
        """Takes a client of `redis.asyncio`, of whatever settings, and never closes it.

        `keep_newest` snapshots of each aggregate stay, one by default, or all when it is None.
        `prefix` begins all keys; `timeout` bounds each call, in seconds, five by default.
        """
        self.keep_newest = check_keep_newest(keep_newest)
        self._connections = Connections(client, type(self).__name__, timeout)
        self._prefix = _schema.check_prefix(prefix)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        prefix: str = _schema.DEFAULT_PREFIX,
        keep_newest: int | None = 1,
        timeout: float | None = _DEFAULT_TIMEOUT,
    ) -> AsyncIterator["RedisSnapshotStore"]:
        """A store on the server of this URL, with a client that it opens and closes.

        URLs are those of `RedisAggregateCache.connect`.
        """
        async with open_client(url) as client:
            yield cls(client, prefix=prefix, keep_newest=keep_newest, timeout=timeout)

    async def read_snapshot(
        self, aggregate_id: TypeID, *, max_version: int | None = None
    ) -> Snapshot | None:
        """See `SnapshotStore.read_snapshot`."""
        key = _schema.snapshots_key(self._prefix, aggregate_id)
        if max_version is not None:
            max_version = check_bound("max_version", max_version)
        bound = _schema.upper_bound(max_version)
        command = "ZREVRANGEBYLEX", key, bound, b"-", "LIMIT", 0, 1
        members = await self._connections.run(key, *command)
        if not members:
            return None
        try:
            return _schema.read_member(aggregate_id, members[0])
        except ValueError as error:
            raise SchemaError(
                f"{self._connections.where} holds something else under {key}: choose another prefix"
            ) from error

    async def write_snapshot(self, snapshot: Snapshot) -> None:
        """See `SnapshotStore.write_snapshot`."""
        key = _schema.snapshots_key(self._prefix, snapshot.aggregate_id)
        member = _schema.snapshot_member(snapshot)
        await self._connections.run_script(
            _schema.WRITE_SNAPSHOT, key, member, self.keep_newest or 0
        )

    async def delete_snapshots(self, aggregate_id: TypeID) -> None:
        """See `SnapshotStore.delete_snapshots`."""
        key = _schema.snapshots_key(self._prefix, aggregate_id)
        await self._connections.run(key, "DEL", key)
