"""Saying in the library's terms what went wrong in Valkey."""

import re

from estoria.core import (
    EstoriaError,
    SchemaError,
    StoreBusyError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from valkey import exceptions

DRIVER_ERRORS = (exceptions.ValkeyError, exceptions.ValkeyClusterException, OSError, TimeoutError)
"""Everything that a call of the driver raises when the call itself was right."""

_BUSY = ("BUSY", "LOADING", "TRYAGAIN")
_IN_SCRIPT = re.compile(r": -?([A-Z]{3,}) ")
"""What a command in a script met, as servers before 7.0 quote it in an error of their own."""

_EXHAUSTED = ("Too many connections", "No connection available")
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM")


def is_exhausted(error: BaseException | None) -> bool:
    """Whether all of the pool's connections are in use; releases have no one class for it."""
    return isinstance(error, exceptions.ConnectionError) and str(error).startswith(_EXHAUSTED)


def may_have_died_idle(error: Exception) -> bool:
    """Whether the connection is gone, as one is that lay in the pool while the server restarted."""
    refused = exceptions.AuthenticationError, exceptions.AuthorizationError
    return (
        isinstance(error, exceptions.ConnectionError)
        and not isinstance(error, refused)
        and not is_exhausted(error)
    )


def named_error(error: Exception, where: str, key: str, timeout: float | None) -> EstoriaError:
    """The error that this one means.

    Of what the server says only the code goes into it: the rest may quote what was written.
    """
    code = _code(error)
    if isinstance(error, exceptions.ReadOnlyError) or code == "READONLY":
        return StoreReadOnlyError(where, "it is a read-only replica: connect to its master")
    if code == "OOM" or isinstance(error, getattr(exceptions, "OutOfMemoryError", ())):
        return StoreFullError(where, "maxmemory is reached, and its policy evicts nothing")
    if code == "WRONGTYPE":
        return SchemaError(f"{where} holds something else under {key}: choose another prefix")
    if isinstance(error, exceptions.AuthenticationError) or code in _DENIED:
        return StoreUnavailableError(where, "it refuses the user or the password")
    if is_exhausted(error):
        return StoreBusyError(where, "all of the pool's connections are in use, make it larger")
    if isinstance(error, exceptions.BusyLoadingError) or code in _BUSY:
        return StoreBusyError(where, "it is busy with a script, or loads its data")
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return StoreUnavailableError(where, f"no answer within {timeout} s")
    if isinstance(error, exceptions.ResponseError):
        return StoreUnavailableError(where, f"it refuses the command: {code}")
    return StoreUnavailableError(where, "it can't be reached")


def _code(error: Exception) -> str:
    if not isinstance(error, exceptions.ResponseError):
        return ""
    inside = _IN_SCRIPT.search(str(error))
    return inside[1] if inside else str(error).split(" ", 1)[0]
