"""How far the global order is settled.

Numbers are taken from a counter before the append that they are for, so they become visible out
of order, and some never do. The frontier is the highest number at or below which every number
stands in the database, for a majority: as an append's, or as a stub's. A number that stands
there is nobody else's for ever, by the unique ``_id``, so nothing unseen can come at or below the
frontier, whatever writers, clocks, failovers and the counter do.

What is missing belongs to a writer that is slow, or gone. A reader leaves its frontier below it.
When it is still missing after a while, the reader inserts a stub at that very number: either
that wins, and the writer is refused and takes a new number; or the writer was first, and is
read. Time is only trusted for patience.
"""

import logging
from time import monotonic

from pymongo.errors import OperationFailure

from estoria.mongodb import _schema
from estoria.mongodb._database import Database, Session
from estoria.mongodb._errors import MAX_TIME_EXPIRED

_log = logging.getLogger("estoria.mongodb")

_FENCE_MILLISECONDS = 50
_FENCES = 200
_ROUNDS = 20
_SAVE_EVERY = 10_000
_UNAUTHORIZED = 13


class Frontier:
    """Settles the frontier of one store."""

    def __init__(self, database: Database, collection: str, patience: float) -> None:
        self._database, self._collection, self._patience = database, collection, patience
        self._solid = self._saved = -1
        self._gap, self._since, self._up_to = 0, 0.0, 0
        self._may_write = True
        self._transactions: dict[int, Session] = {}

    def watch(self, number: int, session: Session) -> None:
        """Remember whose number this is: when the session's transaction is over, so is patience."""
        self._transactions[number] = session

    async def settle(self) -> int:
        """The frontier, as a number."""
        await self._load()
        for _ in range(_ROUNDS):
            visible, missing = await self._look()
            if not missing:
                break
            wanted = self._impatient(visible, missing)
            if not wanted or not await self._fence(wanted):
                break
        await self._save()
        return self._solid

    async def _look(self) -> tuple[int, list[int]]:
        """Move the frontier on; the highest number that is visible, and those missing below it."""
        solid = self._solid
        above = {"_id": {"$gt": solid}}
        count = {"_id": None, "count": {"$sum": 1}, "highest": {"$max": "$_id"}}
        found, _ = await self._database.aggregate(
            self._collection, [{"$match": above}, {"$sort": {"_id": 1}}, {"$group": count}]
        )
        if not found:
            return solid, []
        highest: int = found[0]["highest"]
        if found[0]["count"] == highest - solid:
            self._settled(highest)
            return highest, []
        documents = await self._database.find(
            self._collection, above, sort={"_id": 1}, projection={"_id": 1}
        )
        numbers = {document["_id"] for document in documents}
        highest = max(numbers)
        missing = [number for number in range(solid + 1, highest) if number not in numbers]
        self._settled(missing[0] - 1 if missing else highest)
        return highest, missing

    def _settled(self, solid: int) -> None:
        # Reads may overlap: what one has settled stays so.
        self._solid = max(self._solid, solid)
        if self._transactions:
            self._transactions = {n: s for n, s in self._transactions.items() if n > self._solid}

    def _impatient(self, visible: int, missing: list[int]) -> list[int]:
        """The missing numbers that were waited for long enough."""
        now = monotonic()
        if missing[0] != self._gap:
            self._gap, self._since, self._up_to = missing[0], now, visible
        if now - self._since >= self._patience:
            self._since = now
            up_to, self._up_to = self._up_to, visible
            return [number for number in missing if number <= up_to][:_FENCES]
        over = []
        for number in missing:
            session = self._transactions.get(number)
            if session is None or session.in_transaction:
                break
            over.append(number)
        return over

    async def _fence(self, numbers: list[int]) -> bool:
        """Put stubs where nothing is yet; whether another look is worth it."""
        if not self._may_write:
            return False
        try:
            # Blocks on a transaction that is open and holds the number.
            await self._database.write(
                {
                    "insert": self._collection,
                    "documents": [{"_id": number} for number in numbers],
                    "ordered": False,
                    "maxTimeMS": _FENCE_MILLISECONDS,
                }
            )
        except OperationFailure as error:
            if error.code == _UNAUTHORIZED:
                self._forbidden()
                return False
            if error.code == MAX_TIME_EXPIRED:
                return False
            raise
        _log.debug("numbers %d to %d were waited for in vain", numbers[0], numbers[-1])
        return True

    def _forbidden(self) -> None:
        self._may_write = False
        _log.warning(
            "this user of %s may not write: global reads end below appends that never finish",
            self._database.where,
        )

    async def _load(self) -> None:
        if self._solid < 0:
            found = await self._database.find(_schema.COUNTERS, {"_id": "frontier"}, limit=1)
            self._solid = self._saved = found[0]["value"] if found else 0

    async def _save(self) -> None:
        """Keep the frontier for stores that are opened later, now and then."""
        if self._solid - self._saved < _SAVE_EVERY or not self._may_write:
            return
        update = {"q": {"_id": "frontier"}, "u": {"$max": {"value": self._solid}}, "upsert": True}
        try:
            await self._database.write({"update": _schema.COUNTERS, "updates": [update]})
        except OperationFailure as error:
            if error.code != _UNAUTHORIZED:
                raise
            self._forbidden()
        self._saved = self._solid
