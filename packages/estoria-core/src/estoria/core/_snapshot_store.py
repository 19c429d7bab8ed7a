"""What a snapshot store promises."""

from datetime import datetime
from typing import Protocol, runtime_checkable

import msgspec

from estoria.core._checks import check_stream_id
from estoria.core._ids import TypeID
from estoria.core._text import text_fault


class Snapshot(msgspec.Struct, frozen=True):
    """The state of an aggregate at one version, as bytes.

    Raises `ValueError` for a naive `timestamp`, for a version below 1, for data that isn't
    `bytes` and for a content type that holds a NUL or a lone surrogate.
    """

    aggregate_id: TypeID
    aggregate_version: int
    timestamp: datetime
    data: bytes
    data_content_type: str

    def __post_init__(self) -> None:
        if self.timestamp.utcoffset() is None:
            raise ValueError("timestamp is naive: give it a time zone")
        version = self.aggregate_version
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"aggregate_version is {version!r}, not a number from 1 on")
        check_stream_id(self.aggregate_id)
        if type(self.data) is not bytes:
            raise ValueError(f"data is a {type(self.data).__name__}, not bytes")
        if (fault := text_fault(self.data_content_type)) is not None:
            raise ValueError(f"data_content_type {fault}")


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
