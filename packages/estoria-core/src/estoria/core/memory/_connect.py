"""``memory://`` for `estoria.core.connect`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from estoria.core.memory._event_store import MemoryEventStore


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[MemoryEventStore]:
    """A new, empty store. Raises `ValueError` for anything but ``memory://``."""
    if url.lower() not in ("memory:", "memory://"):
        raise ValueError("a memory URL is memory:// and nothing more")
    yield MemoryEventStore()
