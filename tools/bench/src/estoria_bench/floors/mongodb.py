"""MongoDB by hand, on the documents of `estoria.mongodb`, through pymongo's asyncio client.

`RawMongo` inserts them, each in one round trip, with a number from the process's own counter: no
uniqueness of versions is checked but by the index, and nobody else may write. A ceiling.

`CountersInATransaction` is the tempting way to one global order: counters of the stream and of
the log, incremented inside the transaction that inserts the event. It is right, and its
transactions conflict at the one counter of the log.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import UUID

from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient, ReturnDocument, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.read_concern import ReadConcern

Document = dict[str, Any]
Client = AsyncMongoClient[Document]

_OPTIONS: CodecOptions[Document] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)
_MAJORITY = WriteConcern("majority", j=True)
_READ = ReadConcern("majority")


class RawMongo:
    """Appends to and fetches from a collection that our store has set up."""

    def __init__(self, client: Client, database: str) -> None:
        self._collection: AsyncCollection[Document] = client.get_database(
            database, codec_options=_OPTIONS, write_concern=_MAJORITY, read_concern=_READ
        ).events
        self._numbers = count(1)

    def start(self, process: int) -> None:
        """Take numbers that no other process takes."""
        self._numbers = count(process << 40 | 1)

    async def append(
        self, type: str, uuid: UUID, version: int, timestamp: int, events: Sequence[Document]
    ) -> None:
        """Append events at this version, their ids under ``id``."""
        await self._collection.insert_one(
            append_document(next(self._numbers), type, uuid, version, timestamp, events)
        )

    async def stream(self, type: str, uuid: UUID) -> list[Document]:
        """The documents of a stream, in order."""
        wanted = {"type": type, "uuid": uuid}
        return await self._collection.find(wanted).sort("last", 1).to_list()

    async def everything(self) -> list[Document]:
        """All documents, in the order of their numbers."""
        return await self._collection.find({}).sort("_id", 1).to_list()


class CountersInATransaction:
    """Appends with counters, in a database of its own."""

    def __init__(self, client: Client, database: str) -> None:
        self._client = client
        found = client.get_database(database, codec_options=_OPTIONS)
        self._events, self._counters = found.events, found.counters

    async def setup(self) -> None:
        """Make the collections, and the index that keeps versions unique."""
        await self._events.create_index({"type": 1, "uuid": 1, "version": 1}, unique=True)
        await self._counters.insert_one({"_id": "all", "value": 0})

    async def append(self, type: str, uuid: UUID, timestamp: int, event: Document) -> None:
        """Append one event, whatever the version."""

        async def append(session: AsyncClientSession) -> None:
            version = await self._next({"type": type, "uuid": uuid}, session)
            position = await self._next("all", session)
            await self._events.insert_one(
                {
                    "_id": position,
                    "type": type,
                    "uuid": uuid,
                    "version": version,
                    "timestamp": timestamp,
                    "event": event,
                },
                session=session,
            )

        async with self._client.start_session() as session:
            await session.with_transaction(append, read_concern=_READ, write_concern=_MAJORITY)

    async def _next(self, counter: object, session: AsyncClientSession) -> int:
        found = await self._counters.find_one_and_update(
            {"_id": counter},
            {"$inc": {"value": 1}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        return int(found["value"]) if found else 0


def append_document(
    number: int, type: str, uuid: UUID, version: int, timestamp: int, events: Sequence[Document]
) -> Document:
    """What `estoria.mongodb` inserts for an append after this version."""
    first, ids = version + 1, [event.pop("id") for event in events]
    document = {
        "_id": number,
        "type": type,
        "uuid": uuid,
        "first": first,
        "last": version + len(events),
        "origin": 0,
        "timestamp": timestamp,
        "claims": [*range(first, first + len(events)), *ids],
        "events": events,
    }
    if not version:
        document["begins"] = True
    return document
