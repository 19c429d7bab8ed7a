"""Running statements on the connections of a pool: errors, retries, and giving them back."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from estoria.core import StoreBusyError, StoreUnavailableError
from estoria.core.backends import Owner
from estoria.postgres import _migrations
from estoria.postgres._errors import is_conflict, is_in_recovery, is_lost, named_error
from estoria.postgres._schema import Component, check_schema

T = TypeVar("T")

Connection = psycopg.AsyncConnection[Any]
Pool = AsyncConnectionPool[Any]

MAX_CONFLICTS = 12
"""How often a transaction that loses against others is run before `StoreBusyError`."""

_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.5
_PROBE_SECONDS = 2


class FailedHookError(Exception):
    """Carries what a hook raised past those who look for errors of their own."""


async def fetch(
    connection: Connection,
    statement: bytes,
    parameters: Mapping[str, object],
    *,
    prepare: bool,
) -> list[tuple[Any, ...]]:
    """All rows, as plain tuples, whatever the connection's owner prefers."""
    cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
    await cursor.execute(statement, parameters, prepare=prepare, binary=True)
    return await cursor.fetchall() if cursor.description else []


class Connections:
    """A store's way to its pool, which it never closes."""

    def __init__(self, pool: Pool, component: Component, *, schema: str) -> None:
        self.schema = check_schema(schema)
        self.where = f"schema {schema!r} through pool {pool.name!r}"
        self._pool = pool
        self._component = component
        self._checked = False
        self._owner = Owner(f"the store in {self.where}")

    async def setup(self) -> None:
        """Create or migrate the component."""

        async def set_up(connection: Connection) -> None:
            await _migrations.set_up(connection, self._component, self.schema, self.where)

        await self._retried(set_up)
        self._checked = True

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do work that may safely be repeated, on a connection that commits by itself.

        It is repeated after a lost connection, for as long as the pool's timeout, and after
        a serialization failure or a deadlock, a dozen times. Raises the library's errors.
        """

        async def checked(connection: Connection) -> T:
            await self.check(connection)
            return await work(connection)

        return await self._retried(work if self._checked else checked)

    async def check(self, connection: Connection) -> None:
        """Look once at whether the schema is there, and of the version that is known."""
        if not self._checked:
            await _migrations.check(connection, self._component, self.schema, self.where)
            self._checked = True

    async def _retried(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        deadline = monotonic() + self._pool.timeout
        conflicts, losses = 0, 0
        while True:
            connection: Connection | None = None
            try:
                async with self._connection() as connection:
                    return await work(connection)
            except (psycopg.Error, FailedHookError) as failure:
                from_hook = isinstance(failure, FailedHookError)
                error = failure.__cause__ if from_hook else failure
                if error is None:
                    raise
                if is_conflict(error) and conflicts + 1 < MAX_CONFLICTS:
                    conflicts += 1
                elif is_lost(error, connection) and monotonic() < deadline:
                    losses += 1
                elif from_hook or not isinstance(error, psycopg.Error):
                    raise error from None
                elif isinstance(error, PoolTimeout):
                    raise await self._why_no_connection(error) from error
                else:
                    in_recovery = connection is not None and is_in_recovery(connection)
                    raise named_error(
                        error, self.where, self._component.name, in_recovery=in_recovery
                    ) from error
            # The first dead connection of a pool is rarely the only one: the next at once.
            pause = _FIRST_PAUSE * 2 ** max(conflicts, losses - self._pool.max_size)
            await asyncio.sleep(random.uniform(0, min(pause, _LONGEST_PAUSE)))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """One of the pool's, committing by itself; it goes back as it came."""
        self._owner.check()
        connection = await self._pool.getconn()
        autocommit = connection.autocommit
        try:
            if not autocommit:
                await connection.set_autocommit(True)
            yield connection
        finally:
            try:
                if not autocommit and not connection.closed:
                    await self._restore(connection)
            finally:
                await self._pool.putconn(connection)

    async def _restore(self, connection: Connection) -> None:
        if connection.info.transaction_status == TransactionStatus.IDLE:
            await connection.set_autocommit(False)
        else:
            # Whatever stopped us in mid-statement: the pool makes a new one for it.
            await connection.close()

    async def _why_no_connection(self, error: PoolTimeout) -> StoreUnavailableError:
        """A pool doesn't say why it has none: all in use, or none to be had."""
        pool, timeout = self._pool, self._pool.timeout
        conninfo, kwargs = pool.conninfo, pool.kwargs
        if isinstance(conninfo, str) and (kwargs is None or isinstance(kwargs, dict)):
            options = {**(kwargs or {}), "connect_timeout": _PROBE_SECONDS}
            try:
                connection = await psycopg.AsyncConnection.connect(conninfo, **options)
                await connection.close()
            except psycopg.Error as reason:
                named = named_error(reason, self.where, self._component.name)
                if isinstance(named, StoreUnavailableError):
                    return named
        return StoreBusyError(
            self.where,
            f"no connection became free within {timeout:g} s ({error}): "
            f"all {pool.max_size} are in use, make the pool larger",
        )
