"""The PersistentSubscriptions service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message
from kurrentdbclient.protos.v1 import persistent_pb2

from estoria_testservers.kurrentdb._configuration import Configuration, Key
from estoria_testservers.kurrentdb._faults import Context, Faults, fail, lose
from estoria_testservers.kurrentdb._groups import FROM_END, Consumer, Entry, Group, Settings
from estoria_testservers.kurrentdb._log import Log
from estoria_testservers.kurrentdb._reading import recorded
from estoria_testservers.kurrentdb._strategies import STRATEGIES
from estoria_testservers.kurrentdb._writing import id_of

_ALL = "$all"
_Resp = persistent_pb2.ReadResp
_RecordedEvent = _Resp.ReadEvent.RecordedEvent


class Persistent:
    """The calls about persistent subscriptions."""

    def __init__(self, log: Log, faults: Faults) -> None:
        self._log, self._faults = log, faults
        self._groups = Configuration(log)

    async def create(self, request: Any, context: Context) -> Message:
        """Answer a Create."""
        fault = await self._faults.before("Persistent.Create", context)
        options = request.options
        key = _key(options)
        if key in self._groups:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{_named(key)} already exists.")
        settings = await _settings(options, context, options.settings.consumer_strategy)
        expression = None
        if options.all.WhichOneof("filter_option") == "filter":
            expression = options.all.filter
        self._groups.create(key, settings, expression)
        await lose(context, fault)
        return persistent_pb2.CreateResp()

    async def update(self, request: Any, context: Context) -> Message:
        """Answer an Update: the group goes on, its consumers don't."""
        fault = await self._faults.before("Persistent.Update", context)
        options = request.options
        key = _key(options)
        await self._found(key, context)
        strategies = persistent_pb2.UpdateReq.ConsumerStrategy
        strategy = strategies.Name(options.settings.named_consumer_strategy)
        self._groups.update(key, await _settings(options, context, strategy))
        await lose(context, fault)
        return persistent_pb2.UpdateResp()

    async def delete(self, request: Any, context: Context) -> Message:
        """Answer a Delete."""
        fault = await self._faults.before("Persistent.Delete", context)
        key = _key(request.options)
        await self._found(key, context)
        self._groups.delete(key)
        await lose(context, fault)
        return persistent_pb2.DeleteResp()

    async def get_info(self, request: Any, context: Context) -> Message:
        """Answer a GetInfo."""
        fault = await self._faults.before("Persistent.GetInfo", context)
        group = await self._found(_key(request.options), context)
        await lose(context, fault)
        return persistent_pb2.GetInfoResp(subscription_info=_info(group))

    async def list(self, request: Any, context: Context) -> Message:
        """Answer a List; of a stream that has no group, there is nothing to be found."""
        fault = await self._faults.before("Persistent.List", context)
        option = request.options.list_for_stream
        groups = [*self._groups.values()]
        if request.options.WhichOneof("list_option") == "list_for_stream":
            everything = option.WhichOneof("stream_option") == "all"
            source = _ALL if everything else option.stream.stream_name.decode()
            groups = [group for group in groups if group.source.name == source]
            if not groups:
                text = f"Subscription groups of {source} not found."
                await context.abort(grpc.StatusCode.NOT_FOUND, text)
        await lose(context, fault)
        return persistent_pb2.ListResp(subscriptions=[_info(group) for group in groups])

    async def replay_parked(self, request: Any, context: Context) -> Message:
        """Answer a ReplayParked."""
        fault = await self._faults.before("Persistent.ReplayParked", context)
        options = request.options
        group = await self._found(_key(options), context)
        limited = options.WhichOneof("stop_at_option") == "stop_at"
        group.replay_parked(options.stop_at if limited else None)
        await lose(context, fault)
        return persistent_pb2.ReplayParkedResp()

    async def read(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Message]:
        """Answer a Read: events for a consumer, which says how it got on with each."""
        fault = await self._faults.before("Persistent.Read", context)
        left = fault.messages if fault is not None else -1
        first = await anext(requests, None)
        if first is None:
            return
        options, key = first.options, _key(first.options)
        group = await self._found(key, context)
        if len(group.consumers) >= group.settings.max_subscriber_count > 0:
            source, name = key
            text = (
                f"Maximum subscriptions reached for subscription group '{name}' on stream "
                f"'{source}'."
            )
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        consumer = Consumer(max(options.buffer_size, 1), _connection_name(context))
        group.join(consumer)
        answers = asyncio.create_task(_take_answers(requests, group, consumer))
        try:
            confirmed = _Resp.SubscriptionConfirmation(subscription_id="::".join(key))
            yield _Resp(subscription_confirmation=confirmed)
            while (entry := await consumer.queue.get()) is not None:
                if left == 0 and fault is not None:
                    await fail(context, fault)
                left -= 1
                yield _message(entry)
            if consumer not in group.consumers and not answers.done():
                await context.abort(grpc.StatusCode.CANCELLED, f"{_named(key)} was dropped.")
        finally:
            answers.cancel()
            group.leave(consumer)

    async def _found(self, key: Key, context: Context) -> Group:
        group = self._groups.get(key)
        if group is None:
            await _refuse_missing(key, context)
        return group


async def _take_answers(requests: AsyncIterator[Any], group: Group, consumer: Consumer) -> None:
    """What a consumer says about its events, until it says no more."""
    actions = persistent_pb2.ReadReq.Nack.Action
    async for request in requests:
        if request.WhichOneof("content") == "ack":
            group.ack([id_of(each) for each in request.ack.ids])
        else:
            nack = request.nack
            group.nack([id_of(each) for each in nack.ids], actions.Name(nack.action), nack.reason)
    consumer.queue.put_nowait(None)


def _key(options: Any) -> Key:
    """The stream, or `$all`, and the group that a request is about."""
    chosen = options.WhichOneof("stream_option")
    if chosen == "all":
        return _ALL, options.group_name
    identifier = (
        options.stream.stream_identifier if chosen == "stream" else options.stream_identifier
    )
    return identifier.stream_name.decode(), options.group_name


def _named(key: Key) -> str:
    source, name = key
    return f"Subscription group {name} on stream {source}"


async def _refuse_missing(key: Key, context: Context) -> NoReturn:
    await context.abort(grpc.StatusCode.NOT_FOUND, f"{_named(key)} does not exist.")
    raise AssertionError  # abort has raised


async def _settings(options: Any, context: Context, strategy: str) -> Settings:
    given = options.settings
    if strategy not in STRATEGIES:
        await context.abort(grpc.StatusCode.INTERNAL, f"No such consumer strategy: {strategy}")
    if given.history_buffer_size <= given.read_batch_size:
        text = "The history buffer has to be larger than the batch that is read."
        await context.abort(grpc.StatusCode.INTERNAL, text)
    if options.WhichOneof("stream_option") == "stream":
        chosen, start = options.stream.WhichOneof("revision_option"), options.stream.revision
    else:
        chosen = options.all.WhichOneof("all_option")
        start = options.all.position.commit_position
    return Settings(
        start={"start": 0, "end": FROM_END}.get(chosen or "start", start),
        resolve_links=given.resolve_links,
        extra_statistics=given.extra_statistics,
        max_retry_count=given.max_retry_count,
        min_checkpoint_count=given.min_checkpoint_count,
        max_checkpoint_count=given.max_checkpoint_count,
        max_subscriber_count=given.max_subscriber_count,
        live_buffer_size=given.live_buffer_size,
        read_batch_size=given.read_batch_size,
        history_buffer_size=given.history_buffer_size,
        message_timeout_ms=given.message_timeout_ms,
        checkpoint_after_ms=given.checkpoint_after_ms,
        strategy=strategy,
    )


def _message(entry: Entry) -> Message:
    event = _Resp.ReadEvent(commit_position=entry.original.position, retry_count=entry.retries)
    if entry.event is not None:
        event.event.CopyFrom(recorded(entry.event, _RecordedEvent))
    if entry.link is not None:
        event.link.CopyFrom(recorded(entry.link, _RecordedEvent))
    return _Resp(event=event)


def _info(group: Group) -> persistent_pb2.SubscriptionInfo:
    settings, text = group.settings, group.source.text
    places = [
        "" if place is None else text(place) for place in (group.checkpoint, group.last_known)
    ]
    info = persistent_pb2.SubscriptionInfo
    return info(
        event_source=group.source.name,
        group_name=group.name,
        status="Live",
        connections=[
            info.ConnectionInfo(
                total_items=consumer.taken,
                available_slots=consumer.capacity - len(consumer.held),
                in_flight_messages=len(consumer.held),
                connection_name=consumer.name,
            )
            for consumer in group.consumers
        ],
        total_items=group.total,
        last_checkpointed_event_position=places[0],
        last_known_event_position=places[1],
        resolve_link_tos=settings.resolve_links,
        start_from=text(settings.start),
        message_timeout_milliseconds=settings.message_timeout_ms,
        extra_statistics=settings.extra_statistics,
        max_retry_count=settings.max_retry_count,
        live_buffer_size=settings.live_buffer_size,
        buffer_size=settings.history_buffer_size,
        read_batch_size=settings.read_batch_size,
        check_point_after_milliseconds=settings.checkpoint_after_ms,
        min_check_point_count=settings.min_checkpoint_count,
        max_check_point_count=settings.max_checkpoint_count,
        retry_buffer_count=len(group.retried),
        total_in_flight_messages=group.outstanding,
        outstanding_messages_count=group.outstanding,
        named_consumer_strategy=settings.strategy,
        max_subscriber_count=settings.max_subscriber_count,
        parked_message_count=len(group.parked_records),
    )


def _connection_name(context: Context) -> str:
    metadata = dict(context.invocation_metadata() or ())
    return str(metadata.get("connection-name", ""))


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def handlers(service: Persistent) -> dict[str, "grpc.RpcMethodHandler[Any, Any]"]:
    """The calls of the service, as gRPC wants them."""
    pb = persistent_pb2
    unary: dict[str, tuple[Callable[..., Any], Any]] = {
        "Create": (service.create, pb.CreateReq),
        "Update": (service.update, pb.UpdateReq),
        "Delete": (service.delete, pb.DeleteReq),
        "GetInfo": (service.get_info, pb.GetInfoReq),
        "List": (service.list, pb.ListReq),
        "ReplayParked": (service.replay_parked, pb.ReplayParkedReq),
    }
    made: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(call, kind.FromString, _serialized)
        for name, (call, kind) in unary.items()
    }
    made["Read"] = grpc.stream_stream_rpc_method_handler(
        service.read, pb.ReadReq.FromString, _serialized
    )
    return made
