"""Names of collections and fields, indexes, and the documents and pipelines made of them.

An append is one document, its events inside::

    {_id: number, type, uuid, first, last, origin, timestamp,
     claims: [versions..., event ids...], events: [...]}

`claims` is unique within the stream: a version stays claimed for ever, an event id for as long
as its event is there. A deletion is a document of the same kind that claims the version after the
tip and has no events. A *stub* is a document that only has a number: nobody else can take it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from estoria.core import SchemaError, TypeID

Document = dict[str, Any]

VERSION = 1
"""Of the schema that this release knows."""

SCHEMA = "_schema"
COUNTERS = "_counters"
POSITIONS = "_positions"
COLLECTIONS = "_collections"
SNAPSHOTS = "_snapshots"
CHECKPOINTS = "_checkpoints"

EVENTS = "events"
"""The one collection of the default layout."""

NUMBER_BITS = 20
"""A position is the append's number, shifted by so many bits, plus the event's index in it."""

MAX_INDEX = 2**NUMBER_BITS - 1

_MAX_COLLECTION_BYTES = 100
_STREAM: Document = {"type": 1, "uuid": 1}
_FACTS: Document = {"last": 1, "origin": 1, "deleted": 1}
_EVENT_COUNT: Document = {"$size": "$events"}

EVENT_INDEXES: Sequence[Document] = (
    {"name": "claims", "key": {**_STREAM, "claims": 1}, "unique": True, "sparse": True},
    {"name": "last", "key": {**_STREAM, "last": 1}, "sparse": True},
    # One document of each stream that ever was: what listing goes along.
    {"name": "begins", "key": _STREAM, "partialFilterExpression": {"begins": True}},
)
SNAPSHOT_INDEXES: Sequence[Document] = (
    {"name": "version", "key": {**_STREAM, "version": -1}, "unique": True},
)


def key(stream_id: TypeID) -> Document:
    """The fields that name a stream."""
    return {"type": stream_id.type, "uuid": stream_id.uuid}


def collection_of_type(type_name: str) -> str:
    """The name of the collection for one type of streams; what names can't hold is escaped."""
    name = type_name.replace("%", "%25").replace("$", "%24")
    if name.startswith(("system.", "_")):
        name = f"%{ord(name[0]):x}{name[1:]}"
    if len(name.encode()) > _MAX_COLLECTION_BYTES:
        digest = hashlib.sha256(type_name.encode()).hexdigest()[:32]
        name = name.encode()[:60].decode(errors="ignore") + "%" + digest
    return name


def check_collection(name: str) -> str:
    """Raise `ValueError` unless it can be the name of a collection of events."""
    fault = None
    if not isinstance(name, str) or not name:
        fault = "is no name"
    elif name.startswith("_"):
        fault = "begins with an underscore, which is for the library's own"
    elif "$" in name or "\0" in name or name.startswith("system."):
        fault = "holds a dollar sign or a NUL, or begins with 'system.'"
    elif len(name.encode()) > 2 * _MAX_COLLECTION_BYTES:
        fault = f"is longer than {2 * _MAX_COLLECTION_BYTES} bytes"
    if fault is not None:
        raise ValueError(f"collection name {name!r} {fault}")
    return name


def check_layout(found: object, layout: str, where: str) -> None:
    """Raise `SchemaError` when another layout wrote the data."""
    if found != layout:
        raise SchemaError(
            f"{where} was set up with the layout {found!r}, this store has {layout!r}: "
            "open it as it was, or take another database"
        )


def facts(stream_id: TypeID, collection: str) -> list[Document]:
    """The stream's newest document, then the one of version 1, which knows of truncations."""
    return [
        {"$match": key(stream_id)},
        {"$sort": {**_STREAM, "last": -1}},
        {"$limit": 1},
        {"$project": _FACTS},
        union(
            collection,
            {"$match": {**key(stream_id), "claims": 1}},
            {"$project": {"truncated": 1, "anchor": {"$literal": True}}},
        ),
    ]


def sections(pipeline: list[Document]) -> list[list[Document]]:
    """The pipelines of which this one is the union: transactions don't take unions."""
    own = [stage for stage in pipeline if "$unionWith" not in stage]
    others = [stage["$unionWith"]["pipeline"] for stage in pipeline if "$unionWith" in stage]
    return [own, *others]


def union(collection: str, *pipeline: Document) -> Document:
    """What else a pipeline gives, after what it gives already."""
    return {"$unionWith": {"coll": collection, "pipeline": list(pipeline)}}


def forwards(stream_id: TypeID, first: int, last: int, limit: int) -> list[Document]:
    """The documents that hold these versions, first version first."""
    wanted = {"last": {"$gte": first}, "first": {"$lte": last}, "events": {"$exists": True}}
    return [
        {"$match": {**key(stream_id), **wanted}},
        {"$sort": {**_STREAM, "last": 1}},
        {"$limit": limit},
    ]


def backwards(stream_id: TypeID, first: int, last: int, limit: int) -> list[Document]:
    """The documents that end below `last`, newest first, down to the one that holds `first`."""
    wanted = {"last": {"$gte": first, "$lt": last}, "events": {"$exists": True}}
    return [
        {"$match": {**key(stream_id), **wanted}},
        {"$sort": {**_STREAM, "last": -1}},
        {"$limit": limit},
    ]


def holding(stream_id: TypeID, claims: Sequence[object]) -> Document:
    """The documents that hold any of these versions or event ids."""
    return {"$match": {**key(stream_id), "claims": {"$in": list(claims)}}}


def newest() -> Sequence[Document]:
    """For `listing`: the newest document of each stream."""
    same = {
        "$expr": {"$and": [{"$eq": ["$type", "$$type"]}, {"$eq": ["$uuid", "$$uuid"]}]},
    }
    return (
        {"$match": same},
        {"$sort": {**_STREAM, "last": -1}},
        {"$limit": 1},
        {"$project": _FACTS},
    )


def listing(collection: str, wanted: Document, limit: int) -> list[Document]:
    """Streams in order, each with its newest document."""
    return [
        {"$match": {"begins": True, **wanted}},
        {"$sort": _STREAM},
        {"$limit": limit},
        {"$project": {**_STREAM, "truncated": 1}},
        {
            "$lookup": {
                "from": collection,
                "let": {"type": "$type", "uuid": "$uuid"},
                "pipeline": list(newest()),
                "as": "newest",
            }
        },
    ]


def emptying(stream_id: TypeID, to_version: int) -> list[Document]:
    """The updates that take the events up to `to_version` out of their documents, and their ids.

    Each may be repeated, and none brings back what another took.
    """
    there = {**key(stream_id), "events": {"$exists": True}}
    count = {"$add": [{"$subtract": ["$last", "$first"]}, 1]}
    versions = {"$slice": ["$claims", count]}
    kept = {"$multiply": [-1, {"$min": [{"$subtract": ["$last", to_version]}, _EVENT_COUNT]}]}
    return [
        {
            "q": {**there, "last": {"$lte": to_version}},
            "u": [{"$set": {"claims": versions}}, {"$unset": "events"}],
            "multi": True,
        },
        {
            "q": {**there, "claims": to_version, "last": {"$gt": to_version}},
            "u": [
                {
                    "$set": {
                        "claims": {"$concatArrays": [versions, {"$slice": ["$claims", kept]}]},
                        "events": {"$slice": ["$events", kept]},
                    }
                }
            ],
        },
    ]


def truncation(stream_id: TypeID, to_version: int) -> Document:
    """The update that has readers obey a truncation; an earlier one is never undone."""
    return {"q": {**key(stream_id), "claims": 1}, "u": {"$max": {"truncated": to_version}}}


BY_VERSION: Document = {**_STREAM, "version": -1}
"""How snapshots are sorted: newest first."""
