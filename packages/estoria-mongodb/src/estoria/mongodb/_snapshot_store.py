"""The snapshot store on MongoDB."""

from collections.abc import Mapping
from typing import Any

from estoria.core import Snapshot, TypeID
from estoria.core.backends import MAX_VERSION, check_bound, check_keep_newest, check_stream_id
from estoria.mongodb import _schema
from estoria.mongodb._database import TIMEOUT, Client, Database
from estoria.mongodb._documents import EPOCH, MICROSECOND
from estoria.mongodb._errors import OutcomeUnknownError


class MongoSnapshotStore:
    """Keeps snapshots in a collection of a MongoDB database; any server will do."""

    def __init__(
        self,
        client: Client,
        database: str = "estoria",
        *,
        keep_newest: int | None = 1,
        timeout: float = TIMEOUT,
    ) -> None:
        """Takes a client, and never closes it.

        `keep_newest` snapshots of each aggregate stay, one by default, or all when it is None.
        A snapshot, as a document, is bounded by MongoDB's 16 MiB.
        """
        self.keep_newest = check_keep_newest(keep_newest)
        self._database = Database(client, database, timeout=timeout, component="snapshots")

    async def setup(self) -> None:
        """Create the indexes; safe to repeat and to run in several processes."""
        indexes: Mapping[str, Any] = {_schema.SNAPSHOTS: _schema.SNAPSHOT_INDEXES}
        await self._database.set_up(lambda: self._database.make(dict(indexes)))

    async def read_snapshot(
        self, aggregate_id: TypeID, *, max_version: int | None = None
    ) -> Snapshot | None:
        """See `SnapshotStore.read_snapshot`."""
        check_stream_id(aggregate_id)
        bound = MAX_VERSION if max_version is None else check_bound("max_version", max_version)
        wanted = {**_schema.key(aggregate_id), "version": {"$lte": bound}}
        found = await self._database.run(
            lambda: self._database.find(_schema.SNAPSHOTS, wanted, sort=_schema.BY_VERSION, limit=1)
        )
        if not found:
            return None
        document = found[0]
        moment = EPOCH + document["timestamp"] * MICROSECOND
        return Snapshot(
            aggregate_id, document["version"], moment, document["data"], document["content_type"]
        )

    async def write_snapshot(self, snapshot: Snapshot) -> None:
        """See `SnapshotStore.write_snapshot`."""
        place = {**_schema.key(snapshot.aggregate_id), "version": snapshot.aggregate_version}
        facts = {
            "timestamp": (snapshot.timestamp - EPOCH) // MICROSECOND,
            "content_type": snapshot.data_content_type,
            "data": snapshot.data,
        }

        async def write() -> None:
            update = {"q": place, "u": {"$set": facts}, "upsert": True}
            answer = await self._database.write({"update": _schema.SNAPSHOTS, "updates": [update]})
            if answer.get("writeErrors"):
                # Two upserts of one version at once: the second finds the first's now.
                raise OutcomeUnknownError("another upsert came first")
            if self.keep_newest is not None and answer.get("upserted"):
                await self._prune(snapshot.aggregate_id, self.keep_newest)

        await self._database.run(write)

    async def delete_snapshots(self, aggregate_id: TypeID) -> None:
        """See `SnapshotStore.delete_snapshots`."""
        check_stream_id(aggregate_id)
        await self._database.run(lambda: self._delete(_schema.key(aggregate_id)))

    async def _prune(self, aggregate_id: TypeID, keep: int) -> None:
        key = _schema.key(aggregate_id)
        found = await self._database.find(
            _schema.SNAPSHOTS,
            key,
            sort=_schema.BY_VERSION,
            skip=keep,
            limit=1,
            projection={"version": 1},
        )
        if found:
            await self._delete({**key, "version": {"$lte": found[0]["version"]}})

    async def _delete(self, wanted: dict[str, Any]) -> None:
        await self._database.write(
            {"delete": _schema.SNAPSHOTS, "deletes": [{"q": wanted, "limit": 0}]}
        )
