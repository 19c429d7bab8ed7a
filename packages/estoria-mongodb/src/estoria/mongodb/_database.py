"""A store's way to its database: commands, their concerns, retries and errors.

Everything goes out as a plain command with its concerns written in, so that nothing depends on
how the caller's client is set. Writes are acknowledged by a majority and journaled; reads go to the
primary with majority read concern and, in a replica set, never behind what this store was told
before: also a new primary, which may not know yet how much of its log a majority has, waits
until it does.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.timestamp import Timestamp
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from estoria.core import EstoriaError, SchemaMissingError, SchemaVersionError, StoreUnavailableError
from estoria.core.backends import Owner
from estoria.mongodb import _schema
from estoria.mongodb._errors import (
    DUPLICATE_KEY,
    OutcomeUnknownError,
    checked,
    is_passing,
    is_unknown_commit,
    named_error,
    refusal_error,
)

T = TypeVar("T")

Client = AsyncMongoClient[dict[str, Any]]
Session = AsyncClientSession
Document = dict[str, Any]

TIMEOUT = 30.0
"""Seconds after which a call gives up, unless the store says otherwise."""

MAJORITY: Document = {"w": "majority", "j": True}

_OPTIONS: CodecOptions[Document] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)
_BATCH = {"batchSize": 1_000_000}
_EXISTS = 48
_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.25
_PATIENCE = 5.0
"""Seconds that a cancelled call waits at most for a command of its session to end."""


class Database:
    """One database through a client that somebody else closes."""

    def __init__(self, client: Client, name: str, *, timeout: float, component: str) -> None:
        if not isinstance(client, AsyncMongoClient):
            raise TypeError(f"client is a {type(client).__name__}, not a pymongo.AsyncMongoClient")
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout!r}, not a number of seconds above 0")
        self.client, self.name, self.timeout = client, name, timeout
        self.where = f"MongoDB database {name!r}"
        self._database = client.get_database(
            name, codec_options=_OPTIONS, read_preference=ReadPreference.PRIMARY
        )
        self._component = component
        self._owner = Owner(f"the store in {self.where}")
        self._seen: Timestamp | None = None
        self._sent: set[asyncio.Task[Document]] = set()
        self._found: Document | None = None

    async def read(self, command: Document, session: Session | None = None) -> Document:
        """The answer to a reading command; within `session` in its own transaction's view."""
        if session is None:
            concern: Document = {"level": "majority"}
            if self._seen is not None:
                concern["afterClusterTime"] = self._seen
            command = {**command, "readConcern": concern}
        return await self._command(command, session)

    async def write(self, command: Document, session: Session | None = None) -> Document:
        """The answer to a writing command; duplicate keys are in its ``writeErrors``."""
        answer = await self.write_each(command, session)
        for refusal in answer.get("writeErrors", ()):
            if refusal["code"] != DUPLICATE_KEY:
                raise refusal_error(refusal)
        return answer

    async def write_each(self, command: Document, session: Session | None = None) -> Document:
        """The same, with whatever was refused in its ``writeErrors``."""
        if session is None:
            command = {**command, "writeConcern": MAJORITY}
        return checked(await self._command(command, session))

    async def unsafe(self, command: Document) -> Document:
        """The answer to a command whose effect may be taken back by a failover."""
        return await self._database.command(command, codec_options=_OPTIONS)

    async def aggregate(
        self, collection: str, pipeline: list[Document], session: Session | None = None
    ) -> tuple[list[Document], int]:
        """What a pipeline gives in its first answer, and the cursor, 0 when that was all."""
        command = {"aggregate": collection, "pipeline": pipeline, "cursor": _BATCH}
        cursor = (await self.read(command, session))["cursor"]
        return cursor["firstBatch"], cursor["id"]

    async def drop_cursor(self, collection: str, cursor: int) -> None:
        """Give an open cursor up."""
        await self.unsafe({"killCursors": collection, "cursors": [cursor]})

    async def find(
        self, collection: str, wanted: Document, session: Session | None = None, **options: Any
    ) -> list[Document]:
        """The documents of one answer, 16 MiB of them at most; no cursor stays."""
        # Else a batch is of 101 documents.
        command = {"find": collection, "filter": wanted, "singleBatch": True, **_BATCH, **options}
        found: list[Document] = (await self.read(command, session))["cursor"]["firstBatch"]
        return found

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """A transaction that commits at the end of the context, for a majority and journaled."""
        async with self.client.start_session() as session:
            await session.start_transaction(
                read_concern=ReadConcern("majority"),
                write_concern=WriteConcern("majority", j=True),
                read_preference=ReadPreference.PRIMARY,
            )
            try:
                yield session
            except BaseException:
                if session.in_transaction:
                    await session.abort_transaction()
                raise
            await self._commit(session)
            if session.operation_time is not None:
                self._note(session.operation_time)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do work that may safely be repeated, until the timeout; raises the library's errors."""
        return await self._retried(work, checks=True)

    async def set_up(self, work: Callable[[], Awaitable[T]]) -> T:
        """The same, without a look at the schema before."""
        return await self._retried(work, checks=False)

    async def schema(self) -> Document:
        """What `setup` wrote, looked up once.

        Raises `SchemaMissingError` and `SchemaVersionError`.
        """
        if self._found is None:
            found = await self.find(_schema.SCHEMA, {"_id": self._component}, limit=1)
            if not found:
                raise SchemaMissingError(self._component, self.where)
            self._accept(found[0])
        assert self._found is not None
        return self._found

    async def make(self, collections: dict[str, Any], **facts: object) -> Document:
        """Create indexes by collection and the schema's document; gives what stands there."""
        for collection, indexes in collections.items():
            if indexes:
                await self.unsafe({"createIndexes": collection, "indexes": list(indexes)})
        facts = {"version": _schema.VERSION, **facts}
        await self.write(
            {
                "update": _schema.SCHEMA,
                "updates": [
                    {"q": {"_id": self._component}, "u": {"$setOnInsert": facts}, "upsert": True}
                ],
            }
        )
        return await self.schema()

    async def create(self, collection: str) -> None:
        """See that a collection without further indexes is there."""
        try:
            await self.unsafe({"create": collection})
        except OperationFailure as error:
            if error.code != _EXISTS:
                raise

    async def has_transactions(self) -> bool:
        """Whether the server is a member of a replica set, or a router to some."""
        hello = await self.unsafe({"hello": 1})
        return "setName" in hello or hello.get("msg") == "isdbgrid"

    def _accept(self, found: Document) -> None:
        version = found.get("version")
        if version != _schema.VERSION:
            number = version if isinstance(version, int) else 0
            raise SchemaVersionError(self._component, self.where, number, _schema.VERSION)
        self._found = found

    async def _command(self, command: Document, session: Session | None) -> Document:
        sent = self._database.command(command, codec_options=_OPTIONS, session=session)
        try:
            answer: Document = await self._unbroken(sent, session)
        except OperationFailure as error:
            if session is None and error.details and "operationTime" in error.details:
                self._note(error.details["operationTime"])
            raise
        if session is None and "operationTime" in answer and "writeConcernError" not in answer:
            self._note(answer["operationTime"])
        return answer

    async def _unbroken(
        self, sent: Coroutine[Any, Any, Document], session: Session | None
    ) -> Document:
        """The answer; who is cancelled meanwhile leaves the command to end by itself.

        The driver loses the socket of a command that is cancelled while it connects.
        """
        task = asyncio.ensure_future(sent)
        self._sent.add(task)
        task.add_done_callback(self._settled)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if session is not None:
                # What follows goes out on the same session, and must not overtake it.
                await asyncio.wait([task], timeout=_PATIENCE)
            raise

    def _settled(self, task: "asyncio.Task[Document]") -> None:
        self._sent.discard(task)
        if not task.cancelled():
            task.exception()

    def _note(self, seen: Timestamp) -> None:
        if self._seen is None or seen > self._seen:
            self._seen = seen

    async def _commit(self, session: Session) -> None:
        while True:
            try:
                await session.commit_transaction()
                return
            except PyMongoError as error:
                if not is_unknown_commit(error):
                    raise
                # Whoever waits bounds this; a commit may be asked for as often as one likes.
                await asyncio.sleep(random.uniform(0, _FIRST_PAUSE * 10))

    async def _retried(self, work: Callable[[], Awaitable[T]], *, checks: bool) -> T:
        self._owner.check()
        deadline = monotonic() + self.timeout
        failure: BaseException | None = None
        attempts = 0
        while True:
            try:
                async with asyncio.timeout(deadline - monotonic()):
                    if checks and self._found is None:
                        await self.schema()
                    return await work()
            except TimeoutError as error:
                raise self._too_late(failure) from (failure or error)
            except (PyMongoError, OutcomeUnknownError) as error:
                if not is_passing(error):
                    raise named_error(error, self.where) from error
                failure = error
            attempts += 1
            pause = min(_FIRST_PAUSE * 2**attempts, _LONGEST_PAUSE)
            if monotonic() + pause > deadline:
                raise self._too_late(failure) from failure
            await asyncio.sleep(random.uniform(0, pause))

    def _too_late(self, failure: BaseException | None) -> EstoriaError:
        if failure is None or isinstance(failure, OutcomeUnknownError):
            return StoreUnavailableError(self.where, f"no answer within {self.timeout:g} s")
        return named_error(failure, self.where)
