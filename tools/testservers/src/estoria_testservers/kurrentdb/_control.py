"""The switch of the test double: one call beside KurrentDB's own."""

import json
from typing import Any

import grpc

CONTROL = "/estoria.TestDouble/Control"
"""The one call that a real server doesn't have: JSON in, JSON out."""

_PATIENCE = 60.0


class Control:
    """Tells the test double at ``host:port``, from synchronous code, what to do wrong."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        if credentials is None:
            self._channel = grpc.insecure_channel(target)
        else:
            self._channel = grpc.secure_channel(target, credentials)
        self._call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(CONTROL)

    def inject(self, method: str, **options: Any) -> None:
        """Have calls of a method struck by a fault; the options are those of `CallFault`."""
        self._ask("inject", method=method, **options)

    def clear(self) -> None:
        """Take all faults back, catch up, lead, be alone, and count from 0 again."""
        self._ask("clear")

    def calls(self) -> dict[str, int]:
        """How often each method was called."""
        return dict(self._ask("counts")["calls"])

    def messages(self) -> dict[str, int]:
        """How many messages each method has answered."""
        return dict(self._ask("counts")["messages"])

    def lag(self, records: int) -> None:
        """Be a node that has not got the last so many records yet."""
        self._ask("lag", records=records)

    def cluster(self, state: str, *others: tuple[str, int, str]) -> None:
        """Be a ``"Leader"`` or a ``"Follower"`` beside others: host, port and state of each."""
        self._ask("cluster", state=state, others=others)

    def scavenge(self) -> int:
        """Take what is truncated out of the log; how many records that was."""
        return int(self._ask("scavenge")["removed"])

    def legacy_transaction(self, stream: str, types: list[str]) -> None:
        """Leave events that share one commit position in a stream."""
        self._ask("legacy_transaction", stream=stream, types=types)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        request = json.dumps({"do": what, **arguments}).encode()
        answer: dict[str, Any] = json.loads(self._call(request, timeout=_PATIENCE))
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer
