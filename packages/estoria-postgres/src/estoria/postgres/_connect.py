"""From a URL to an open pool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from estoria.core import StoreUnavailableError
from estoria.postgres._connections import Connection, Pool
from estoria.postgres._errors import named_error
from estoria.postgres._schema import DEFAULT_SCHEMA, EVENTS, check_schema

_POOL_SIZE = 10
_POOL_TIMEOUT = 30.0
_SCHEMES = ("postgresql://", "postgres://")
_TRUTH = {"true": True, "false": False}
_URL_FORM = (
    "write a PostgreSQL URL as postgresql://user:password@host:port/database, special "
    "characters percent-encoded; its query may hold what libpq takes, and schema=NAME, "
    "pool_size=NUMBER, pool_timeout=SECONDS and prepare=true or false"
)


class _Parsed(NamedTuple):
    conninfo: str
    where: str
    schema: str
    pool_size: int
    pool_timeout: float
    prepare: bool


@asynccontextmanager
async def open_pool(url: str) -> AsyncIterator[tuple[Pool, str, bool]]:
    """A pool on the database of this URL, the schema's name and whether to prepare.

    Raises `ValueError` for a URL that can't be read, and `StoreUnavailableError` when no
    connection can be had.
    """
    parsed = _parse(url)
    timeout = max(1, round(parsed.pool_timeout))
    try:
        # A pool only ever says that it has none; a connection says why.
        first: Connection = await psycopg.AsyncConnection.connect(
            parsed.conninfo, connect_timeout=timeout
        )
        await first.close()
    except psycopg.Error as error:
        raise named_error(error, parsed.where, EVENTS.name) from error
    pool: Pool = AsyncConnectionPool(
        parsed.conninfo,
        kwargs={"autocommit": True},
        min_size=min(2, parsed.pool_size),
        max_size=parsed.pool_size,
        timeout=parsed.pool_timeout,
        name=parsed.where,
        open=False,
    )
    try:
        try:
            await pool.open(wait=True, timeout=parsed.pool_timeout)
        except PoolTimeout as error:
            raise StoreUnavailableError(
                parsed.where, "it let in one connection and then no other: see its max_connections"
            ) from error
        yield pool, parsed.schema, parsed.prepare
    finally:
        await pool.close()


def _parse(url: str) -> _Parsed:
    base, _, query = url.partition("?")
    ours = {"schema": DEFAULT_SCHEMA, "pool_size": "", "pool_timeout": "", "prepare": "true"}
    options = parse_qsl(query, keep_blank_values=True)
    rest = [(name, value) for name, value in options if name not in ours]
    ours.update((name, value) for name, value in options if name in ours)
    conninfo = f"{base}?{urlencode(rest)}" if rest else base
    try:
        facts = conninfo_to_dict(conninfo)
        pool_size = int(ours["pool_size"] or _POOL_SIZE)
        pool_timeout = float(ours["pool_timeout"] or _POOL_TIMEOUT)
        prepare = _TRUTH[ours["prepare"]]
    except (psycopg.ProgrammingError, KeyError, ValueError):
        # Not from the error: it may quote a part of the password.
        raise ValueError(_URL_FORM) from None
    # An @ in the host is the end of a password that isn't encoded.
    split = "@" in str(facts.get("host", ""))
    if split or not url.startswith(_SCHEMES) or pool_size < 1 or not pool_timeout > 0:
        raise ValueError(_URL_FORM)
    place = ":".join(str(facts[name]) for name in ("host", "port") if facts.get(name))
    where = f"PostgreSQL at {place or 'its default place'}"
    if facts.get("dbname"):
        where += f", database {facts['dbname']}"
    schema = check_schema(ours["schema"])
    return _Parsed(conninfo, where, schema, pool_size, pool_timeout, prepare)
