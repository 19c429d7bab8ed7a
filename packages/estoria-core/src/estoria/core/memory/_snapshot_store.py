"""The reference snapshot store."""

from estoria.core._checks import check_bound, check_stream_id
from estoria.core._ids import TypeID
from estoria.core._owner import Owner
from estoria.core._snapshot_store import Snapshot, check_keep_newest


class MemorySnapshotStore:
    """Keeps snapshots in the process's memory."""

    def __init__(self, *, keep_newest: int | None = None) -> None:
        """`keep_newest` snapshots of each aggregate stay, or all when it is None."""
        self.keep_newest = check_keep_newest(keep_newest)
        self._owner = Owner("this MemorySnapshotStore")
        self._snapshots: dict[TypeID, dict[int, Snapshot]] = {}

    async def read_snapshot(
        self, aggregate_id: TypeID, *, max_version: int | None = None
    ) -> Snapshot | None:
        """See `SnapshotStore.read_snapshot`."""
        self._owner.check()
        check_stream_id(aggregate_id)
        if max_version is not None:
            check_bound("max_version", max_version)
        versions = self._snapshots.get(aggregate_id, {})
        readable = [v for v in versions if max_version is None or v <= max_version]
        return versions[max(readable)] if readable else None

    async def write_snapshot(self, snapshot: Snapshot) -> None:
        """See `SnapshotStore.write_snapshot`."""
        self._owner.check()
        versions = self._snapshots.setdefault(snapshot.aggregate_id, {})
        versions[snapshot.aggregate_version] = snapshot
        if self.keep_newest is not None:
            for version in sorted(versions)[: -self.keep_newest]:
                del versions[version]

    async def delete_snapshots(self, aggregate_id: TypeID) -> None:
        """See `SnapshotStore.delete_snapshots`."""
        self._owner.check()
        self._snapshots.pop(aggregate_id, None)
