"""Handing out the numbers of appends.

The counter only makes collisions rare: that a number is nobody else's is the business of the unique
``_id``, and that it lies above what the stream holds already is looked at here. So it is
incremented outside of all transactions, and nobody waits for a majority.
"""

from estoria.mongodb import _schema
from estoria.mongodb._database import Database

_COUNTER = {"_id": "numbers"}


class Numbers:
    """Takes numbers for the documents of `collection`."""

    def __init__(self, database: Database, collection: str) -> None:
        self._database, self._collection = database, collection

    async def take(self, count: int, above: int) -> int:
        """The first of `count` numbers in a row, all of them above `above`."""
        while True:
            last = await self._increment(count)
            if last - count >= above:
                return last - count + 1
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
        value: int = answer["value"]["value"]
        return value
