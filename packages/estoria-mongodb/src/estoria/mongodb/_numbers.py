"""Handing out the numbers of appends.

The counter only makes collisions rare: that a number is nobody else's is the business of the unique
``_id``, and that it lies above what the stream holds already is looked at here. So it is
incremented outside of all transactions, and nobody waits for a majority.

The same document counts truncations, by anybody: whoever takes a number learns for free that a
stream's first version may have moved.
"""

import asyncio
from typing import NamedTuple

from estoria.mongodb import _schema
from estoria.mongodb._database import Database

_COUNTER = {"_id": "numbers"}


class _Taker(NamedTuple):
    how_many: int
    first: "asyncio.Future[int]"


class Numbers:
    """Takes numbers for the documents of `collection`.

    One request is under way at a time, for all who wait: increments of one document that run side
    by side conflict in the server, and are tried again and again there.
    """

    def __init__(self, database: Database, collection: str) -> None:
        self._database, self._collection = database, collection
        self._waiting: list[_Taker] = []
        self._taking: asyncio.Task[None] | None = None
        self.truncations = 0
        """How many there have been, as of the last number that was taken."""

    async def take(self, count: int, above: int) -> int:
        """The first of `count` numbers in a row, all of them above `above`."""
        while True:
            first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._waiting.append(_Taker(count, first))
            if self._taking is None:
                self._taking = asyncio.create_task(self._take())
            if await first > above:
                return first.result()
            # A failover, a crash or a restored backup has set the counter back.
            await self.catch_up()

    async def catch_up(self) -> None:
        """Move the counter past every number that is visible."""
        found = await self._database.find(
            self._collection, {}, sort={"_id": -1}, limit=1, projection={"_id": 1}
        )
        if found:
            update = {"q": _COUNTER, "u": {"$max": {"value": found[0]["_id"]}}, "upsert": True}
            await self._database.write({"update": _schema.COUNTERS, "updates": [update]})

    async def count_truncation(self) -> None:
        """Tell all who take numbers from now on."""
        update = {"q": _COUNTER, "u": {"$inc": {"truncations": 1}}, "upsert": True}
        await self._database.write({"update": _schema.COUNTERS, "updates": [update]})

    async def _take(self) -> None:
        """Serve those who wait, until nobody does."""
        try:
            while self._waiting:
                takers = [taker for taker in self._waiting if not taker.first.cancelled()]
                self._waiting = []
                if takers:
                    await self._serve(takers)
        finally:
            self._taking = None

    async def _serve(self, takers: list[_Taker]) -> None:
        count = sum(taker.how_many for taker in takers)
        try:
            async with asyncio.timeout(self._database.timeout):
                last = await self._increment(count)
        except BaseException as error:
            cancelled = not isinstance(error, Exception)
            for taker in takers:
                if cancelled:
                    taker.first.cancel()
                elif not taker.first.done():
                    taker.first.set_exception(error)
            if cancelled:
                raise
        else:
            first = last - count + 1
            for taker in takers:
                if not taker.first.done():
                    taker.first.set_result(first)
                first += taker.how_many

    async def _increment(self, count: int) -> int:
        answer = await self._database.unsafe(
            {
                "findAndModify": _schema.COUNTERS,
                "query": _COUNTER,
                "update": {"$inc": {"value": count}},
                "upsert": True,
                "new": True,
                "writeConcern": {"w": 1},
            }
        )
        counter = answer["value"]
        self.truncations = counter.get("truncations", 0)
        value: int = counter["value"]
        return value
