"""Who may call: only with the login, and for writing only the leader."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message
from kurrentdbclient.protos.kurrent.rpc import errors_pb2
from kurrentdbclient.protos.v1 import gossip_pb2, shared_pb2, streams_pb2

from estoria_testservers.kurrentdb._control import CONTROL
from estoria_testservers.kurrentdb._faults import Context
from estoria_testservers.kurrentdb._refusals import Trailer, answered_status, trailer

# The class is generic for type checkers only.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"

_GOSSIP = "/event_store.client.gossip.Gossip/"
_NEWER_STREAMS = "/kurrentdb.protocol.v2.streams.StreamsService/"
_BATCH_APPEND = "/event_store.client.streams.Streams/BatchAppend"
_NOT_READY = (
    "/event_store.client.persistent_subscriptions.PersistentSubscriptions/GetInfo",
    "/event_store.client.persistent_subscriptions.PersistentSubscriptions/List",
)


@dataclass(frozen=True)
class Member:
    """A node of the cluster; `state` is a name of `MemberInfo.VNodeState`."""

    host: str
    port: int
    state: str = "Leader"

    def info(self) -> gossip_pb2.MemberInfo:
        """As gossip tells it."""
        return gossip_pb2.MemberInfo(
            state=gossip_pb2.MemberInfo.VNodeState.Value(self.state),
            is_alive=True,
            http_end_point=gossip_pb2.EndPoint(address=self.host, port=self.port),
        )


@dataclass
class Cluster:
    """The nodes that this one knows of; without any it is alone, and the leader."""

    me: Member
    others: list[Member] = field(default_factory=list)

    @property
    def members(self) -> list[Member]:
        """All of them, this one the first."""
        return [self.me, *self.others]

    @property
    def leader(self) -> Member | None:
        """The one that may write, if there is one."""
        return next((member for member in self.members if member.state == "Leader"), None)


class Gate(grpc.aio.ServerInterceptor):
    """Stands before every call but the switch's."""

    def __init__(self, login: str | None, cluster: Cluster) -> None:
        """`login` is ``user:password``; `None` lets everybody in."""
        self._expected = None if login is None else _basic(login)
        self._cluster = cluster

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "_Handler | None":
        """Let a call through, or put a refusal in its place."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method == CONTROL:
            return handler
        metadata = dict(handler_call_details.invocation_metadata or ())
        refused = self._stranger(method, metadata) or self._follower(method, metadata)
        return handler if refused is None else _replaced(handler, refused)

    def _stranger(self, method: str, metadata: dict[str, Any]) -> Callable[..., Any] | None:
        if self._expected is None:
            return None
        given = metadata.get("authorization")
        if given is not None:
            text = given.decode() if isinstance(given, bytes) else given
            known = text == self._expected
            return None if known else _refusal(grpc.StatusCode.UNAUTHENTICATED, "Unauthenticated")
        if method.startswith(_GOSSIP):
            return None
        if method == _BATCH_APPEND:
            return _batches_denied
        return _refusal(grpc.StatusCode.PERMISSION_DENIED, "Access Denied")

    def _follower(self, method: str, metadata: dict[str, Any]) -> Callable[..., Any] | None:
        leader = self._cluster.leader
        if metadata.get("requires-leader") != "true" or leader == self._cluster.me:
            return None
        if method.startswith(_GOSSIP):
            return None
        if leader is None or method in _NOT_READY:
            return _refusal(grpc.StatusCode.UNAVAILABLE, "Server Is Not Ready")
        if method.startswith(_NEWER_STREAMS):
            code, text = grpc.StatusCode.FAILED_PRECONDITION, "This node is not the leader."
            details = errors_pb2.NotLeaderNodeErrorDetails(
                current_leader=errors_pb2.NotLeaderNodeErrorDetails.NodeInfo(
                    host=leader.host, port=leader.port
                )
            )
            return _refusal(code, text, trailer(code, text, details))
        where = (
            ("leader-endpoint-host", leader.host),
            ("leader-endpoint-port", str(leader.port)),
        )
        return _refusal(grpc.StatusCode.NOT_FOUND, "Leader info available", where)


def _refusal(code: grpc.StatusCode, text: str, trailer: Trailer = ()) -> Callable[..., Any]:
    # gRPC looks for a coroutine function, and an object that is called like one won't do.
    async def refuse(_request: Any, context: Context) -> None:
        await context.abort(code, text, trailer)

    return refuse


def _heard_out(refused: Callable[..., Any]) -> Callable[..., Any]:
    """A client that is still sending when its call ends may meet that as an error of gRPC's."""

    async def refuse(requests: AsyncIterator[Any], context: Context) -> None:
        async for _ in requests:
            pass
        await refused(requests, context)

    return refuse


async def _batches_denied(requests: AsyncIterator[Any], _: Context) -> AsyncIterator[Message]:
    """A BatchAppend is told in its answers, as everything that is wrong with one."""
    number: int = grpc.StatusCode.PERMISSION_DENIED.value[0]
    error = answered_status(number, "Access Denied", shared_pb2.AccessDenied())
    async for request in requests:
        if request.is_final:
            yield streams_pb2.BatchAppendResp(
                correlation_id=request.correlation_id,
                stream_identifier=request.options.stream_identifier,
                error=error,
            )


def _replaced(handler: _Handler, refused: Callable[..., Any]) -> _Handler:
    make: Sequence[Callable[..., _Handler]] = (
        grpc.unary_unary_rpc_method_handler,
        grpc.unary_stream_rpc_method_handler,
        grpc.stream_unary_rpc_method_handler,
        grpc.stream_stream_rpc_method_handler,
    )
    kind = 2 * handler.request_streaming + handler.response_streaming
    if handler.request_streaming and not handler.response_streaming:
        refused = _heard_out(refused)
    return make[kind](refused, handler.request_deserializer, handler.response_serializer)


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()
