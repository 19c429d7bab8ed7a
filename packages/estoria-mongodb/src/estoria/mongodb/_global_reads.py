"""Reading all streams in one order."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Any

from estoria.core import Event
from estoria.core.backends import RESERVED_PREFIX, GlobalFetch, GlobalPage
from estoria.mongodb import _schema
from estoria.mongodb._database import Database
from estoria.mongodb._documents import Document, events_of, last_position
from estoria.mongodb._frontier import Frontier
from estoria.mongodb._layout import Layout

Run = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]

_NOT_OURS = {"$not": {"$regex": "^" + RESERVED_PREFIX.replace(".", r"\.")}}


class GlobalReads:
    """Reads pages up to the frontier of one store."""

    def __init__(self, database: Database, frontier: Frontier, layout: Layout) -> None:
        self._database, self._frontier, self._layout = database, frontier, layout

    def fetch(
        self, run: Run, of_streams: list[str] | None, of_events: list[str] | None
    ) -> GlobalFetch:
        """The pages of one read."""
        types: Document = {"type": {"$in": of_streams} if of_streams else _NOT_OURS}
        kinds = frozenset(of_events) if of_events else None
        # The rest of the documents that the last page was made of.
        ahead: list[Event] = []
        ahead_up_to = 0

        async def fetch_page(after: int, frontier: int | None, limit: int) -> GlobalPage:
            async def read() -> GlobalPage:
                nonlocal ahead, ahead_up_to
                settled = frontier
                if settled is None:
                    settled = last_position(await self._frontier.settle())
                events, up_to = ahead, ahead_up_to
                if not events:
                    if after >= settled:
                        return GlobalPage((), settled, None)
                    documents, number = await self._page(
                        (after + 1) >> _schema.NUMBER_BITS,
                        settled >> _schema.NUMBER_BITS,
                        limit,
                        types,
                        of_events,
                    )
                    up_to = last_position(number)
                    events = _wanted(documents, after, kinds)
                page, rest = events[:limit], events[limit:]
                ahead, ahead_up_to = rest, up_to
                if rest:
                    return GlobalPage(page, settled, page[-1].global_position)
                return GlobalPage(page, settled, up_to if up_to < settled else None)

            page: GlobalPage = await run(read)
            return page

        return fetch_page

    async def _page(
        self, first: int, last: int, limit: int, types: Document, kinds: list[str] | None
    ) -> tuple[list[Document], int]:
        """Documents with events, in order, and the number up to which these are all."""
        numbers = {"_id": {"$gte": first, "$lte": last}}
        only = self._layout.only
        wanted: Document = {"events": {"$exists": True}}
        if kinds is not None:
            wanted = {"events.type": {"$in": kinds}}
        if only is not None:
            found = await self._database.find(
                only, {**numbers, **types, **wanted}, sort={"_id": 1}, limit=limit
            )
            return found, found[-1]["_id"] if found else last
        claimed = {"collection": {"$exists": True}}
        claims = await self._database.find(
            _schema.POSITIONS, {**numbers, **types, **claimed}, sort={"_id": 1}, limit=limit
        )
        if not claims:
            return [], last
        return await self._claimed(claims, wanted)

    async def _claimed(
        self, claims: Sequence[Document], wanted: Document
    ) -> tuple[list[Document], int]:
        """The documents of these numbers, from all the collections that they are in."""
        found: list[Document] = []
        up_to = claims[-1]["_id"]
        by_collection = sorted(claims, key=_collection)
        for collection, group in groupby(by_collection, key=_collection):
            numbers = [claim["_id"] for claim in group]
            # All of them come, also those without events: an answer that ends early shows.
            documents = await self._database.find(
                collection, {"_id": {"$in": numbers}}, sort={"_id": 1}
            )
            if len(documents) < len(numbers):
                up_to = min(up_to, documents[-1]["_id"])
            found += documents
        kinds = wanted.get("events.type", {}).get("$in")
        return [
            document
            for document in sorted(found, key=_number)
            if document["_id"] <= up_to
            and "events" in document
            and (kinds is None or any(event["type"] in kinds for event in document["events"]))
        ], up_to


def _wanted(documents: Sequence[Document], after: int, kinds: frozenset[str] | None) -> list[Event]:
    events: list[Event] = []
    for index, document in enumerate(documents):
        some = list(events_of(document))
        if not index:
            some = [event for event in some if event.global_position > after]
        if kinds is not None:
            some = [event for event in some if event.type in kinds]
        events += some
    return events


def _collection(claim: Document) -> str:
    return str(claim["collection"])


def _number(document: Document) -> int:
    return int(document["_id"])
