"""The reference checkpoint store."""

from datetime import UTC, datetime

from estoria.core._checkpoint_store import (
    Checkpoint,
    ProjectionID,
    check_position,
    check_projection_id,
)
from estoria.core._owner import Owner


class MemoryCheckpointStore:
    """Keeps checkpoints in the process's memory."""

    def __init__(self) -> None:
        self._owner = Owner("this MemoryCheckpointStore")
        self._checkpoints: dict[ProjectionID, Checkpoint] = {}

    async def load(self, projection_id: ProjectionID) -> Checkpoint | None:
        """See `CheckpointStore.load`."""
        check_projection_id(projection_id)
        self._owner.check()
        return self._checkpoints.get(projection_id)

    async def save(self, projection_id: ProjectionID, position: int) -> None:
        """See `CheckpointStore.save`."""
        check_projection_id(projection_id)
        self._owner.check()
        self._checkpoints[projection_id] = Checkpoint(check_position(position), datetime.now(UTC))

    async def delete(self, projection_id: ProjectionID) -> None:
        """See `CheckpointStore.delete`."""
        check_projection_id(projection_id)
        self._owner.check()
        self._checkpoints.pop(projection_id, None)
