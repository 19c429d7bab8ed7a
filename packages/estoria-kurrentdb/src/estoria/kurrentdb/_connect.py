"""From a URL to an open client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qsl, urlencode, urlsplit

from kurrentdbclient import AsyncKurrentDBClient
from kurrentdbclient.exceptions import ProgrammingError

_LAST_WORDS = 0.01
"""Seconds."""

_URL_FORM = (
    "write a KurrentDB URL as kurrentdb://user:password@host:2113 (kurrentdb+discover for a "
    "cluster), special characters percent-encoded, the user and password unless it says "
    "tls=false; its query may hold what kurrentdbclient takes, and prefix=NAME"
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
        _check_login(base)
        client = AsyncKurrentDBClient(f"{base}?{urlencode(rest, safe='/')}" if rest else base)
    except (ValueError, AssertionError, OSError):
        # Not from the error: it may quote a part of the password.
        raise ValueError(_URL_FORM) from None
    try:
        yield client, prefix
    finally:
        # It was never used where a prefix is refused.
        with suppress(ProgrammingError):
            await client.close()
        # gRPC tells this loop of calls that were cancelled a moment ago: let it hear.
        await asyncio.sleep(_LAST_WORDS)


def _check_login(base: str) -> None:
    """Raises `ValueError` for a password that the client would take for a part of the host."""
    if urlsplit(base).netloc.count("@") > 1:
        raise ValueError(_URL_FORM)
