"""What a cache has done, and what it holds."""

import msgspec


class CacheStats(msgspec.Struct, frozen=True):
    """Counts since the cache was made, and what is in it now."""

    hits: int
    """Gets that found an entry."""

    misses: int
    """Gets that found none, or one that had expired or couldn't be decoded."""

    evictions: int
    """Entries that made room for others."""

    expirations: int
    """Entries whose time was over, counted when they are found to be."""

    entries: int
    """Entries now, without those that are known to have expired."""

    bytes: int | None
    """What they take: each cache says what it counts. None where states are shared."""
