"""Working inside a transaction that the caller has open."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from estoria.core import (
    Appended,
    Event,
    Expect,
    NewEvent,
    StoreBusyError,
    StreamInfo,
    StreamIterator,
    StreamVersionMismatchError,
    TransactionAbortedError,
    TransactionRequiredError,
    TypeID,
)
from estoria.core.backends import check_events, check_expectation
from estoria.sqlite import _schema, _streams
from estoria.sqlite._database import MEMORY, SQLiteDatabase
from estoria.sqlite._errors import named_error


class SQLiteTransaction:
    """Appends to and reads streams on the caller's connection; see `SQLiteEventStore.within`."""

    def __init__(
        self, connection: sqlite3.Connection, database: SQLiteDatabase, max_event_bytes: int
    ) -> None:
        if not isinstance(connection, sqlite3.Connection):
            raise TypeError(
                f"connection is a {type(connection).__name__}, not a sqlite3.Connection"
            )
        self._connection = connection
        self._where = database.where
        self._max_event_bytes = max_event_bytes
        self._check_file(database)

    async def append_stream(
        self,
        stream_id: TypeID,
        events: Sequence[NewEvent],
        *,
        expect: Expect | int = Expect.ANY,
    ) -> Appended:
        """See `StreamWriter.append_stream`."""
        expected = check_expectation(expect)
        batch = check_events(stream_id, events, self._max_event_bytes)
        if not batch:
            return Appended()
        with self._usable():
            appended = self._append(stream_id, batch, expected)
            if appended is None:
                appended, version = _streams.happened(self._connection, stream_id, batch, expected)
            if appended is None:
                raise StreamVersionMismatchError(stream_id, expected, version)
            return appended

    def read_stream(
        self,
        stream_id: TypeID,
        *,
        after_version: int = 0,
        reverse: bool = False,
        before_version: int | None = None,
        count: int | None = None,
    ) -> StreamIterator:
        """See `StreamWriter.read_stream`."""

        async def fetch(
            first: int, last: int, limit: int
        ) -> tuple[StreamInfo | None, Sequence[Event]]:
            with self._usable():
                return _streams.read(
                    self._connection, stream_id, first, last, limit, reverse=reverse
                )

        return StreamIterator(
            fetch,
            stream_id,
            after_version=after_version,
            reverse=reverse,
            before_version=before_version,
            count=count,
        )

    def _append(
        self, stream_id: TypeID, batch: list[NewEvent], expect: Expect | int
    ) -> Appended | None:
        now = _streams.microseconds_now()
        self._connection.execute("SAVEPOINT estoria_append")
        try:
            return _streams.append(self._connection, stream_id, batch, expect, now)
        except BaseException as error:
            self._connection.execute("ROLLBACK TO estoria_append")
            if isinstance(error, _streams.IdsStandError):
                return None
            raise
        finally:
            self._connection.execute("RELEASE estoria_append")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """With a transaction open, texts as `str`, and errors under the library's names."""
        if not self._connection.in_transaction:
            raise TransactionRequiredError('execute "BEGIN IMMEDIATE" on it first')
        try:
            with _texts_as_str(self._connection):
                _schema.check(self._connection, _schema.EVENTS, self._where)
                yield
        except sqlite3.Error as error:
            named = named_error(error, self._where)
            if isinstance(named, StoreBusyError):
                raise TransactionAbortedError("another writer came first") from error
            raise named from error

    def _check_file(self, database: SQLiteDatabase) -> None:
        if database.path == MEMORY:
            raise ValueError("nobody else can connect to a store in memory")
        cursor = self._connection.cursor()
        cursor.row_factory = None
        with _texts_as_str(self._connection):
            files = {name: file for _, name, file in cursor.execute("PRAGMA database_list")}
        main = files.get("main")
        if not main or not os.path.samefile(main, database.path):
            raise ValueError(f"the connection is to {main or 'memory'}, not to {database.path}")


@contextmanager
def _texts_as_str(connection: sqlite3.Connection) -> Iterator[None]:
    """Read texts as `str`, and leave the connection as its owner likes it."""
    text_factory, connection.text_factory = connection.text_factory, str
    try:
        yield
    finally:
        connection.text_factory = text_factory
