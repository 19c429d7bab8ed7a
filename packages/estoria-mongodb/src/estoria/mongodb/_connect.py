"""From a URL to an open client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError, InvalidURI, PyMongoError
from pymongo.uri_parser import parse_uri

from estoria.core import StoreUnavailableError
from estoria.mongodb._database import Client
from estoria.mongodb._errors import named_error

DATABASE = "estoria"

_URL_FORM = (
    "write a MongoDB URL as mongodb://user:password@host:port/database?replicaSet=name, special "
    "characters percent-encoded"
)


@asynccontextmanager
async def open_client(url: str, timeout: float) -> AsyncIterator[tuple[Client, str]]:
    """A client for this URL, and the name of its database.

    Raises `ValueError` for a URL that can't be read, and `StoreUnavailableError` when nobody
    answers within `timeout` seconds.
    """
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}, not a number of seconds above 0")
    options: dict[str, Any] = {"serverSelectionTimeoutMS": max(1, int(timeout * 1_000))}
    try:
        name = _database_of(url)
        client: Client = AsyncMongoClient(url, **options)
    except (InvalidURI, ConfigurationError, ValueError):
        # Not from the error: it may quote a part of the password.
        raise ValueError(_URL_FORM) from None
    try:
        where = f"MongoDB database {name!r}"
        try:
            await client.admin.command("hello")
            await client.get_database(name).command(
                {"find": "_schema", "limit": 1, "singleBatch": True}
            )
        except PyMongoError as error:
            named = named_error(error, where)
            if isinstance(named, StoreUnavailableError):
                raise named from error
            raise
        yield client, name
    finally:
        await client.close()


def _database_of(url: str) -> str:
    if url.startswith("mongodb+srv://"):
        # Not parsed here: that would ask the name server, and not from the loop.
        path = url.split("://", 1)[1].partition("/")[2].partition("?")[0]
        return path or DATABASE
    return str(parse_uri(url)["database"] or DATABASE)
