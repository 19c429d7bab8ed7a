"""Which collection holds which streams."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from estoria.mongodb._schema import EVENTS, check_collection, collection_of_type


class Layout(NamedTuple):
    """Which collection holds which streams; made by `single`, `per_type` and `selected`.

    `name` is kept in the database: a store with another layout refuses to open.
    """

    name: str
    only: str | None
    select: Callable[[str], str]

    @classmethod
    def single(cls, collection: str = EVENTS) -> "Layout":
        """One collection for all events, the default: no transactions, so any server will do."""
        check_collection(collection)
        return cls(f"single:{collection}", collection, lambda _: collection)

    @classmethod
    def per_type(cls, prefix: str = "") -> "Layout":
        """One collection for each aggregate type, named after it; needs a replica set."""
        if prefix:
            check_collection(prefix)
        return cls(f"per type:{prefix}", None, lambda name: prefix + collection_of_type(name))

    @classmethod
    def selected(cls, name: str, select: Callable[[str], str]) -> "Layout":
        """A collection for each aggregate type as `select` says; needs a replica set.

        `name` stands for the function: change it when the function changes.
        """
        return cls(f"selected:{name}", None, lru_cache(4096)(lambda t: check_collection(select(t))))
