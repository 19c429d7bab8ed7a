"""Caches by hand: the client's own command, or the library's own get, and nothing around it.

Nothing better is known for a state of another process than one GET of its bytes and one decoding
of them; for one in this process than the library's get behind the lock that threads need.
"""

import threading
from collections.abc import Callable
from typing import Any


async def get_decoded(client: Any, key: str, decode: Callable[[bytes], Any]) -> Any:
    """One GET, one decoding."""
    return decode(await client.get(key))


async def put_encoded(client: Any, key: str, encode: Callable[[Any], bytes], state: Any) -> None:
    """One encoding, one SET with a time to live."""
    await client.set(key, encode(state), px=300_000)


class LockedGet:
    """A library's cache, its get behind a lock and an ``async def``."""

    def __init__(self, entries: Any) -> None:
        self._entries, self._lock = entries, threading.Lock()

    async def get(self, key: Any) -> Any:
        """The library's own."""
        with self._lock:
            return self._entries.get(key)
