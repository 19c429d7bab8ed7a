"""Which class an event type means, and how events change a state."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from estoria.core._codecs import EventCodec
from estoria.core._errors import EventDecodingError, EventEncodingError
from estoria.core._events import Event
from estoria.core._json import decoding_fault
from estoria.core._text import check_name

S = TypeVar("S")

Evolve = Callable[[S, Any], S]
"""``evolve(state, event)``: the next state. Total: a persisted event is a fact."""


class _Reader(NamedTuple):
    decode: Callable[[bytes], Any]
    evolve: Evolve[Any]


class EventTypes(Generic[S]):
    """The event classes of one aggregate type: their names, payloads and effects.

    `events` is either classes, each stored under its ``event_type`` attribute or else under
    its own name, or a mapping of names to classes. In a mapping a class may come under
    several names: the first is written, all are read.
    """

    def __init__(
        self,
        events: Iterable[type] | Mapping[str, type],
        codec: EventCodec,
        evolve: Evolve[S] | None,
    ) -> None:
        """Raises `ValueError` for a name that comes twice or can be no type name, and
        `TypeError` for a class that the codec can't read or that says not how it applies.
        """
        self._codec = codec
        self._names: dict[type, str] = {}
        self._readers: dict[str, _Reader] = {}
        for name, event_class in _named(events):
            check_name(name, "event type")
            if name in self._readers:
                raise ValueError(f"event type {name!r} comes twice")
            self._names.setdefault(event_class, name)
            apply = evolve or _own_apply(event_class)
            self._readers[name] = _Reader(codec.decoder(event_class), apply)
        if not self._names:
            raise ValueError("events is empty: name at least one event class")

    def name_of(self, event: object) -> str:
        """The type that this event is stored under; raises `EventEncodingError` if none is."""
        try:
            return self._names[type(event)]
        except KeyError:
            raise EventEncodingError(
                type(event).__name__, "its class is not among the store's events"
            ) from None

    def encode(self, event: object) -> tuple[bytes, str]:
        """The event's payload and content type."""
        return self._codec.encode(event), self._codec.content_type

    def apply(self, state: S, event: object) -> S:
        """The state after this domain event."""
        return self._readers[self.name_of(event)].evolve(state, event)  # type: ignore[no-any-return]  # readers of different event classes share a table

    def fold(self, state: S, events: Iterable[Event]) -> S:
        """The state after these stored events.

        Raises `EventDecodingError` for a type that isn't registered, a content type that
        the codec doesn't read and a payload that doesn't fit its class.
        """
        readers, content_type = self._readers, self._codec.content_type
        for event in events:
            reader = readers.get(event.type)
            if reader is None:
                raise _undecodable(event, "its type is not among the store's events")
            if event.data_content_type != content_type and event.data_content_type:
                raise _undecodable(
                    event, f"its content type is {event.data_content_type!r}, not {content_type!r}"
                )
            decode, evolve = reader
            try:
                domain_event = decode(event.data)
            # A codec may be anybody's: whatever it raises means that the payload doesn't fit.
            except Exception as error:
                raise _undecodable(event, decoding_fault(error)) from error
            state = evolve(state, domain_event)
        return state


def _named(events: Iterable[type] | Mapping[str, type]) -> Iterable[tuple[str, type]]:
    if isinstance(events, Mapping):
        return events.items()
    return [(getattr(cls, "event_type", cls.__name__), cls) for cls in events]


def _own_apply(event_class: type) -> Evolve[Any]:
    apply_to = getattr(event_class, "apply_to", None)
    if not callable(apply_to):
        raise TypeError(
            f"{event_class.__name__} has no apply_to(state) method: write one, "
            "or give the store an evolve function"
        )
    return lambda state, event: event.apply_to(state)


def _undecodable(event: Event, fault: str) -> EventDecodingError:
    return EventDecodingError(event.stream_id, event.stream_version, event.type, fault)
