"""The values that go into an event store and come out of it."""

from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from uuid import UUID

import msgspec

from estoria.core._ids import TypeID, uuid7


class Expect(Enum):
    """What an append expects of its stream, where that isn't an exact version."""

    ANY = "any version"
    """Whatever is there, also nothing."""

    NO_STREAM = "no stream"
    """Nothing yet; the version ``0`` means the same."""

    STREAM_EXISTS = "an existing stream"
    """At least one event was ever written in this life of the stream."""

    def __repr__(self) -> str:
        return f"Expect.{self.name}"

    def __str__(self) -> str:
        return self.value


class NewEvent(msgspec.Struct, frozen=True):
    """An event to be written.

    `data` is opaque: a store keeps the bytes and `data_content_type` verbatim.
    `metadata` maps `str` to `str`; keys that start with ``estoria.`` belong to the
    library. `id` is unique within a stream and makes an append safe to repeat: keep it
    when an append is tried again.

    Checked by `append_stream`, before anything is written.
    """

    type: str
    data: bytes
    data_content_type: str = ""
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    id: UUID = msgspec.field(default_factory=uuid7)

    def __hash__(self) -> int:
        return hash(self.id)


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event as it is stored.

    `stream_version` is 1-based and gapless within one life of a stream.
    `global_position` grows over all streams of a store, with gaps. `timestamp` is the
    appending process's clock, UTC, to the microsecond.
    """

    id: UUID
    type: str
    stream_id: TypeID
    stream_version: int
    global_position: int
    timestamp: datetime
    data: bytes
    data_content_type: str
    metadata: dict[str, str]

    def __hash__(self) -> int:
        return hash(self.id)


class StreamInfo(msgspec.Struct, frozen=True):
    """What is known of a stream at one moment.

    `version` is the tip. `first_version` is the first version still stored,
    ``version + 1`` when a truncation emptied the stream. `origin` is the version before
    the first event of this life: 0, unless the stream was deleted and written again.
    """

    stream_id: TypeID
    version: int
    first_version: int
    origin: int


class Appended(list[Event]):
    """The events that an append wrote, exactly as a later read returns them."""

    __slots__ = ("_stream",)

    def __init__(self, events: Iterable[Event] = (), stream: StreamInfo | None = None) -> None:
        super().__init__(events)
        self._stream = stream

    @property
    def stream(self) -> StreamInfo:
        """The stream after the append.

        Raises `ValueError` when no events were given: then nothing was looked at.
        """
        if self._stream is None:
            raise ValueError("no events were appended, so nothing is known of the stream")
        return self._stream
