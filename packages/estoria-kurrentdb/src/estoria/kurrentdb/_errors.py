"""Saying in the library's terms what went wrong in KurrentDB.

::

    EstoriaError
    ├── StreamDeletedError           somebody deleted the stream in the server
    ├── SchemaError
    │   └── LegacyTransactionError   events that share one commit position
    └── StoreUnavailableError
        ├── AccessDeniedError        the user lacks a right, or isn't known
        └── NodeBehindError          the node has not got yet what was read before
"""

import grpc
from kurrentdbclient import exceptions as driver

from estoria.core import (
    EstoriaError,
    SchemaError,
    StoreBusyError,
    StoreUnavailableError,
    TypeID,
)

ANSWERS = (
    driver.WrongCurrentVersionError,
    driver.NotFoundError,
    driver.StreamIsDeletedError,
    driver.MaximumAppendSizeExceededError,
    driver.InvalidCommitPositionError,
)
"""What the server answers to a request that it understood: for the caller to make sense of."""

DRIVER_ERRORS = (
    driver.KurrentDBClientError,
    driver.ProgrammingError,
    grpc.RpcError,
    grpc.aio.UsageError,
)

_PASSING = (
    driver.ServiceUnavailableError,
    driver.DeadlineExceededError,
    driver.NodeIsNotLeaderError,
    driver.DiscoveryFailedError,
    driver.AbortedByServerError,
    driver.CancelledError,
    driver.ExceptionThrownByHandlerError,
    driver.InternalError,
)


class StreamDeletedError(EstoriaError):
    """Somebody deleted the stream in the server, softly or for good.

    This library deletes no streams there, since their versions could not be retired. A
    tombstoned name can never be written again; a soft-deleted one only by other clients.
    """

    def __init__(self, stream_id: TypeID, *, tombstoned: bool) -> None:
        how = "tombstoned" if tombstoned else "soft-deleted"
        super().__init__(f"{stream_id} was {how} in KurrentDB: go on with another id")
        self.stream_id, self.tombstoned = stream_id, tombstoned


class LegacyTransactionError(SchemaError):
    """Records of a transaction of old clients: their positions tell no order."""

    def __init__(self, stream: str, position: int) -> None:
        super().__init__(
            f"the record of {stream!r} at commit position {position} belongs to a legacy "
            "transaction, whose events share one position: copy them to a new stream"
        )
        self.stream, self.position = stream, position


class AccessDeniedError(StoreUnavailableError):
    """The user of the URL isn't known, or lacks a right; the README lists what is needed."""


class NodeBehindError(StoreUnavailableError):
    """The node that answers now lacks what another one had: the read can't go on there."""

    def __init__(self, where: str, frontier: int, head: int) -> None:
        super().__init__(
            where,
            f"the node ends at position {head}, the read goes to {frontier}: read again, "
            "from the last position that was seen",
        )
        self.frontier, self.head = frontier, head


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    return isinstance(error, _PASSING) and not isinstance(
        error, driver.SSLError | driver.CancelledByClientError
    )


def named_error(error: BaseException, where: str) -> EstoriaError:
    """The error that this one means."""
    sentence = str(error).strip() or type(error).__name__
    if isinstance(error, driver.AccessDeniedError | driver.UnauthenticatedError):
        return AccessDeniedError(where, f"access denied: {sentence}")
    if isinstance(error, driver.ConsumerTooSlowError):
        return StoreBusyError(where, f"events were read too slowly: {sentence}")
    if isinstance(error, driver.DeadlineExceededError):
        return StoreBusyError(where, f"no answer within the deadline: {sentence}")
    if isinstance(error, driver.SSLError):
        return StoreUnavailableError(where, f"TLS failed, see tlsCaFile: {sentence}")
    return StoreUnavailableError(where, sentence)
