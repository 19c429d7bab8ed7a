"""Saying in the library's terms what went wrong in PostgreSQL.

::

    StoreUnavailableError
    ├── PermissionMissingError       the role lacks a right
    └── StoreReadOnlyError
        └── ReadOnlyReplicaError     only the primary can do that
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from estoria.core import (
    EstoriaError,
    SchemaError,
    SchemaMissingError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    TransactionAbortedError,
)

_BUSY = {
    "53300": "the server has no connection left: raise its max_connections, or pool fewer",
    "55P03": "a lock was not to be had within lock_timeout",
    "57014": "the server cancelled the statement, as statement_timeout says",
}
_FULL = ("53100", "53200")
# A broken rule among them: the ids were looked for before somebody else committed them.
_ABORTED = ("40001", "40P01", "25P02", "23505")
_LOST = ("57P01", "57P02", "57P03", "57P05", "25P03", "08")


class ReadOnlyReplicaError(StoreReadOnlyError):
    """The server is a replica: connect to the primary for this."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(where, f"the server is a replica, {what} needs the primary")
        self.what = what


class PermissionMissingError(StoreUnavailableError):
    """The role that the pool connects as lacks a right; the README lists what each needs."""


def is_lost(error: BaseException, connection: psycopg.AsyncConnection[object] | None) -> bool:
    """Whether the connection is gone, and with it the answer."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    if (error.sqlstate or "").startswith(_LOST):
        return True
    return connection is not None and connection.closed


def is_conflict(error: BaseException) -> bool:
    """Whether the transaction lost against another one, and may run again."""
    return isinstance(error, psycopg.Error) and error.sqlstate in ("40001", "40P01")


def named_error(
    error: psycopg.Error, where: str, component: str, *, in_recovery: bool = False
) -> EstoriaError:
    """The error that this one means; codes are those of PostgreSQL's appendix A.

    Only the server's main sentence goes into it: the details may quote what was written.
    """
    code = error.sqlstate or ""
    sentence = error.diag.message_primary or str(error) or type(error).__name__
    if isinstance(error, PoolClosed):
        return StoreClosedError(where)
    if isinstance(error, PoolTimeout | TooManyRequests):
        return StoreBusyError(
            where, f"{sentence}: all of the pool's connections are in use, make it larger"
        )
    if code in ("42P01", "3F000"):
        return SchemaMissingError(component, where)
    if code in ("42703", "42883", "42804", "42P07", "42809"):
        return SchemaError(f"{where} holds something else under the names of Estoria: {sentence}")
    if code == "42501":
        return PermissionMissingError(where, f"{sentence}: grant it, the README lists the rights")
    if code == "25006" and in_recovery:
        return ReadOnlyReplicaError(where, "writing")
    if code == "25006":
        return StoreReadOnlyError(where, f"{sentence}: its default_transaction_read_only is on")
    if code in _BUSY:
        return StoreBusyError(where, _BUSY[code])
    if code in _FULL:
        return StoreFullError(where, sentence)
    if is_conflict(error):
        return StoreBusyError(where, f"{sentence}, again and again")
    return StoreUnavailableError(where, sentence)


def is_in_recovery(connection: psycopg.AsyncConnection[object]) -> bool:
    """Whether the server said of itself, without being asked, that it is a replica."""
    return connection.info.parameter_status("in_hot_standby") == "on"


@contextmanager
def named_errors_inside(connection: psycopg.AsyncConnection[object], where: str) -> Iterator[None]:
    """Raise the driver's errors under the library's names, inside the caller's transaction."""
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate in _ABORTED:
            fault = error.diag.message_primary or "another one came first"
            raise TransactionAbortedError(fault) from error
        in_recovery = is_in_recovery(connection)
        raise named_error(error, where, "events", in_recovery=in_recovery) from error
