"""From a URL to an open client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlencode

from kurrentdbclient import AsyncKurrentDBClient

_LAST_WORDS = 0.01
"""Seconds."""

_URL_FORM = (
    "write a KurrentDB URL as kurrentdb://user:password@host:2113 (kurrentdb+discover for a "
    "cluster), special characters percent-encoded; its query may hold what kurrentdbclient "
    "takes, such as tls=false, and prefix=NAME"
)


@asynccontextmanager
async def open_client(url: str) -> AsyncIterator[tuple[AsyncKurrentDBClient, str]]:
    """A client of the server of this URL, and the prefix that the URL names.

    Raises `ValueError` for a URL that can't be read.
    """
    base, _, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    prefix = next((value for name, value in options if name.lower() == "prefix"), "")
    rest = [(name, value) for name, value in options if name.lower() != "prefix"]
    try:
        client = AsyncKurrentDBClient(f"{base}?{urlencode(rest, safe='/')}" if rest else base)
    except (ValueError, AssertionError, OSError):
        # Not from the error: it may quote a part of the password.
        raise ValueError(_URL_FORM) from None
    try:
        yield client, prefix
    finally:
        await client.close()
        # gRPC tells this loop of calls that were cancelled a moment ago: let it hear.
        await asyncio.sleep(_LAST_WORDS)
