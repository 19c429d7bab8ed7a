"""Event sourcing: values, protocols and the life of aggregates.

Backends are packages of their own; `connect` finds those that are installed.
"""

from estoria.core._aggregate import Aggregate, PendingEvent
from estoria.core._aggregate_cache import AggregateCache, CachedAggregate
from estoria.core._aggregate_store import AggregateStore, Command, EventSourcedStore
from estoria.core._cached_store import CachedStore
from estoria.core._checkpoint_store import Checkpoint, CheckpointStore, ProjectionID
from estoria.core._codecs import EventCodec, JSONEventCodec, JSONStateCodec, StateCodec
from estoria.core._connect import connect
from estoria.core._errors import (
    AbilityMissingError,
    AggregateBusyError,
    AggregateNotFoundError,
    DuplicateEventError,
    EstoriaError,
    EventDecodingError,
    EventEncodingError,
    EventIteratorClosedError,
    EventsAppendedError,
    EventTooLargeError,
    HistoryTruncatedError,
    InvalidEventError,
    NothingToSaveError,
    PendingEventsError,
    SchemaError,
    SchemaMissingError,
    SchemaVersionError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreMisusedError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StreamChangedError,
    StreamNotFoundError,
    StreamVersionMismatchError,
    TransactionAbortedError,
    TransactionRequiredError,
    UnknownSchemeError,
)
from estoria.core._event_iterator import EventIterator, StreamIterator
from estoria.core._event_store import (
    EventStore,
    GlobalReader,
    StreamDeleter,
    StreamLister,
    StreamTruncator,
    StreamWriter,
    TransactionSharing,
)
from estoria.core._event_stream_snapshots import EventStreamSnapshotStore
from estoria.core._events import Appended, Event, Expect, NewEvent, StreamInfo
from estoria.core._hooked_store import Hook, HookedStore
from estoria.core._ids import TypeID, uuid7
from estoria.core._snapshot_store import Snapshot, SnapshotStore
from estoria.core._snapshotting_store import EveryNEvents, SnapshotPolicy, SnapshottingStore

__all__ = [
    "AbilityMissingError",
    "Aggregate",
    "AggregateBusyError",
    "AggregateCache",
    "AggregateNotFoundError",
    "AggregateStore",
    "Appended",
    "CachedAggregate",
    "CachedStore",
    "Checkpoint",
    "CheckpointStore",
    "Command",
    "DuplicateEventError",
    "EstoriaError",
    "Event",
    "EventCodec",
    "EventDecodingError",
    "EventEncodingError",
    "EventIterator",
    "EventIteratorClosedError",
    "EventSourcedStore",
    "EventStore",
    "EventStreamSnapshotStore",
    "EventTooLargeError",
    "EventsAppendedError",
    "EveryNEvents",
    "Expect",
    "GlobalReader",
    "HistoryTruncatedError",
    "Hook",
    "HookedStore",
    "InvalidEventError",
    "JSONEventCodec",
    "JSONStateCodec",
    "NewEvent",
    "NothingToSaveError",
    "PendingEvent",
    "PendingEventsError",
    "ProjectionID",
    "SchemaError",
    "SchemaMissingError",
    "SchemaVersionError",
    "Snapshot",
    "SnapshotPolicy",
    "SnapshotStore",
    "SnapshottingStore",
    "StateCodec",
    "StoreBusyError",
    "StoreClosedError",
    "StoreFullError",
    "StoreMisusedError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "StreamChangedError",
    "StreamDeleter",
    "StreamInfo",
    "StreamIterator",
    "StreamLister",
    "StreamNotFoundError",
    "StreamTruncator",
    "StreamVersionMismatchError",
    "StreamWriter",
    "TransactionAbortedError",
    "TransactionRequiredError",
    "TransactionSharing",
    "TypeID",
    "UnknownSchemeError",
    "connect",
    "uuid7",
]
