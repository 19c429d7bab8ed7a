"""Reading single streams."""

from collections.abc import Sequence
from itertools import takewhile

from estoria.core import Event, StoreUnavailableError, StreamInfo, TypeID
from estoria.core.backends import MAX_VERSION
from estoria.mongodb import _schema
from estoria.mongodb._database import Database, Session
from estoria.mongodb._documents import Document, Tip, events_of, tip_of
from estoria.mongodb._layout import Layout

_ATTEMPTS = 20
_MAX_TIPS = 100_000


class Streams:
    """What one store knows of its streams, and how it finds out more."""

    def __init__(self, database: Database, layout: Layout) -> None:
        self.database, self.layout = database, layout
        self._tips: dict[TypeID, Tip] = {}
        self._forgotten = 0

    def known(self, stream_id: TypeID) -> Tip | None:
        """A tip that the stream once had; all its versions are taken for good."""
        return self._tips.get(stream_id)

    def note(self, stream_id: TypeID, tip: Tip) -> None:
        """Remember the tip, unless a newer one is known."""
        old = self._tips.get(stream_id)
        if old is None and len(self._tips) >= _MAX_TIPS:
            self._tips.clear()
        if old is None or tip.number >= old.number:
            first = tip.first_version
            if old is not None and old.origin == tip.origin:
                first = max(first, old.first_version)
            self._tips[stream_id] = tip._replace(first_version=first)

    def forget(self, stream_id: TypeID) -> None:
        """Ask anew at the next use."""
        self._tips.pop(stream_id, None)

    def forget_all(self) -> None:
        """Ask anew of every stream, and don't keep what was asked before this."""
        self._tips.clear()
        self._forgotten += 1

    async def look(
        self, stream_id: TypeID, ids: Sequence[object] = (), session: Session | None = None
    ) -> tuple[Tip, list[Document]]:
        """The stream's tip, and the documents that hold any of these event ids."""
        extra = []
        if ids:
            collection = self.layout.select(stream_id.type)
            extra = [_schema.union(collection, _schema.holding(stream_id, ids))]
        for _ in range(_ATTEMPTS):
            tip, documents = await self._facts(stream_id, extra, session)
            if tip is not None and all(document["last"] <= tip.version for document in documents):
                return tip, documents
        raise self._never_still(stream_id)

    async def page(
        self,
        stream_id: TypeID,
        bounds: tuple[int, int],
        limit: int,
        *,
        reverse: bool,
        ahead: Sequence[Event],
        session: Session | None = None,
    ) -> tuple[StreamInfo | None, list[Event]]:
        """The stream and its events within these bounds, in the direction of the read.

        Up to the end of the last document that was fetched. `ahead` are those that an earlier
        page had to spare; they are used if they are what is wanted.
        """
        first, last = bounds
        for _ in range(_ATTEMPTS):
            spare = bool(ahead) and ahead[0].stream_version == (last if reverse else first)
            extra = [] if spare else self._page(stream_id, first, last, limit, reverse=reverse)
            tip, documents = await self._facts(stream_id, extra, session)
            if tip is None:
                continue
            if not tip.alive:
                return None, []
            low, high = max(first, tip.first_version), min(last, tip.version)
            if low > high:
                return tip.info(stream_id), []
            due = high if reverse else low
            if not spare and not documents:
                # Documents so large that not one of them came along.
                documents = await self._large(stream_id, low, high, session, reverse=reverse)
            events = ahead if spare else _events(documents, stream_id, reverse=reverse)
            step = -1 if reverse else 1
            wanted = (event for event in events if low <= event.stream_version <= high)
            found = [
                event
                for _, event in takewhile(
                    lambda pair: pair[0] == pair[1].stream_version,
                    ((due + index * step, event) for index, event in enumerate(wanted)),
                )
            ]
            if found:
                return tip.info(stream_id), found
        raise self._never_still(stream_id)

    def _page(
        self, stream_id: TypeID, first: int, last: int, limit: int, *, reverse: bool
    ) -> list[Document]:
        collection = self.layout.select(stream_id.type)
        known = self._tips.get(stream_id)
        if known is not None:
            # Stubs of what is long gone need not be looked through.
            first = max(first, known.first_version)
        if not reverse:
            pipeline = _schema.forwards(stream_id, first, last, limit)
            return [_schema.union(collection, *pipeline)]
        parts = []
        if last < MAX_VERSION:
            parts = [_schema.union(collection, _schema.holding(stream_id, [last]))]
        pipeline = _schema.backwards(stream_id, first, last, limit)
        return [*parts, _schema.union(collection, *pipeline)]

    async def _large(
        self, stream_id: TypeID, low: int, high: int, session: Session | None, *, reverse: bool
    ) -> list[Document]:
        collection = self.layout.select(stream_id.type)
        wanted = {**_schema.key(stream_id), "claims": high if reverse else low}
        return await self.database.find(collection, wanted, session, limit=1)

    async def _facts(
        self, stream_id: TypeID, extra: list[Document], session: Session | None
    ) -> tuple[Tip | None, list[Document]]:
        """The tip, None if it came into being meanwhile, and all documents with events."""
        collection = self.layout.select(stream_id.type)
        forgotten = self._forgotten
        pipeline = [*_schema.facts(stream_id, collection), *extra]
        if session is None:
            documents, cursor = await self.database.aggregate(collection, pipeline)
            if cursor:
                await self.database.drop_cursor(collection, cursor)
        else:
            # They see one moment, so it doesn't matter that they are several.
            documents = []
            for section in _schema.sections(pipeline):
                part, _ = await self.database.aggregate(collection, section, session)
                documents += part
        facts = [document for document in documents if "claims" not in document]
        rest = [document for document in documents if "events" in document]
        if not facts:
            return Tip(), rest
        if len(facts) != 2 or "anchor" in facts[0]:
            return None, []
        tip = tip_of(facts[0], facts[1])
        if session is None and forgotten == self._forgotten:
            self.note(stream_id, tip)
        return tip, rest

    def _never_still(self, stream_id: TypeID) -> StoreUnavailableError:
        return StoreUnavailableError(
            self.database.where, f"{stream_id} changes faster than it can be read"
        )


def _events(documents: Sequence[Document], stream_id: TypeID, *, reverse: bool) -> list[Event]:
    if not reverse:
        return [event for document in documents for event in events_of(document, stream_id)]
    return [
        event for document in documents for event in reversed([*events_of(document, stream_id)])
    ]
