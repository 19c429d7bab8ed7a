"""Listing the streams that exist."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from estoria.core import StreamInfo, TypeID
from estoria.core.backends import RESERVED_PREFIX
from estoria.mongodb import _schema
from estoria.mongodb._documents import Document, tip_of
from estoria.mongodb._streams import Streams

Run = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]

_PAGE_STREAMS = 500
_NOT_OURS = {"$not": {"$regex": "^" + RESERVED_PREFIX.replace(".", r"\.")}}


async def list_streams(
    streams: Streams, run: Run, stream_type: str | None, count: int | None, after: TypeID | None
) -> AsyncIterator[StreamInfo]:
    """Pages of streams, from all the collections there are."""
    left = count
    while True:
        limit = min(_PAGE_STREAMS, left or _PAGE_STREAMS)

        async def read(after: TypeID | None = after, limit: int = limit) -> list[Document]:
            return await _page(streams, stream_type, after, limit)

        found = await run(read)
        for document in found:
            after = TypeID(document["type"], document["uuid"])
            tip = tip_of(document["newest"][0], document)
            if not tip.alive:
                continue
            yield tip.info(after)
            if left is not None:
                left -= 1
                if left == 0:
                    return
        if len(found) < limit:
            return


async def _page(
    streams: Streams, stream_type: str | None, after: TypeID | None, limit: int
) -> list[Document]:
    if stream_type is not None:
        collections = [streams.layout.select(stream_type)]
    elif streams.layout.only is not None:
        collections = [streams.layout.only]
    else:
        known = await streams.database.find(_schema.COLLECTIONS, {})
        collections = [document["_id"] for document in known]
    found: list[Document] = []
    for collection in collections:
        # First the rest of a type, then what lies beyond: each goes along the index.
        if after is not None and stream_type in (None, after.type):
            wanted: Document = {"type": after.type, "uuid": {"$gt": after.uuid}}
            if stream_type is not None or not after.type.startswith(RESERVED_PREFIX):
                found += await _some(streams, collection, wanted, limit)
        if stream_type is None:
            above = {} if after is None else {"$gt": after.type}
            found += await _some(streams, collection, {"type": {**above, **_NOT_OURS}}, limit)
        elif after is None or stream_type > after.type:
            found += await _some(streams, collection, {"type": stream_type}, limit)
    return sorted(found, key=lambda document: (document["type"], document["uuid"]))[:limit]


async def _some(streams: Streams, collection: str, wanted: Document, limit: int) -> list[Document]:
    pipeline = _schema.listing(collection, wanted, limit)
    documents, _ = await streams.database.aggregate(collection, pipeline)
    return documents
