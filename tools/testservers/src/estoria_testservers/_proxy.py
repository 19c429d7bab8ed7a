"""A TCP proxy that counts what passes, and breaks it where a test says so."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from estoria_testservers._fault import Fault, Match, Moment
from estoria_testservers._ports import ReservedPort
from estoria_testservers._proxied import Connection
from estoria_testservers._switchboard import Switchboard, Traffic


class Proxy:
    """Stands between clients and one server, on the loopback, with its own event loop.

    All methods are plain and may be called from any thread, also from tests that run an event
    loop. What a client sends between two answers is a *request*; faults are armed ahead, each
    hits one request and is used up, the first armed first. A request that arrives in several
    pieces is matched piece by piece, so match what stands near its beginning. Requests that
    `ignore` matches are neither counted nor hit: a driver's heartbeats, for one.
    """

    def __init__(self, host: str, port: int, *, ignore: Match | None = None) -> None:
        self.upstream = (host, port)
        self._board = Switchboard(ignore)
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._reserved = ReservedPort()
        self.host, self.port = "127.0.0.1", self._reserved.number
        self._loop = asyncio.new_event_loop()
        self._listener: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, name="estoria-proxy", daemon=True)
        self._thread.start()
        self.accept()

    def url(self, of: str) -> str:
        """A server's URL, changed so that it leads through this proxy.

        A MongoDB client is kept from finding the server's own address behind the proxy.
        """
        parts = urlsplit(of)
        login, at, _ = parts.netloc.rpartition("@")
        query = parts.query
        if parts.scheme == "mongodb":
            options = [pair for pair in parse_qsl(query) if pair[0] != "replicaSet"]
            query = urlencode([*dict(options, directConnection="true").items()])
        netloc = f"{login}{at}{self.host}:{self.port}"
        return parts._replace(netloc=netloc, path=parts.path or "/", query=query).geturl()

    def cut_before_request(
        self, match: Match | None = None, *, skip: int = 0, reset: bool = False
    ) -> Fault:
        """Cut the connection of a request that the server never sees.

        This and the other cuts close as a server does that has ended; with `reset` they break
        off as a network does.
        """
        return self._board.arm(Fault(Moment.BEFORE_REQUEST, match=match, skip=skip, reset=reset))

    def cut_after_request(
        self, match: Match | None = None, *, skip: int = 0, reset: bool = False
    ) -> Fault:
        """Cut as soon as the request has gone out: what the server does with it is open."""
        return self._board.arm(Fault(Moment.AFTER_REQUEST, match=match, skip=skip, reset=reset))

    def cut_before_answer(
        self, match: Match | None = None, *, skip: int = 0, reset: bool = False
    ) -> Fault:
        """Cut once the server has answered the request: it is done, and the client never hears."""
        return self._board.arm(Fault(Moment.BEFORE_ANSWER, match=match, skip=skip, reset=reset))

    def cut_in_answer(
        self, after_bytes: int, match: Match | None = None, *, skip: int = 0, reset: bool = False
    ) -> Fault:
        """Cut when so many bytes have come back since the request."""
        return self._board.arm(
            Fault(Moment.IN_ANSWER, match=match, skip=skip, after_bytes=after_bytes, reset=reset)
        )

    def hold_request(self, match: Match | None = None, *, skip: int = 0) -> Fault:
        """Keep a request back until the fault is released."""
        return self._board.arm(Fault(Moment.BEFORE_REQUEST, match=match, skip=skip, holds=True))

    def hold_answer(self, match: Match | None = None, *, skip: int = 0) -> Fault:
        """Keep the answer to a request back until the fault is released."""
        return self._board.arm(Fault(Moment.BEFORE_ANSWER, match=match, skip=skip, holds=True))

    def disarm(self) -> None:
        """Forget the faults that have not happened."""
        self._board.disarm()

    def stall(self) -> None:
        """Hold everything back, both ways, on all connections, until `flow`."""
        self._board.stall()

    def flow(self) -> None:
        """Let everything pass again, after `stall`."""
        self._board.flow()

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        self._call(self._close_listener())

    def accept(self) -> None:
        """Take connections again, after `refuse`."""
        self._call(self._open_listener())

    def cut_all(self, *, reset: bool = False) -> None:
        """Cut every connection that is open now."""
        self._call(self._cut_all(reset=reset))

    @property
    def open_connections(self) -> int:
        """How many clients are connected now."""
        return len(self._connections)

    @property
    def traffic(self) -> Traffic:
        """What has passed since the beginning."""
        return replace(self._board.traffic)

    def counting(self) -> contextlib.AbstractContextManager[Traffic]:
        """What passes within the context; complete when it has ended."""
        return self._board.counting()

    def close(self) -> None:
        """Cut all connections and give the port back."""
        if self._thread.is_alive():
            self._call(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._reserved.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _open_listener(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._connected, self.host, self.port)

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self.upstream, self._board, reader, writer)
        self._board.connected()
        self._connections[connection] = asyncio.create_task(self._serve(connection))

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.serve()
        finally:
            del self._connections[connection]

    async def _cut_all(self, *, reset: bool) -> None:
        for connection in list(self._connections):
            connection.cut(reset=reset)

    async def _shut(self) -> None:
        await self._close_listener()
        tasks = list(self._connections.values())
        for connection, task in self._connections.items():
            connection.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The transports close in the loop's next turns.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
