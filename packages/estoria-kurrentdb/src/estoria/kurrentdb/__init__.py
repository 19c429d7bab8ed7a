"""The event store on KurrentDB."""

from estoria.kurrentdb._errors import (
    AccessDeniedError,
    LegacyTransactionError,
    NodeBehindError,
    StreamDeletedError,
)
from estoria.kurrentdb._event_store import KurrentDBEventStore

__all__ = [
    "AccessDeniedError",
    "KurrentDBEventStore",
    "LegacyTransactionError",
    "NodeBehindError",
    "StreamDeletedError",
]
