"""Saying in the library's terms what went wrong in SQLite."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from estoria.core import (
    EstoriaError,
    SchemaError,
    SchemaMissingError,
    StoreBusyError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

_PRIMARY_CODE = 0xFF


def named_error(error: sqlite3.Error, where: str) -> EstoriaError:
    """The error that this one means; codes are those of https://sqlite.org/rescode.html."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusyError(where, "locked by another writer for longer than the timeout")
    if code == sqlite3.SQLITE_FULL:
        return StoreFullError(where, "the disk, or the database's page limit, is full")
    if code == sqlite3.SQLITE_READONLY:
        return StoreReadOnlyError(where, "the file or its directory is read-only")
    if code == sqlite3.SQLITE_NOTADB:
        return SchemaError(f"{where} is not an SQLite database")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreUnavailableError(
            where, "the file can't be opened: is its directory there, and writable?"
        )
    if code == sqlite3.SQLITE_ERROR and "no such table: estoria" in str(error):
        return SchemaMissingError("estoria", where)
    return StoreUnavailableError(where, str(error))


@contextmanager
def named_errors(where: str) -> Iterator[None]:
    """Raise SQLite's errors under the library's names."""
    try:
        yield
    except sqlite3.Error as error:
        raise named_error(error, where) from error
