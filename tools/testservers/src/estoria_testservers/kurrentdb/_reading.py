"""Reading streams and all of them, to the end or as a subscription."""

import asyncio
import bisect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar
from uuid import uuid4

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from kurrentdbclient.protos.v1 import shared_pb2, streams_pb2

from estoria_testservers.kurrentdb._faults import Context, Faults, fail
from estoria_testservers.kurrentdb._filter import Filter, filter_by
from estoria_testservers.kurrentdb._log import Log, Record, TombstonedError, ticks_now

_RecordedEvent = streams_pb2.ReadResp.ReadEvent.RecordedEvent
_Message = TypeVar("_Message", bound=Message)

_SCANNED_AT_ONCE = 20_000
_LIVE_BUFFER = 32
"""So many new records at once, and a live subscription says that it has fallen behind."""


class Reading:
    """The Read call of the Streams service."""

    def __init__(self, log: Log, faults: Faults) -> None:
        self._log, self._faults = log, faults

    async def read(self, request: streams_pb2.ReadReq, context: Context) -> AsyncIterator[bytes]:
        """Answer a Read, message by message."""
        fault = await self._faults.before("Read", context)
        left = fault.messages if fault is not None else -1
        async for message in self._messages(request.options, context):
            if left == 0 and fault is not None:
                await fail(context, fault)
            left -= 1
            self._faults.messages["Read"] = self._faults.messages.get("Read", 0) + 1
            yield message
        if fault is not None:
            await fail(context, fault)

    async def _messages(self, options: Any, context: Context) -> AsyncIterator[bytes]:
        subscribes = options.WhichOneof("count_option") == "subscription"
        try:
            if options.WhichOneof("stream_option") == "stream":
                messages = self._follow_stream(options) if subscribes else self._stream(options)
            elif subscribes:
                messages = self._follow_all(options, context)
            else:
                messages = self._all(options, context)
            async for message in messages:
                yield message
        except TombstonedError as error:
            text = f"Event stream '{error.stream}' is deleted."
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)

    async def _stream(self, options: Any) -> AsyncIterator[bytes]:
        name = options.stream.stream_identifier.stream_name.decode()
        stream = self._log.stream(name)
        if stream is None:
            identifier = options.stream.stream_identifier
            not_found = streams_pb2.ReadResp.StreamNotFound(stream_identifier=identifier)
            yield streams_pb2.ReadResp(stream_not_found=not_found).SerializeToString()
            return
        records: Sequence[Record] = stream.visible()
        starts = options.stream.WhichOneof("revision_option")
        revision = options.stream.revision
        count = options.count
        if options.read_direction == streams_pb2.ReadReq.Options.Backwards:
            end = len(records)
            if starts == "revision":
                end = bisect.bisect_right(records, revision, key=lambda r: r.revision)
            elif starts == "start":
                end = min(1, end)
            chosen = reversed(records[max(end - count, 0) : end])
        else:
            start = 0
            if starts == "revision":
                start = bisect.bisect_left(records, revision, key=lambda r: r.revision)
            elif starts == "end":
                start = len(records)
            chosen = iter(records[start : start + count])
        for record in chosen:
            yield self._event(record, resolve=options.resolve_links)

    async def _all(self, options: Any, context: Context) -> AsyncIterator[bytes]:
        records = self._log.records
        starts = options.all.WhichOneof("all_option")
        backwards = options.read_direction == streams_pb2.ReadReq.Options.Backwards
        at = len(records) if starts == "end" else 0
        if starts == "position":
            found = self._log.index(options.all.position.commit_position)
            if found is None:
                await _refuse_position(context)
            at = found or 0
        wanted = filter_of(options)
        left = options.count
        while left > 0 and (at > 0 if backwards else at < len(records)):
            # A few at a time: the wanted ones are seldom far, and others want to be served.
            if backwards:
                part, at = records[max(at - _SCANNED_AT_ONCE, 0) : at], at - _SCANNED_AT_ONCE
                part = part[::-1]
            else:
                part, at = records[at : at + _SCANNED_AT_ONCE], at + _SCANNED_AT_ONCE
            for _, record in islice(wanted.select(part), left):
                left -= 1
                yield self._event(record, resolve=options.resolve_links)
            await asyncio.sleep(0)

    async def _follow_stream(self, options: Any) -> AsyncIterator[bytes]:
        name = options.stream.stream_identifier.stream_name.decode()
        starts = options.stream.WhichOneof("revision_option")
        after = options.stream.revision if starts == "revision" else -1
        stream = self._log.stream(name)
        if starts == "end" and stream is not None:
            after = stream.last
        yield confirmation()
        caught_up = False
        heard = self._log.listen()
        try:
            while True:
                heard.clear()
                stream = self._log.stream(name)
                records = stream.visible() if stream is not None else []
                start = bisect.bisect_right(records, after, key=lambda r: r.revision)
                if caught_up and len(records) - start > _LIVE_BUFFER:
                    caught_up = False
                    behind = streams_pb2.ReadResp.FellBehind(
                        timestamp=_now(), stream_revision=max(after, 0)
                    )
                    yield streams_pb2.ReadResp(fell_behind=behind).SerializeToString()
                for record in records[start:]:
                    after = record.revision
                    yield self._event(record, resolve=options.resolve_links)
                if not caught_up and not heard.is_set():
                    caught_up = True
                    reached = streams_pb2.ReadResp.CaughtUp(timestamp=_now(), stream_revision=after)
                    yield streams_pb2.ReadResp(caught_up=reached).SerializeToString()
                await heard.wait()
        finally:
            self._log.leave(heard)

    async def _follow_all(self, options: Any, context: Context) -> AsyncIterator[bytes]:
        records = self._log.records
        starts = options.all.WhichOneof("all_option")
        after = records[-1].position if starts == "end" else -1
        if starts == "position":
            after = options.all.position.commit_position
            if self._log.index(after) is None:
                await _refuse_position(context)
        wanted = filter_of(options)
        every = options.filter.max * options.filter.checkpointIntervalMultiplier
        yield confirmation()
        caught_up, scanned = False, 0
        heard = self._log.listen()
        try:
            while True:
                heard.clear()
                records = self._log.records
                at = min(self._log.index_after(after), len(records))
                part = records[at : at + _SCANNED_AT_ONCE]
                if caught_up and len(part) > _LIVE_BUFFER:
                    caught_up = False
                    behind = streams_pb2.ReadResp.FellBehind(
                        timestamp=_now(), position=_position(max(after, 0))
                    )
                    yield streams_pb2.ReadResp(fell_behind=behind).SerializeToString()
                for message in self._window(part, wanted, scanned, every, options.resolve_links):
                    yield message
                scanned += len(part)
                if part:
                    after = part[-1].position
                    await asyncio.sleep(0)
                    continue
                if not caught_up:
                    caught_up = True
                    if every:
                        yield _checkpoint(after)
                    reached = streams_pb2.ReadResp.CaughtUp(
                        timestamp=_now(), position=_position(max(after, 0))
                    )
                    yield streams_pb2.ReadResp(caught_up=reached).SerializeToString()
                await heard.wait()
        finally:
            self._log.leave(heard)

    def _window(
        self, part: Sequence[Record], wanted: Filter, scanned: int, every: int, resolve: bool
    ) -> Iterator[bytes]:
        """The wanted records of a part of the log, and a checkpoint each time that it is due."""
        due = every - scanned % every - 1 if every else len(part)
        for index, record in wanted.select(part):
            while every and due < index:
                yield _checkpoint(part[due].position)
                due += every
            yield self._event(record, resolve=resolve)
        while every and due < len(part):
            yield _checkpoint(part[due].position)
            due += every

    def _event(self, record: Record, *, resolve: bool) -> bytes:
        if resolve and record.event.type == "$>":
            target = self._log.target(record)
            if target is not None:
                message = streams_pb2.ReadResp.ReadEvent(
                    event=recorded(target, _RecordedEvent),
                    link=recorded(record, _RecordedEvent),
                    commit_position=record.position,
                )
                return streams_pb2.ReadResp(event=message).SerializeToString()
        if not record.wire:
            message = streams_pb2.ReadResp.ReadEvent(
                event=recorded(record, _RecordedEvent), commit_position=record.position
            )
            record.wire = streams_pb2.ReadResp(event=message).SerializeToString()
        return record.wire


def recorded(record: Record, kind: Callable[..., _Message]) -> _Message:
    """A record as it goes over the wire, in the message of one service or another."""
    event = record.event
    return kind(
        id=shared_pb2.UUID(string=event.id),
        stream_identifier=shared_pb2.StreamIdentifier(stream_name=record.stream.encode()),
        stream_revision=record.revision,
        prepare_position=record.prepare,
        commit_position=record.position,
        metadata={
            "type": event.type,
            "content-type": event.content_type,
            "created": str(record.created),
        },
        custom_metadata=event.metadata,
        data=event.data,
    )


def filter_of(options: Any) -> Filter:
    """The filter of a read."""
    if options.WhichOneof("filter_option") != "filter":
        return Filter()
    return filter_by(options.filter)


def confirmation() -> bytes:
    """The first message of a subscription."""
    confirmed = streams_pb2.ReadResp.SubscriptionConfirmation(subscription_id=str(uuid4()))
    return streams_pb2.ReadResp(confirmation=confirmed).SerializeToString()


def _checkpoint(position: int) -> bytes:
    reached = streams_pb2.ReadResp.Checkpoint(
        commit_position=position, prepare_position=position, timestamp=_now()
    )
    return streams_pb2.ReadResp(checkpoint=reached).SerializeToString()


def _position(position: int) -> streams_pb2.ReadResp.Position:
    return streams_pb2.ReadResp.Position(commit_position=position, prepare_position=position)


def _now() -> Timestamp:
    seconds, ticks = divmod(ticks_now(), 10_000_000)
    return Timestamp(seconds=seconds, nanos=ticks * 100)


async def _refuse_position(context: Context) -> None:
    text = "Unexpected FilteredReadAllResult: InvalidPosition"
    await context.abort(grpc.StatusCode.UNKNOWN, text)
