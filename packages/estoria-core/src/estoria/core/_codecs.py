"""Codecs: from domain events and states to bytes, and back."""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from estoria.core._errors import EventEncodingError
from estoria.core._json import encode_json, json_decoder, json_fingerprint

S = TypeVar("S")
E = TypeVar("E")


class EventCodec(Protocol):
    """Turns domain events into payloads and back."""

    @property
    def content_type(self) -> str:
        """What the payloads are declared as."""
        ...

    def encode(self, event: Any) -> bytes:
        """The payload of an event.

        Raises `EventEncodingError` for what it can't carry without altering it.
        """
        ...

    def decoder(self, event_class: type[E]) -> Callable[[bytes], E]:
        """A function that reads payloads of this class; asked for once per class.

        Raises `TypeError` when the class can't be read at all. The function may raise any
        exception for a payload that doesn't fit.
        """
        ...


class StateCodec(Protocol[S]):
    """Turns states into bytes and back, for snapshots and caches."""

    @property
    def content_type(self) -> str:
        """What the bytes are declared as; differs between schemas of the state.

        Bytes under any other content type are never given to `decode`.
        """
        ...

    def encode(self, state: S) -> bytes:
        """The state as bytes; raises `EventEncodingError` for what it can't carry."""
        ...

    def decode(self, data: bytes) -> S:
        """The state; may raise any exception for bytes that don't fit."""
        ...


class JSONEventCodec:
    """JSON by msgspec: dataclasses, Structs, attrs classes and pydantic models.

    Fields may be UUIDs, datetimes, Decimals, enums and nested values. What JSON can't carry
    (NaN, infinities, lone surrogates) is an `EventEncodingError`.
    """

    content_type = "application/json"

    def encode(self, event: Any) -> bytes:
        """See `EventCodec.encode`."""
        return _encoded(event)

    def decoder(self, event_class: type[E]) -> Callable[[bytes], E]:
        """See `EventCodec.decoder`."""
        return json_decoder(event_class)


class JSONStateCodec(Generic[S]):
    """JSON for the states of one class.

    The content type names the state's schema, by default a fingerprint of its fields and
    their types, so that what another release wrote is never decoded into a wrong state.
    """

    def __init__(self, state_class: type[S], *, schema: str | None = None) -> None:
        """Give `schema`, any short name, and change it when states mean something else.

        Raises `TypeError` for a class that JSON can't be decoded into.
        """
        self.content_type = f"application/json; schema={schema or json_fingerprint(state_class)}"
        self._decode = json_decoder(state_class)

    def encode(self, state: S) -> bytes:
        """See `StateCodec.encode`."""
        return _encoded(state)

    def decode(self, data: bytes) -> S:
        """See `StateCodec.decode`."""
        return self._decode(data)


def _encoded(value: Any) -> bytes:
    try:
        return encode_json(value)
    except (ValueError, TypeError) as error:
        raise EventEncodingError(type(value).__name__, str(error)) from error
