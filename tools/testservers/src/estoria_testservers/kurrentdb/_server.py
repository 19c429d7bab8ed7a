"""The server: what it serves, and the switches that tests turn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import grpc
import grpc.aio
from kurrentdbclient.protos.v1 import gossip_pb2, shared_pb2, streams_pb2
from kurrentdbclient.protos.v2.streams import streams_pb2 as v2

from estoria_testservers.kurrentdb._control import CONTROL
from estoria_testservers.kurrentdb._faults import CallFault, Context, Faults
from estoria_testservers.kurrentdb._gate import Cluster, Gate, Member
from estoria_testservers.kurrentdb._log import MAX_APPEND_BYTES, Log, Proposal
from estoria_testservers.kurrentdb._multi import MultiWriting
from estoria_testservers.kurrentdb._persistent import Persistent
from estoria_testservers.kurrentdb._persistent import handlers as persistent_handlers
from estoria_testservers.kurrentdb._reading import Reading
from estoria_testservers.kurrentdb._writing import Writing

_MAX_MESSAGE_BYTES = 20 * 2**20


_Handlers = dict[str, "grpc.RpcMethodHandler[Any, Any]"]


class ProtocolServer:
    """A test double of a KurrentDB server: its gRPC protocol over an in-memory log.

    ::

        async with ProtocolServer() as server:
            client = AsyncKurrentDBClient(server.url)

    With a `file` the log outlives the server, also one that is killed.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        file: Path | None = None,
        max_append_bytes: int = MAX_APPEND_BYTES,
        certificate: tuple[bytes, bytes] | None = None,
        login: str | None = None,
    ) -> None:
        """`certificate` is a key and a chain in PEM; `login` is ``user:password``."""
        self.log = Log(file, max_append_bytes=max_append_bytes)
        self.faults = Faults()
        self._host, self.port = host, port
        self._certificate, self._login = certificate, login
        self._server: grpc.aio.Server | None = None
        self._cluster = Cluster(Member(host, port))

    @property
    def url(self) -> str:
        """Where clients connect to."""
        tls = "" if self._certificate else "?Tls=false"
        return f"kurrentdb://{self._host}:{self.port}{tls}"

    async def start(self) -> None:
        """Serve from now on; an `OSError` where the port is taken."""
        options = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        gate = Gate(self._login, self._cluster)
        self._server = grpc.aio.server(options=options, interceptors=(gate,))
        for handlers in self._services():
            self._server.add_generic_rpc_handlers((handlers,))
        address = f"{self._host}:{self.port}"
        try:
            if self._certificate is None:
                self.port = self._server.add_insecure_port(address)
            else:
                credentials = grpc.ssl_server_credentials([self._certificate])
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            msg = f"{address} is in use: {error}"
            raise OSError(msg) from error
        self._cluster.me = Member(self._host, self.port)
        await self._server.start()

    async def stop(self, grace: float | None = None) -> None:
        """End all calls, after so many seconds of grace, and serve no more."""
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None

    async def wait(self) -> None:
        """Until somebody stops it."""
        if self._server is not None:
            await self._server.wait_for_termination()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def control(self, command: dict[str, Any]) -> dict[str, Any]:
        """What tests may ask for: faults, counts, a lagging node, a cluster, a scavenge."""
        match command.pop("do"):
            case "inject":
                self.faults.inject(CallFault(**command))
            case "clear":
                self.faults.clear()
                self.log.hidden = 0
                self._form_cluster("Leader", [])
            case "cluster":
                self._form_cluster(**command)
            case "counts":
                return {"calls": self.faults.calls, "messages": self.faults.messages}
            case "lag":
                self.log.hidden = command["records"]
                self.log.wake()
            case "scavenge":
                return {"removed": self.log.scavenge()}
            case "legacy_transaction":
                events = [
                    Proposal(str(uuid4()), type_name, "application/json", b"{}", b"")
                    for type_name in command["types"]
                ]
                self.log.write_legacy_transaction(command["stream"], events)
            case unknown:
                msg = f"no such command: {unknown}"
                raise ValueError(msg)
        return {}

    def _form_cluster(self, state: str, others: list[tuple[str, int, str]]) -> None:
        self._cluster.me = Member(self._host, self.port, state)
        self._cluster.others = [Member(*other) for other in others]

    def _services(self) -> list[grpc.GenericRpcHandler]:
        reading, writing = Reading(self.log, self.faults), Writing(self.log, self.faults)
        pb = streams_pb2
        streams: _Handlers = {
            "Read": grpc.unary_stream_rpc_method_handler(
                reading.read, pb.ReadReq.FromString, _verbatim
            ),
            "Append": grpc.stream_unary_rpc_method_handler(
                writing.append, pb.AppendReq.FromString, _serialized
            ),
            "BatchAppend": grpc.stream_stream_rpc_method_handler(
                writing.batch_append, pb.BatchAppendReq.FromString, _serialized
            ),
            "Delete": grpc.unary_unary_rpc_method_handler(
                writing.delete, pb.DeleteReq.FromString, _serialized
            ),
            "Tombstone": grpc.unary_unary_rpc_method_handler(
                writing.tombstone, pb.TombstoneReq.FromString, _serialized
            ),
        }
        multi = MultiWriting(self.log, self.faults)
        newer: _Handlers = {
            "AppendSession": grpc.stream_unary_rpc_method_handler(
                multi.append_session, v2.AppendRequest.FromString, _serialized
            ),
            "AppendRecords": grpc.unary_unary_rpc_method_handler(
                multi.append_records, v2.AppendRecordsRequest.FromString, _serialized
            ),
        }
        gossip: _Handlers = {
            "Read": grpc.unary_unary_rpc_method_handler(
                self._gossip, shared_pb2.Empty.FromString, _serialized
            )
        }
        _, service, method = CONTROL.split("/")
        control: _Handlers = {method: grpc.unary_unary_rpc_method_handler(self._control)}
        handlers = grpc.method_handlers_generic_handler
        return [
            handlers("event_store.client.streams.Streams", streams),
            handlers(
                "event_store.client.persistent_subscriptions.PersistentSubscriptions",
                persistent_handlers(Persistent(self.log, self.faults)),
            ),
            handlers("kurrentdb.protocol.v2.streams.StreamsService", newer),
            handlers("event_store.client.gossip.Gossip", gossip),
            handlers(service, control),
        ]

    async def _gossip(self, _request: shared_pb2.Empty, context: Context) -> gossip_pb2.ClusterInfo:
        await self.faults.before("Gossip", context)
        return gossip_pb2.ClusterInfo(members=[each.info() for each in self._cluster.members])

    async def _control(self, request: bytes, _context: Context) -> bytes:
        try:
            answer = self.control(json.loads(request))
        except (TypeError, ValueError) as error:
            answer = {"error": str(error)}
        return json.dumps(answer).encode()


def _verbatim(message: bytes) -> bytes:
    return message


_serialized: Callable[[Any], bytes] = lambda message: message.SerializeToString()  # noqa: E731
