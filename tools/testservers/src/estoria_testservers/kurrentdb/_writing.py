"""Appending to streams, deleting and tombstoning them."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from kurrentdbclient.protos.v1 import shared_pb2, streams_pb2

from estoria_testservers.kurrentdb._faults import Context, Faults, lose
from estoria_testservers.kurrentdb._log import (
    ANY,
    EXISTS,
    NO_STREAM,
    AppendTooLargeError,
    Log,
    Proposal,
    TombstonedError,
    WrongRevisionError,
)
from estoria_testservers.kurrentdb._refusals import answered_status

_NAMED = {"no_stream": NO_STREAM, "any": ANY, "stream_exists": EXISTS}
# google.rpc.Code has them, but importing it beside the client is a duplicate symbol.
_DEADLINE_EXCEEDED, _PERMISSION_DENIED, _INVALID, _FAILED, _UNKNOWN = 4, 7, 3, 9, 2


class Writing:
    """The writing calls of the Streams service."""

    def __init__(self, log: Log, faults: Faults) -> None:
        self._log, self._faults = log, faults

    async def append(self, requests: AsyncIterator[Any], context: Context) -> Message:
        """Answer an Append; a wrong expectation is an answer like any other."""
        options: Any = None
        proposals: list[Proposal] = []
        async for request in requests:
            if request.WhichOneof("content") == "options":
                options = request.options
            else:
                proposals.append(proposed(request.proposed_message))
        # A client that is still sending when its call ends may meet that as an error of gRPC's.
        fault = await self._faults.before("Append", context)
        name = options.stream_identifier.stream_name.decode()
        expected = expectation(options, "expected_stream_revision", "revision")
        result = streams_pb2.AppendResp()
        try:
            written = self._log.append(name, expected, proposals)
        except WrongRevisionError as error:
            wrong = result.wrong_expected_version
            if error.actual < 0:
                wrong.current_no_stream.SetInParent()
            else:
                wrong.current_revision = error.actual
        except TombstonedError:
            await _refuse_tombstoned(context, name)
        except AppendTooLargeError as error:
            text = f"Maximum Append Size of {error.limit} Exceeded."
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        else:
            result.success.current_revision = written.revision
            result.success.position.commit_position = written.position
            result.success.position.prepare_position = written.position
        await lose(context, fault)
        return result

    async def batch_append(
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Message]:
        """Answer each batch of a BatchAppend; whatever is wrong is said in an answer."""
        chunks: dict[str, tuple[Any, list[Proposal]]] = {}
        async for request in requests:
            fault = await self._faults.before("BatchAppend", context)
            id = request.correlation_id.string
            options, proposals = chunks.setdefault(id, (request.options, []))
            proposals += [proposed(message) for message in request.proposed_messages]
            if request.is_final:
                del chunks[id]
                answer = self._batch(options, proposals)
                answer.correlation_id.string = id
                await lose(context, fault)
                yield answer

    async def delete(self, request: Any, context: Context) -> Message:
        """Answer a Delete: the stream is soft-deleted."""
        fault = await self._faults.before("Delete", context)
        position = await self._retire(request.options, context, self._log.soft_delete)
        await lose(context, fault)
        at = streams_pb2.DeleteResp.Position(commit_position=position, prepare_position=position)
        return streams_pb2.DeleteResp(position=at)

    async def tombstone(self, request: Any, context: Context) -> Message:
        """Answer a Tombstone: the name is retired for good."""
        fault = await self._faults.before("Tombstone", context)
        position = await self._retire(request.options, context, self._log.tombstone)
        await lose(context, fault)
        at = streams_pb2.TombstoneResp.Position(commit_position=position, prepare_position=position)
        return streams_pb2.TombstoneResp(position=at)

    def _batch(self, options: Any, proposals: Sequence[Proposal]) -> streams_pb2.BatchAppendResp:
        name = options.stream_identifier.stream_name.decode()
        expected = expectation(options, "expected_stream_position", "stream_position")
        answer = streams_pb2.BatchAppendResp(stream_identifier=options.stream_identifier)
        try:
            written = self._log.append(name, expected, proposals)
        except WrongRevisionError as error:
            details = shared_pb2.WrongExpectedVersion()
            if error.actual < 0:
                details.current_no_stream.CopyFrom(empty_pb2.Empty())
            else:
                details.current_stream_revision = error.actual
            answer.error.CopyFrom(answered_status(_FAILED, "wrong expected version", details))
        except TombstonedError:
            gone = shared_pb2.StreamDeleted(stream_identifier=options.stream_identifier)
            answer.error.CopyFrom(answered_status(_FAILED, "stream deleted", gone))
        except AppendTooLargeError as error:
            large = shared_pb2.MaximumAppendSizeExceeded(maxAppendSize=error.limit)
            answer.error.CopyFrom(answered_status(_INVALID, "append too large", large))
        else:
            answer.success.current_revision = written.revision
            answer.success.position.commit_position = written.position
            answer.success.position.prepare_position = written.position
        return answer

    async def _retire(self, options: Any, context: Context, how: Any) -> int:
        name = options.stream_identifier.stream_name.decode()
        expected = expectation(options, "expected_stream_revision", "revision")
        try:
            return int(how(name, expected))
        except WrongRevisionError as error:
            text = (
                f"Append failed due to WrongExpectedVersion. Stream: {name}, "
                f"Expected version: {expected}, Actual version: {error.actual}"
            )
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        except TombstonedError:
            await _refuse_tombstoned(context, name)
        raise AssertionError  # abort has raised


def id_of(id: Any) -> str:
    """An id as text, in whichever of two ways it was sent."""
    if id.WhichOneof("value") != "structured":
        return str(id.string)
    high, low = id.structured.most_significant_bits, id.structured.least_significant_bits
    return str(UUID(int=(high % 2**64 << 64) | low % 2**64))


def proposed(message: Any) -> Proposal:
    """An event of an Append or a BatchAppend."""
    metadata = message.metadata
    return Proposal(
        id_of(message.id),
        metadata["type"],
        metadata["content-type"],
        message.data,
        message.custom_metadata,
    )


def expectation(options: Any, oneof: str, revision: str) -> int:
    """The expectation of a request: a revision, or one of the named ones."""
    chosen = options.WhichOneof(oneof)
    return int(getattr(options, revision)) if chosen == revision else _NAMED[chosen]


async def _refuse_tombstoned(context: Context, name: str) -> None:
    text = f"Event stream '{name}' is deleted."
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
