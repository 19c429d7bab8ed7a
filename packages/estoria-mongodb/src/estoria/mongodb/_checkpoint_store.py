"""The checkpoint store on MongoDB."""

from estoria.core import Checkpoint, ProjectionID
from estoria.core.backends import check_position, check_projection_id
from estoria.mongodb import _schema
from estoria.mongodb._database import TIMEOUT, Client, Database
from estoria.mongodb._documents import EPOCH, MICROSECOND, Document, microseconds_now
from estoria.mongodb._errors import OutcomeUnknownError


class MongoCheckpointStore:
    """Keeps checkpoints in a collection of a MongoDB database; one round trip for each call."""

    def __init__(
        self, client: Client, database: str = "estoria", *, timeout: float = TIMEOUT
    ) -> None:
        """Takes a client, and never closes it."""
        self._database = Database(client, database, timeout=timeout, component="checkpoints")

    async def setup(self) -> None:
        """Note the schema; safe to repeat and to run in several processes."""
        await self._database.set_up(lambda: self._database.make({}))

    async def load(self, projection_id: ProjectionID) -> Checkpoint | None:
        """See `CheckpointStore.load`."""
        key = _key(projection_id)
        found = await self._database.run(
            lambda: self._database.find(_schema.CHECKPOINTS, key, limit=1)
        )
        if not found:
            return None
        return Checkpoint(found[0]["position"], EPOCH + found[0]["updated_at"] * MICROSECOND)

    async def save(self, projection_id: ProjectionID, position: int) -> None:
        """See `CheckpointStore.save`."""
        facts = {"position": check_position(position), "updated_at": microseconds_now()}
        update = {"q": _key(projection_id), "u": {"$set": facts}, "upsert": True}

        async def save() -> None:
            answer = await self._database.write(
                {"update": _schema.CHECKPOINTS, "updates": [update]}
            )
            if answer.get("writeErrors"):
                raise OutcomeUnknownError("another upsert came first")

        await self._database.run(save)

    async def delete(self, projection_id: ProjectionID) -> None:
        """See `CheckpointStore.delete`."""
        wanted = {"q": _key(projection_id), "limit": 1}
        await self._database.run(
            lambda: self._database.write({"delete": _schema.CHECKPOINTS, "deletes": [wanted]})
        )


def _key(projection_id: ProjectionID) -> Document:
    check_projection_id(projection_id)
    return {"_id": {"name": projection_id.name, "version": projection_id.version}}
