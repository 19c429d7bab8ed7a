"""The newer Streams service: appending to several streams at once."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn
from uuid import uuid4

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from kurrentdbclient.protos.v2.streams import errors_pb2, streams_pb2

from estoria_testservers.kurrentdb._faults import Context, Faults, lose
from estoria_testservers.kurrentdb._log import (
    ANY,
    EXISTS,
    AppendTooLargeError,
    Log,
    Proposal,
    TombstonedError,
    Written,
    WrongRevisionError,
)
from estoria_testservers.kurrentdb._refusals import refuse

_JSON = "application/json"
_BINARY = "application/octet-stream"
_FORMATS = {0: "Json", 1: "Json", 2: "Protobuf", 3: "Avro", 4: "Bytes"}

_Entry = tuple[str, Proposal]


class MultiWriting:
    """The calls that write to several streams, to all or to none."""

    def __init__(self, log: Log, faults: Faults) -> None:
        self._log, self._faults = log, faults

    async def append_session(self, requests: AsyncIterator[Any], context: Context) -> Message:
        """Answer an AppendSession: one request for each stream."""
        sent = [request async for request in requests]
        # Heard out first: a client that is still sending may meet the end as an error of gRPC's.
        fault = await self._faults.before("AppendSession", context)
        expected: dict[str, int] = {}
        entries: list[_Entry] = []
        for request in sent:
            name = request.stream
            if name in expected:
                text = f"Stream '{name}' is already part of this append session."
                twice = errors_pb2.StreamAlreadyInAppendSessionErrorDetails(stream=name)
                await refuse(context, grpc.StatusCode.ABORTED, text, twice)
            given = request.HasField("expected_revision")
            expected[name] = request.expected_revision if given else ANY
            entries += [(name, _proposed(record)) for record in request.records]
        written = await self._append(context, expected, entries)
        answer = streams_pb2.AppendSessionResponse(
            output=[
                streams_pb2.AppendResponse(
                    stream=name, stream_revision=at.revision, position=at.position
                )
                for name, at in written.items()
            ],
            position=_last(written),
        )
        await lose(context, fault)
        return answer

    async def append_records(self, request: Any, context: Context) -> Message:
        """Answer an AppendRecords: records of any streams in any order, and checks apart."""
        fault = await self._faults.before("AppendRecords", context)
        entries = [(record.stream, _proposed(record)) for record in request.records]
        checks = [(each.stream_state.stream, each.stream_state) for each in request.checks]
        expected = dict.fromkeys((name for name, _ in entries), ANY)
        violations = []
        for index, (name, check) in enumerate(checks):
            ids = [event.id for of, event in entries if of == name]
            if self._holds(name, check.expected_state, ids):
                if name in expected:
                    expected[name] = check.expected_state
                continue
            state = errors_pb2.ConsistencyViolation.StreamStateViolation(
                stream=name,
                expected_state=check.expected_state,
                actual_state=self._log.state(name),
            )
            violations.append(
                errors_pb2.ConsistencyViolation(check_index=index, stream_state=state)
            )
        if violations:
            details = errors_pb2.AppendConsistencyViolationErrorDetails(violations=violations)
            text = f"{len(violations)} consistency checks of the append have failed."
            await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, text, details)
        written = await self._append(context, expected, entries)
        answer = streams_pb2.AppendRecordsResponse(
            revisions=[
                streams_pb2.StreamRevision(stream=name, revision=at.revision)
                for name, at in written.items()
            ],
            position=_last(written),
        )
        await lose(context, fault)
        return answer

    def _holds(self, name: str, expected: int, ids: Sequence[str]) -> bool:
        actual = self._log.state(name)
        if expected in (ANY, actual) or (expected == EXISTS and actual >= 0):
            return True
        try:
            # A stream that was deleted may be written as if it had never been, and a retry
            # finds its own events.
            self._log.check(name, expected, ids)
        except (WrongRevisionError, TombstonedError):
            return False
        return True

    async def _append(
        self, context: Context, expected: dict[str, int], entries: Sequence[_Entry]
    ) -> dict[str, Written]:
        limit = self._log.max_append_bytes
        for name, event in entries:
            if event.size > limit:
                text = f"Record '{event.id}' of {event.size} bytes exceeds {limit}."
                large = errors_pb2.AppendRecordSizeExceededErrorDetails(
                    stream=name, record_id=event.id, size=event.size, max_size=limit
                )
                await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, text, large)
        try:
            return self._log.append_all(expected, entries)
        except (WrongRevisionError, TombstonedError, AppendTooLargeError) as error:
            await _refuse(context, error)


async def _refuse(
    context: Context, error: WrongRevisionError | TombstonedError | AppendTooLargeError
) -> NoReturn:
    details: Message
    code = grpc.StatusCode.FAILED_PRECONDITION
    match error:
        case WrongRevisionError():
            text = (
                f"Append failed due to a revision conflict on stream '{error.stream}'. "
                f"Expected revision: {error.expected}. Actual revision: {error.actual}."
            )
            details = errors_pb2.StreamRevisionConflictErrorDetails(
                stream=error.stream,
                expected_revision=error.expected,
                actual_revision=error.actual,
            )
        case TombstonedError():
            text = f"Stream '{error.stream}' is tombstoned."
            details = errors_pb2.StreamTombstonedErrorDetails(stream=error.stream)
        case AppendTooLargeError():
            code = grpc.StatusCode.ABORTED
            text = f"The append of {error.size} bytes exceeds {error.limit}."
            details = errors_pb2.AppendTransactionSizeExceededErrorDetails(
                size=error.size, max_size=error.limit
            )
    await refuse(context, code, text, details)


def _proposed(record: Any) -> Proposal:
    """A record as the older calls would have written it: its properties become metadata."""
    properties: dict[str, Any] = {}
    for key, value in record.properties.items():
        properties[key] = MessageToDict(value)
    properties["$schema.format"] = _FORMATS[record.schema.format]
    properties["$schema.name"] = record.schema.name
    return Proposal(
        record.record_id or str(uuid4()),
        record.schema.name,
        _JSON if _FORMATS[record.schema.format] == "Json" else _BINARY,
        record.data,
        json.dumps(properties).encode(),
    )


def _last(written: dict[str, Written]) -> int:
    return max(at.position for at in written.values()) if written else 0
