"""One SQLite file, and the threads that work on it."""

import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import monotonic, sleep
from urllib.parse import parse_qsl, unquote, urlsplit

from estoria.core import StoreClosedError, StoreUnavailableError
from estoria.core.backends import Owner
from estoria.sqlite._worker import Operation, T, Worker

MEMORY = ":memory:"

_OLDEST_SQLITE = (3, 37, 0)
_BUSY_TIMEOUT = 10.0
_LONGEST_TIMEOUT = 1_000_000
_READERS = 4
_TRUTH = {"true": True, "false": False}
_URL_FORM = (
    "write an SQLite URL as sqlite:///relative/path, sqlite:////absolute/path or "
    "sqlite:///:memory:, with no options but busy_timeout=SECONDS, durable=true or false, "
    "readers=NUMBER"
)
_RETRY_PAUSE = 0.01


class SQLiteDatabase:
    """An open SQLite database, shared by the stores that are built on it.

    A writer thread and a few reader threads, each with its own connection; ``:memory:`` has
    one thread for both. Writers wait for each other, within this process in a queue and
    between processes for SQLite's lock; readers wait for nobody, and nobody for them.
    """

    def __init__(self, path: str, *, busy_timeout: float, durable: bool, readers: int) -> None:
        """Use `open`, which also closes it."""
        # Connections are opened when they are needed, whatever the working directory is then.
        self.path = path if path == MEMORY else os.path.abspath(path)
        self.where = "the SQLite database in memory" if self.path == MEMORY else self.path
        self._busy_timeout = busy_timeout
        self._durable = durable
        self._owner = Owner(self.where)
        self._closed = False
        self._writer = Worker(self._open_connection, self.where, 1)
        self._reader = self._writer
        if self.path != MEMORY:
            self._reader = Worker(self._open_connection, self.where, readers)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        busy_timeout: float = _BUSY_TIMEOUT,
        durable: bool = True,
        readers: int = _READERS,
    ) -> AsyncIterator["SQLiteDatabase"]:
        """The database in this file, which is created if need be; ``:memory:`` for none.

        `busy_timeout` is how many seconds a writer waits for other processes before
        `StoreBusyError`. With `durable`, the default, an acknowledged append outlives a
        power cut; without it only a crash of the process. `readers` is the number of
        threads that read at once.

        Raises `StoreUnavailableError` for a file that can't be opened, `StoreReadOnlyError`
        for one that can't be written and `SchemaError` for one that is no database.
        """
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreUnavailableError(
                os.fspath(path), f"SQLite {sqlite3.sqlite_version} is older than 3.37"
            )
        if not 0 <= busy_timeout <= _LONGEST_TIMEOUT:
            fault = f"not a number of seconds from 0 to {_LONGEST_TIMEOUT}"
            raise ValueError(f"busy_timeout is {busy_timeout!r}, {fault}")
        if readers < 1:
            raise ValueError(f"readers is {readers!r}, not a number from 1 on")
        database = cls(os.fspath(path), busy_timeout=busy_timeout, durable=durable, readers=readers)
        try:
            await database.write(lambda _: None)
            yield database
        finally:
            await database._close()

    @classmethod
    def open_url(cls, url: str) -> AbstractAsyncContextManager["SQLiteDatabase"]:
        """The database of ``sqlite:///path?busy_timeout=5&durable=false&readers=2``.

        Three slashes before a relative path, four before an absolute one; ``sqlite://`` alone
        and ``sqlite:///:memory:`` are a database in memory. The query holds the options of
        `open`. Raises `ValueError` for anything else.
        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        known = options.keys() <= {"busy_timeout", "durable", "readers"}
        if parts.netloc or parts.path[:1] not in ("", "/") or not known:
            raise ValueError(_URL_FORM)
        try:
            return cls.open(
                unquote(parts.path[1:]) or MEMORY,
                busy_timeout=float(options.get("busy_timeout", _BUSY_TIMEOUT)),
                durable=_TRUTH[options.get("durable", "true")],
                readers=int(options.get("readers", _READERS)),
            )
        except (KeyError, ValueError) as error:
            raise ValueError(_URL_FORM) from error

    def read(self, operation: Operation[T]) -> Awaitable[T]:
        """Run an operation in a read transaction: all that it sees is of one moment."""
        self._check()
        return self._reader.run(operation, writes=False)

    def write(self, operation: Operation[T]) -> Awaitable[T]:
        """Run an operation in a write transaction, which it may share with others.

        It must raise before it changes anything, or not at all; else it is rolled back and
        run again by itself.
        """
        self._check()
        return self._writer.run(operation, writes=True)

    def _check(self) -> None:
        self._owner.check()
        if self._closed:
            raise StoreClosedError(self.where)

    async def _close(self) -> None:
        self._closed = True
        await self._reader.stop()
        if self._writer is not self._reader:
            await self._writer.stop()

    def _open_connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout, isolation_level=None, cached_statements=64
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        # On macOS a plain fsync doesn't reach the disk; elsewhere this changes nothing.
        connection.execute(f"PRAGMA fullfsync = {int(self._durable)}")
        connection.execute(f"PRAGMA checkpoint_fullfsync = {int(self._durable)}")
        if self.path != MEMORY:
            _patiently(lambda: _use_wal(connection), self._busy_timeout)


def _use_wal(connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = WAL").fetchone()


def _patiently(step: Callable[[], None], timeout: float) -> None:
    """Repeat a step that SQLite refuses at once where others work, whatever its timeout."""
    deadline = monotonic() + timeout
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or monotonic() > deadline:
                raise
            sleep(_RETRY_PAUSE)
