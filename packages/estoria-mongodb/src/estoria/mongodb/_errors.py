"""Saying in the library's terms what went wrong in MongoDB.

::

    EstoriaError
    ├── BatchTooLargeError           a batch that this server can't write at once
    └── StoreUnavailableError
        ├── PermissionMissingError   the user lacks a right, or isn't let in
        └── ReplicaSetRequiredError  a standalone server, where transactions are needed
"""

from typing import Any

from pymongo import errors

from estoria.core import (
    EstoriaError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreMisusedError,
    StoreUnavailableError,
    TypeID,
)

DUPLICATE_KEY = 11000
TOO_LARGE_FOR_CACHE = 388
MAX_TIME_EXPIRED = 50

_PERMISSION = (13, 18, 8000)
_FULL = (14031,)
_NO_TRANSACTIONS = (20, 263)
# Elections, shutdowns, dropped connections, write conflicts, and time that was up.
_PASSING = (
    *(6, 7, 50, 64, 89, 91, 100, 112, 133, 134, 189, 202, 246, 251, 262, 290, 9001),
    *(10058, 10107, 11600, 11602, 13435, 13436),
)
_TRANSIENT = "TransientTransactionError"
_UNKNOWN_COMMIT = "UnknownTransactionCommitResult"


class PermissionMissingError(StoreUnavailableError):
    """The user lacks a right, or is not let in; the README lists what each needs."""


class ReplicaSetRequiredError(StoreUnavailableError):
    """The server is a standalone one, and what was asked needs transactions."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(
            where, f"{what} needs transactions: start mongod with --replSet, one node will do"
        )
        self.what = what


class BatchTooLargeError(EstoriaError):
    """A batch that this server can't write at once; nothing was written.

    `size` is in bytes, as is `limit`: of one document, where the server has no transactions; None
    where the batch is more than its cache takes of one transaction.
    """

    def __init__(self, stream_id: TypeID, size: int, limit: int | None) -> None:
        why = f"over {limit} it needs transactions, which a standalone server has not"
        if limit is None:
            why = "that is more than the server's cache takes of one transaction: split it"
        super().__init__(f"a batch for {stream_id} takes {size} bytes; {why}")
        self.stream_id, self.size, self.limit = stream_id, size, limit


class OutcomeUnknownError(Exception):
    """Inside the package: it may have happened or not; its cause is worth another attempt."""


def is_passing(error: BaseException) -> bool:
    """Whether it may be over at the next attempt: an election, a lost connection, a conflict."""
    if isinstance(error, OutcomeUnknownError):
        return True
    if isinstance(error, errors.ConnectionFailure | errors.WaitQueueTimeoutError):
        # Whoever isn't let in gets an OperationFailure; some drivers wrap it.
        return not isinstance(error.__cause__, errors.OperationFailure)
    if isinstance(error, errors.OperationFailure):
        return (
            error.code in _PASSING
            or error.has_error_label(_TRANSIENT)
            or error.has_error_label(_UNKNOWN_COMMIT)
        )
    return False


def is_unknown_commit(error: errors.PyMongoError) -> bool:
    """Whether the commit may have happened or not, and may be asked for again."""
    return error.has_error_label(_UNKNOWN_COMMIT)


def is_aborted(error: errors.PyMongoError) -> bool:
    """Whether a transaction can't go on, and may be run again."""
    code = error.code if isinstance(error, errors.OperationFailure) else None
    # 251: the server has ended the transaction already; 24, 112: it lost against another.
    return error.has_error_label(_TRANSIENT) or code in (24, 112, 251, 225, DUPLICATE_KEY)


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer to a command, unless the server couldn't promise that it lasts.

    Raises `OutcomeUnknownError` then.
    """
    concern = answer.get("writeConcernError")
    if concern is not None:
        raise OutcomeUnknownError(concern.get("errmsg", "no majority has it yet"))
    return answer


def refusal_error(refusal: dict[str, Any]) -> errors.OperationFailure:
    """A document's refusal as an error, without its message: that may quote what was written."""
    return errors.OperationFailure(f"document refused, code {refusal['code']}", refusal["code"])


def named_error(error: BaseException, where: str) -> EstoriaError:
    """The error that this one means; codes are those of MongoDB's ``error_codes.yml``."""
    if isinstance(error, EstoriaError):
        return error
    code = error.code if isinstance(error, errors.OperationFailure) else None
    cause = error.__cause__
    if code is None and isinstance(cause, errors.OperationFailure):
        code = cause.code
    details = getattr(error, "details", None) or {}
    name = details.get("codeName") or type(error).__name__
    if isinstance(error, errors.InvalidOperation):
        return _misused(str(error), where)
    if code in _PERMISSION:
        return PermissionMissingError(
            where, f"{name}: check the user, its password and its rights (the README lists them)"
        )
    if code in _NO_TRANSACTIONS and "ransaction" in str(error):
        return ReplicaSetRequiredError(where, "this")
    if code in _FULL:
        return StoreFullError(where, "the server has no disk space left")
    if isinstance(error, errors.WaitQueueTimeoutError):
        return StoreBusyError(where, "all of the client's connections are in use: raise its pool")
    if code == DUPLICATE_KEY:
        return StoreUnavailableError(where, "a key that should be free is taken")
    if code == 112:
        return StoreBusyError(where, "write conflicts, again and again")
    if isinstance(error, errors.ServerSelectionTimeoutError):
        return StoreUnavailableError(where, "no primary was to be found within the timeout")
    return StoreUnavailableError(where, name)


def _misused(sentence: str, where: str) -> EstoriaError:
    if "after close" in sentence or "closed" in sentence:
        return StoreClosedError(where)
    if "loop" in sentence:
        return StoreMisusedError(f"the client of {where} belongs to another event loop")
    return StoreUnavailableError(where, sentence)
