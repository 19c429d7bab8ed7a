"""Group commit: appends that wait in one process go out together.

They are of different streams (appends to one stream wait for each other before they come here),
so they are independent: the insert is unordered, and each is refused or accepted by itself.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from pymongo.errors import OperationFailure

from estoria.mongodb._database import Database
from estoria.mongodb._documents import Document
from estoria.mongodb._errors import (
    DUPLICATE_KEY,
    MAX_TIME_EXPIRED,
    OutcomeUnknownError,
    refusal_error,
)
from estoria.mongodb._numbers import Numbers

_GROUPS = 2
"""That are under way at once; appends that come meanwhile gather for the next one."""

_GROUP_DOCUMENTS = 1_000
_GROUP_BYTES = 32 * 2**20
_GROUP_MILLISECONDS = 500
"""A transaction that is open on one of its streams holds up a group no longer than this, and what
its size takes."""

_MILLISECOND_BYTES = 16 * 2**10
_MAX_SLOW = 10_000


class _Entry(NamedTuple):
    document: Document
    above: int
    size: int
    outcome: "asyncio.Future[bool]"

    @property
    def stream(self) -> tuple[object, object]:
        return self.document["type"], self.document["uuid"]


class Groups:
    """Inserts the documents of appends, as many at once as wait."""

    def __init__(self, database: Database, collection: str, numbers: Numbers) -> None:
        self._database, self._collection, self._numbers = database, collection, numbers
        self._waiting: list[_Entry] = []
        self._running = 0
        self._slow: set[tuple[object, object]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def insert(self, document: Document, above: int, size: int) -> bool:
        """Insert under a new number above this one; False if what it claims is taken.

        Sets the document's ``_id``.
        """
        entry = _Entry(document, above, size, asyncio.get_running_loop().create_future())
        if entry.stream in self._slow:
            self._start(self._alone(entry))
        else:
            self._waiting.append(entry)
            if self._running < _GROUPS:
                self._running += 1
                self._start(self._drain())
        return await entry.outcome

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                group = self._take()
                size = sum(entry.size for entry in group)
                milliseconds = _GROUP_MILLISECONDS + len(group) + size // _MILLISECOND_BYTES
                await self._settle(group, milliseconds)
        finally:
            self._running -= 1

    def _take(self) -> list[_Entry]:
        size, count = 0, 0
        for entry in self._waiting[:_GROUP_DOCUMENTS]:
            size += entry.size
            if count and size > _GROUP_BYTES:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def _alone(self, entry: _Entry) -> None:
        """Insert into a stream that somebody's transaction may hold, without holding up others."""
        await self._settle([entry], int(self._database.timeout * 1_000))
        if not entry.outcome.cancelled() and entry.outcome.exception() is None:
            self._slow.discard(entry.stream)

    async def _settle(self, group: Sequence[_Entry], milliseconds: int) -> None:
        try:
            async with asyncio.timeout(self._database.timeout):
                await self._insert(group, milliseconds)
        except BaseException as error:
            cancelled = not isinstance(error, Exception)
            for entry in group:
                if entry.outcome.done():
                    continue
                if cancelled:
                    entry.outcome.cancel()
                elif isinstance(error, TimeoutError):
                    entry.outcome.set_exception(OutcomeUnknownError("no answer in time"))
                else:
                    entry.outcome.set_exception(error)
            if cancelled:
                raise

    async def _insert(self, group: Sequence[_Entry], milliseconds: int) -> None:
        above = max(entry.above for entry in group)
        first = await self._numbers.take(len(group), above)
        for number, entry in enumerate(group, first):
            entry.document["_id"] = number
        try:
            answer = await self._database.write_each(
                {
                    "insert": self._collection,
                    "documents": [entry.document for entry in group],
                    "ordered": False,
                    "maxTimeMS": milliseconds,
                }
            )
        except OperationFailure as error:
            if error.code != MAX_TIME_EXPIRED:
                raise
            await self._sort_out(group)
            return
        refusals = {each["index"]: each for each in answer.get("writeErrors", ())}
        for index, entry in enumerate(group):
            if index not in refusals and not entry.outcome.done():
                entry.outcome.set_result(True)
        if refusals:
            await self._refuse([(group[index], each) for index, each in refusals.items()])

    async def _sort_out(self, group: Sequence[_Entry]) -> None:
        """Find what held the group up: the server works through it one by one.

        So what stands there is done, the first that doesn't is a stream that somebody's
        transaction holds, or just where time was up, and those after it may try again at once.
        """
        numbers = [entry.document["_id"] for entry in group]
        found = await self._database.find(
            self._collection,
            {"_id": {"$in": numbers}, "claims": {"$exists": True}},
            projection={"type": 1, "uuid": 1, "claims": 1},
        )
        claims = {(each["type"], each["uuid"], each["_id"]): each["claims"] for each in found}
        held_up = False
        for entry in group:
            if entry.outcome.done():
                continue
            document = entry.document
            if claims.get((*entry.stream, document["_id"])) == document["claims"]:
                entry.outcome.set_result(True)
                continue
            if not held_up:
                held_up = True
                if len(self._slow) >= _MAX_SLOW:
                    self._slow.clear()
                self._slow.add(entry.stream)
            entry.outcome.set_exception(OutcomeUnknownError("its time was up"))

    async def _refuse(self, refused: list[tuple[_Entry, Document]]) -> None:
        """Fill the numbers that were taken in vain, so that no reader waits at them."""
        vain, collided = [], False
        for entry, refusal in refused:
            if _names_number(refusal):
                collided = True
            else:
                vain.append({"_id": entry.document["_id"]})
        if vain:
            await self._database.write(
                {"insert": self._collection, "documents": vain, "ordered": False}
            )
        if collided:
            await self._numbers.catch_up()
        for entry, refusal in refused:
            if entry.outcome.done():
                continue
            if _names_number(refusal):
                # The number, not the version, is taken: a reader's fence was faster.
                entry.outcome.set_exception(OutcomeUnknownError("the number was taken"))
            elif refusal["code"] == DUPLICATE_KEY:
                entry.outcome.set_result(False)
            else:
                entry.outcome.set_exception(refusal_error(refusal))


def _names_number(refusal: Document) -> bool:
    return "_id" in refusal.get("keyPattern", ())
