"""What a snapshot store promises."""

from datetime import datetime
from typing import Protocol, runtime_checkable

import msgspec

from estoria.core._ids import TypeID


class Snapshot(msgspec.Struct, frozen=True):
    """The state of an aggregate at one version, as bytes.

    Raises `ValueError` for a naive `timestamp` and for a version below 1.
    """

    aggregate_id: TypeID
    aggregate_version: int
    timestamp: datetime
    data: bytes
    data_content_type: str

    def __post_init__(self) -> None:
        if self.timestamp.utcoffset() is None:
            raise ValueError("timestamp is naive: give it a time zone")
        if self.aggregate_version < 1:
            raise ValueError(f"aggregate_version is {self.aggregate_version}, not 1 or more")


@runtime_checkable
class SnapshotStore(Protocol):
    """Keeps snapshots of aggregates, under the whole typed id.

    How many are kept is the store's `keep_newest`: that many with the highest versions, or
    all when it is None.

    Held to it by `SnapshotStoreAcceptance`.
    """

    async def read_snapshot(
        self, aggregate_id: TypeID, *, max_version: int | None = None
    ) -> Snapshot | None:
        """The snapshot with the highest version, not above `max_version`, or None."""
        ...

    async def write_snapshot(self, snapshot: Snapshot) -> None:
        """Keep the snapshot, instead of one of the same version if there is one.

        The timestamp comes back as the same moment, to the microsecond.
        """
        ...

    async def delete_snapshots(self, aggregate_id: TypeID) -> None:
        """Forget all snapshots of this aggregate; nothing happens when there are none."""
        ...


def check_keep_newest(keep_newest: int | None) -> int | None:
    """Raise `ValueError` unless it is None or a number from 1 on."""
    if keep_newest is not None and (
        isinstance(keep_newest, bool) or not isinstance(keep_newest, int) or keep_newest < 1
    ):
        raise ValueError(f"keep_newest is {keep_newest!r}, not None or a number from 1 on")
    return keep_newest
