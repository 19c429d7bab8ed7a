"""How an event looks in the server: the one place that knows the keys."""

import json
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from kurrentdbclient import NewEvent as Proposal
from kurrentdbclient import RecordedEvent

from estoria.core import Event, EventDecodingError, NewEvent, TypeID
from estoria.kurrentdb._errors import LegacyTransactionError

TRUNCATE_BEFORE = "$tb"
MAX_COUNT = "$maxCount"
SOFT_DELETED = 2**63 - 1
"""The `TRUNCATE_BEFORE` of a soft-deleted stream."""

MAX_REVISION = 2**63 - 2

_TIMESTAMP = "estoria.timestamp"
_CONTENT_TYPE = "estoria.content_type"
_JSON: Literal["application/json"] = "application/json"
_BINARY: Literal["application/octet-stream"] = "application/octet-stream"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_encode = msgspec.json.Encoder().encode
_decode_texts = msgspec.json.Decoder(dict[str, str]).decode


def proposal(event: NewEvent, timestamp: str) -> Proposal:
    """The event as it is written: metadata as a plain JSON object, our own keys among it.

    The server knows JSON and binary; whatever else was declared is kept beside it.
    """
    metadata = {**event.metadata, _TIMESTAMP: timestamp}
    declared = event.data_content_type
    told = _JSON if declared.partition(";")[0].strip().lower() == _JSON else _BINARY
    if declared != told:
        metadata[_CONTENT_TYPE] = declared
    return Proposal(
        type=event.type,
        data=event.data,
        metadata=_encode(metadata),
        content_type=told,
        id=event.id,
    )


def written(
    event: NewEvent, stream_id: TypeID, version: int, position: int, timestamp: datetime
) -> Event:
    """The event as a later read gives it, once it is known where it stands."""
    return Event(
        event.id,
        event.type,
        stream_id,
        version,
        position,
        timestamp,
        event.data,
        event.data_content_type,
        dict(event.metadata),
    )


def event_of(recorded: RecordedEvent, stream_id: TypeID) -> Event:
    """A record as an event; also one that another client wrote to a stream of ours.

    Raises `LegacyTransactionError`, and `EventDecodingError` for metadata that are no JSON
    object.
    """
    position = recorded.commit_position
    if position != recorded.prepare_position:
        raise LegacyTransactionError(recorded.stream_name, position)
    version = recorded.stream_position + 1
    metadata: dict[str, str] = {}
    if recorded.metadata:
        try:
            metadata = _decode_texts(recorded.metadata)
        except msgspec.DecodeError:
            metadata = _foreign_metadata(recorded, stream_id)
    timestamp = metadata.pop(_TIMESTAMP, None)
    declared = metadata.pop(_CONTENT_TYPE, recorded.content_type)
    return Event(
        recorded.id if type(recorded.id) is UUID else UUID(str(recorded.id)),
        recorded.type,
        stream_id,
        version,
        position,
        _moment(timestamp) or recorded.recorded_at or _EPOCH,
        recorded.data,
        declared,
        metadata,
    )


def _foreign_metadata(recorded: RecordedEvent, stream_id: TypeID) -> dict[str, str]:
    """Metadata of another client, who may keep more than text there."""
    try:
        found: dict[str, Any] = json.loads(recorded.metadata)
        if type(found) is not dict:
            raise TypeError("it is no object")  # noqa: TRY301 - one handler for both
    except (ValueError, TypeError) as error:
        fault = f"its metadata are no JSON object: {error}"
        version = recorded.stream_position + 1
        raise EventDecodingError(stream_id, version, recorded.type, fault) from error
    return {
        key: value if type(value) is str else json.dumps(value, ensure_ascii=False)
        for key, value in found.items()
    }


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is UTC else None
