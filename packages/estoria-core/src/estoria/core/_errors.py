"""Everything that Estoria raises of its own.

::

    EstoriaError
    ├── InvalidEventError (ValueError)        an event that no store may keep
    ├── EventTooLargeError                    a payload over the store's limit
    ├── EventEncodingError                    a domain event that the codec can't carry
    ├── EventDecodingError                    a stored event that can't be read back
    ├── StreamNotFoundError                   the stream doesn't exist
    ├── StreamVersionMismatchError            somebody else appended first
    ├── DuplicateEventError                   an event id stands in the stream already
    ├── StreamChangedError                    truncated or deleted under a reader
    ├── EventIteratorClosedError              iterating after the end of its context
    ├── AggregateNotFoundError                never saved, or deleted
    ├── HistoryTruncatedError                 the first events are gone, no snapshot covers them
    ├── PendingEventsError                    unsaved events stand in the way
    ├── NothingToSaveError                    a new aggregate without events
    ├── AggregateBusyError                    saved or hydrated twice at the same time
    ├── EventsAppendedError                   durable, but a later step failed
    ├── TransactionRequiredError              the connection has no open transaction
    ├── TransactionAbortedError               roll back and run the transaction again
    ├── AbilityMissingError                   the store can't do that
    ├── UnknownSchemeError                    no installed package serves the URL
    ├── StoreMisusedError                     used from another event loop or process
    ├── StoreClosedError                      used after it was closed
    ├── SchemaError                           what lies in the database isn't what is needed
    │   ├── SchemaMissingError                setup() hasn't run
    │   └── SchemaVersionError                older or newer than this release
    └── StoreUnavailableError                 the backend can't be reached or can't answer
        ├── StoreBusyError                    locked or exhausted for longer than the timeout
        ├── StoreFullError                    no space left
        └── StoreReadOnlyError                writes are refused
"""

from uuid import UUID

from estoria.core._events import Expect
from estoria.core._ids import TypeID


class EstoriaError(Exception):
    """The root of all errors that this library defines; all of them can be pickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    error_class: type[EstoriaError], args: tuple[object, ...], facts: dict[str, object]
) -> EstoriaError:
    error = error_class.__new__(error_class, *args)
    error.__dict__.update(facts)
    return error


class InvalidEventError(EstoriaError, ValueError):
    """An event that no store may keep; nothing of its batch was written."""

    def __init__(self, stream_id: TypeID, index: int, fault: str) -> None:
        super().__init__(f"event {index} of the batch for {stream_id} is refused: {fault}")
        self.stream_id, self.index, self.fault = stream_id, index, fault


class EventTooLargeError(EstoriaError):
    """A payload over the store's limit; nothing of its batch was written. Sizes in bytes."""

    def __init__(self, stream_id: TypeID, event_id: UUID, size: int, limit: int) -> None:
        super().__init__(
            f"event {event_id} for {stream_id} takes {size} bytes, the limit is {limit}"
        )
        self.stream_id, self.event_id, self.size, self.limit = stream_id, event_id, size, limit


class EventEncodingError(EstoriaError):
    """A domain event (or a state) that the codec can't carry without altering it."""

    def __init__(self, type_name: str, fault: str) -> None:
        super().__init__(f"{type_name} can't be encoded: {fault}")
        self.type_name, self.fault = type_name, fault


class EventDecodingError(EstoriaError):
    """A stored event that can't be turned into a domain event."""

    def __init__(self, stream_id: TypeID, version: int, event_type: str, fault: str) -> None:
        super().__init__(f"{event_type!r} at version {version} of {stream_id}: {fault}")
        self.stream_id, self.version, self.event_type = stream_id, version, event_type
        self.fault = fault


class StreamNotFoundError(EstoriaError):
    """The stream doesn't exist: never written, or deleted."""

    def __init__(self, stream_id: TypeID) -> None:
        super().__init__(f"{stream_id} does not exist")
        self.stream_id = stream_id


class StreamVersionMismatchError(EstoriaError):
    """Somebody else appended first; nothing was written.

    `actual` is the stream's version, read after the refusal; 0 is a missing stream.
    """

    def __init__(self, stream_id: TypeID, expected: int | Expect, actual: int) -> None:
        found = f"is at version {actual}" if actual else "does not exist"
        wanted = f"version {expected}" if isinstance(expected, int) else str(expected)
        super().__init__(f"{stream_id} {found}, expected {wanted}")
        self.stream_id, self.expected, self.actual = stream_id, expected, actual


class DuplicateEventError(EstoriaError):
    """Some events of the batch stand in the stream already, but not the very batch."""

    def __init__(self, stream_id: TypeID, event_id: UUID) -> None:
        super().__init__(f"{stream_id} already holds event {event_id}, outside this very batch")
        self.stream_id, self.event_id = stream_id, event_id


class StreamChangedError(EstoriaError):
    """The stream was truncated or deleted behind what was read of it: read it anew."""

    def __init__(self, stream_id: TypeID, version: int) -> None:
        super().__init__(
            f"{stream_id} no longer continues after version {version}: "
            "it was truncated or deleted meanwhile, read it anew"
        )
        self.stream_id, self.version = stream_id, version


class EventIteratorClosedError(EstoriaError):
    """The iterator was closed; ask the store for a new one."""

    def __init__(self) -> None:
        super().__init__("this event iterator is closed; ask the store for a new one")


class AggregateNotFoundError(EstoriaError):
    """No such aggregate: it was never saved, or it was deleted."""

    def __init__(self, aggregate_id: TypeID) -> None:
        super().__init__(f"{aggregate_id} was never saved or is deleted")
        self.aggregate_id = aggregate_id


class HistoryTruncatedError(EstoriaError):
    """Events that the state needs were truncated, and no snapshot covers them.

    `needed` is the first version that the state lacks, `first_version` the first that
    is still stored.
    """

    def __init__(self, aggregate_id: TypeID, needed: int, first_version: int) -> None:
        super().__init__(
            f"{aggregate_id} starts at version {first_version}, "
            f"its state needs version {needed} or a snapshot that covers it"
        )
        self.aggregate_id, self.needed, self.first_version = aggregate_id, needed, first_version


class PendingEventsError(EstoriaError):
    """The aggregate has unsaved events, decided on the state that it has now."""

    def __init__(self, aggregate_id: TypeID, pending: int) -> None:
        super().__init__(f"{aggregate_id} has {pending} unsaved events: save or reload it first")
        self.aggregate_id, self.pending = aggregate_id, pending


class NothingToSaveError(EstoriaError):
    """A new aggregate without events: saved, it would still not exist."""

    def __init__(self, aggregate_id: TypeID) -> None:
        super().__init__(f"{aggregate_id} is new and has no events: append one before saving")
        self.aggregate_id = aggregate_id


class AggregateBusyError(EstoriaError):
    """One aggregate object is being saved or hydrated by two tasks at once."""

    def __init__(self, aggregate_id: TypeID) -> None:
        super().__init__(f"{aggregate_id} is being saved or hydrated: load one for each task")
        self.aggregate_id = aggregate_id


class EventsAppendedError(EstoriaError):
    """The events are durable; a step after that failed. Don't save again: reload."""

    def __init__(self, aggregate_id: TypeID, version: int, fault: str) -> None:
        super().__init__(f"{aggregate_id} is durable at version {version}, but {fault}: reload it")
        self.aggregate_id, self.version, self.fault = aggregate_id, version, fault


class TransactionRequiredError(EstoriaError):
    """`within` was given a connection that has no transaction open."""

    def __init__(self, how: str) -> None:
        super().__init__(f"the connection has no open transaction: {how}")


class TransactionAbortedError(EstoriaError):
    """The caller's transaction can't go on: roll it back and run it again."""

    def __init__(self, fault: str) -> None:
        super().__init__(f"roll the transaction back and run it again: {fault}")
        self.fault = fault


class AbilityMissingError(EstoriaError):
    """The store lacks an optional ability that the call needs."""

    def __init__(self, store: object, ability: str) -> None:
        super().__init__(f"{type(store).__name__} is no {ability}")
        self.ability = ability


class UnknownSchemeError(EstoriaError, ValueError):
    """No installed package serves URLs of this scheme."""

    def __init__(self, scheme: str, advice: str) -> None:
        super().__init__(f"no installed package serves {scheme!r} URLs: {advice}")
        self.scheme = scheme


class StoreMisusedError(EstoriaError):
    """A store was used from a second event loop or in a forked child."""

    def __init__(self, fault: str) -> None:
        super().__init__(f"{fault}: open a store of its own there")


class StoreClosedError(EstoriaError):
    """The store, or what it was built on, is closed."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is closed")


class SchemaError(EstoriaError):
    """What lies in the database is not what this store needs."""


class SchemaMissingError(SchemaError):
    """The schema was never created."""

    def __init__(self, component: str, where: str) -> None:
        super().__init__(f"{where} has no {component} schema: await store.setup() once")
        self.component = component


class SchemaVersionError(SchemaError):
    """The schema was made by an older or a newer release."""

    def __init__(self, component: str, where: str, found: int, known: int) -> None:
        advice = "await store.setup() migrates it" if found < known else "upgrade this package"
        super().__init__(
            f"the {component} schema of {where} has version {found}, "
            f"this release knows {known}: {advice}"
        )
        self.component, self.found, self.known = component, found, known


class StoreUnavailableError(EstoriaError):
    """The backend can't be reached, or can't answer."""

    def __init__(self, where: str, fault: str) -> None:
        super().__init__(f"{where}: {fault}")
        self.where, self.fault = where, fault


class StoreBusyError(StoreUnavailableError):
    """Locked, or out of connections, for longer than the timeout."""


class StoreFullError(StoreUnavailableError):
    """The backend has no space left; what was acknowledged is safe."""


class StoreReadOnlyError(StoreUnavailableError):
    """The backend refuses writes."""
