"""Sending commands: within a time, under the library's errors, over whatever client."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from estoria.core.backends import Owner
from estoria.redis._errors import DRIVER_ERRORS, is_exhausted, may_have_died_idle, named_error
from estoria.redis._schema import Script
from redis.asyncio import Redis, RedisCluster
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError

Client = Redis | RedisCluster
"""A client of `redis.asyncio`: of one server, of a sentinel's master, or of a cluster."""

_PAUSE = 0.001, 0.005
"""Seconds between two looks for a free connection, at least and at most."""

_URL_FORM = (
    "write a Redis URL as redis://user:password@host:port/database, or rediss:// for TLS, special "
    "characters percent-encoded; its query may hold what redis-py takes"
)


class Connections:
    """The client's connections, one command each time.

    Every command that goes through here may be sent twice: a connection that died while it
    lay in the pool is replaced once, whatever the client does by itself.
    """

    def __init__(self, client: Client, name: str, timeout: float | None) -> None:
        """`timeout` is in seconds, for a call in all; None waits for ever."""
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout!r}, not a number of seconds above 0")
        self._client = client
        self._owner = Owner(f"this {name}")
        self._timeout = timeout
        self.where = _where(client)

    async def run(self, key: str, *command: bytes | str | int) -> Any:
        """What the server answers, texts as bytes; raises the library's errors."""
        self._owner.check()
        exhausted: Exception | None = None
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    try:
                        return await self._send(*command)
                    except DRIVER_ERRORS as error:
                        exhausted = error if is_exhausted(error) else None
                        if exhausted is None:
                            raise
                    # The driver's pool doesn't let anybody wait.
                    await asyncio.sleep(random.uniform(*_PAUSE))
        except DRIVER_ERRORS as error:
            fault = exhausted or error
            raise named_error(fault, self.where, key, self._timeout) from error

    async def run_script(self, script: Script, key: str, *arguments: bytes | int) -> Any:
        """What the script on this key answers; the server is sent its text if it has it not."""
        try:
            return await self.run(key, "EVALSHA", script.sha, 1, key, *arguments)
        except Exception as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        return await self.run(key, "EVAL", script.text, 1, key, *arguments)

    async def _send(self, *command: bytes | str | int) -> Any:
        try:
            return await self._client.execute_command(*command, **{NEVER_DECODE: True})
        except DRIVER_ERRORS as error:
            if not may_have_died_idle(error):
                raise
        return await self._client.execute_command(*command, **{NEVER_DECODE: True})


@asynccontextmanager
async def open_client(url: str) -> AsyncIterator[Redis]:
    """A client of the server at this URL; raises `ValueError` for a URL that can't be read."""
    try:
        client: Redis = Redis.from_url(url)
    except (ValueError, TypeError, AttributeError):
        # Not from the error: it may quote a part of the password.
        raise ValueError(_URL_FORM) from None
    try:
        yield client
    finally:
        await client.aclose()


def _where(client: Client) -> str:
    pool = getattr(client, "connection_pool", None)
    facts = getattr(pool, "connection_kwargs", {})
    if "host" in facts:
        return f"Redis at {facts['host']}:{facts.get('port', 6379)}"
    if "path" in facts:
        return f"Redis at {facts['path']}"
    return "Redis"
