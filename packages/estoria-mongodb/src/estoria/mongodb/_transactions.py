"""Appends that are more than one document, in a transaction: claims on numbers, hooks, parts."""

from collections.abc import Awaitable, Callable, Sequence

from pymongo.errors import OperationFailure, PyMongoError

from estoria.mongodb import _schema
from estoria.mongodb._database import MAJORITY, Database, Session
from estoria.mongodb._documents import Document
from estoria.mongodb._errors import DUPLICATE_KEY, OutcomeUnknownError
from estoria.mongodb._layout import Layout
from estoria.mongodb._numbers import Numbers

_FILL_MILLISECONDS = 50

Work = Callable[[Session], Awaitable[None]]


class RefusedError(Exception):
    """A version or an event id is taken."""


class FailedHookError(Exception):
    """Carries what a hook raised past those who look for errors of their own."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Transactions:
    """Inserts the documents of one append in a transaction."""

    def __init__(self, database: Database, layout: Layout, numbers: Numbers) -> None:
        self._database, self._layout, self._numbers = database, layout, numbers
        self._collections: set[str] = set()

    async def insert(self, documents: Sequence[Document], above: int, work: Work) -> bool:
        """Insert under numbers in a row and do some work; False if what they claim is taken.

        Sets each document's ``_id``. What `work` raises rolls everything back.
        """
        await self.make_collection(documents[0]["type"])
        await self._number(documents, above)
        try:
            async with self._database.transaction() as session:
                await self.put(documents, session)
                await work(session)
        except RefusedError:
            await self._fill(documents)
            return False
        except (FailedHookError, OutcomeUnknownError):
            await self._fill(documents)
            raise
        except OperationFailure as error:
            await self._fill(documents)
            if error.code != DUPLICATE_KEY:
                raise
            # A number was taken: a reader's fence was faster.
            await self._numbers.catch_up()
            raise OutcomeUnknownError("the number was taken") from error
        return True

    async def insert_inside(
        self, documents: Sequence[Document], above: int, session: Session
    ) -> None:
        """The same in somebody else's transaction; raises what the driver raises."""
        await self.make_collection(documents[0]["type"])
        await self._number(documents, above)
        await self.put(documents, session)

    async def put(self, documents: Sequence[Document], session: Session) -> None:
        """Insert documents that have their numbers."""
        collection = self._layout.select(documents[0]["type"])
        if self._layout.only is None:
            claims = [
                {"_id": document["_id"], "collection": collection, "type": document["type"]}
                for document in documents
            ]
            await self._put(_schema.POSITIONS, claims, session)
        for document in documents:
            # One by one: each may be as large as a message may be.
            await self._put(collection, [document], session)

    async def make_collection(self, stream_type: str) -> None:
        """See that the collection of this type is there, with its indexes."""
        collection = self._layout.select(stream_type)
        if self._layout.only is not None or collection in self._collections:
            return
        indexes = list(_schema.EVENT_INDEXES)
        create = {"createIndexes": collection, "indexes": indexes, "writeConcern": MAJORITY}
        await self._database.unsafe(create)
        known = {"q": {"_id": collection}, "u": {"$setOnInsert": {}}, "upsert": True}
        await self._database.write({"update": _schema.COLLECTIONS, "updates": [known]})
        self._collections.add(collection)

    async def _number(self, documents: Sequence[Document], above: int) -> None:
        first = await self._numbers.take(len(documents), above)
        for number, document in enumerate(documents, first):
            document["_id"] = number

    async def _put(self, collection: str, documents: list[Document], session: Session) -> None:
        command = {"insert": collection, "documents": documents}
        answer = await self._database.write(command, session)
        for refusal in answer.get("writeErrors", ()):
            if "_id" in refusal["keyPattern"]:
                raise OperationFailure("DuplicateKey", DUPLICATE_KEY)
            raise RefusedError

    async def _fill(self, documents: Sequence[Document]) -> None:
        """Fill the numbers that were taken in vain, so that no reader waits at them."""
        stubs = [{"_id": document["_id"]} for document in documents]
        insert = {"insert": self._layout.only or _schema.POSITIONS, "documents": stubs}
        try:
            # Where the transaction is open after all, in the server, it would wait for its end.
            await self._database.write(
                {**insert, "ordered": False, "maxTimeMS": _FILL_MILLISECONDS}
            )
        except PyMongoError:
            # Readers do the same after a while.
            return
