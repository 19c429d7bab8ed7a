"""One client's connection through a proxy."""

import asyncio
import contextlib
import socket
import struct

from estoria_testservers._fault import Fault, Moment
from estoria_testservers._switchboard import Switchboard

_CHUNK = 256 * 1024


class _CutError(Exception):
    """This connection has been cut, by order."""


class Connection:
    """Carries bytes between a client and the server, and does to them what its proxy's faults say.

    When the client's side is cut after a request, the server's side is closed as by a client
    that has vanished: what was sent arrives, and what comes back is read and thrown away.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        board: Switchboard,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._upstream, self._board = upstream, board
        self._client_reader, self._client_writer = reader, writer
        self._server_writer: asyncio.StreamWriter | None = None
        self._fault: Fault | None = None
        self._answer_bytes = 0
        self._client_spoke_last = False
        self._ignored = False
        self._cut = False

    async def serve(self) -> None:
        """Carry bytes both ways until either side ends or the connection is cut."""
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            self.cut(reset=True)
            return
        self._server_writer = server_writer
        requests = asyncio.create_task(self._carry_requests(server_writer))
        answers = asyncio.create_task(self._carry_answers(server_reader))
        try:
            await asyncio.wait({requests, answers}, return_when=asyncio.FIRST_COMPLETED)
            if not requests.done() and not self._cut:
                # The server has ended: the client learns it when it has all the server said.
                self._client_writer.close()
            elif requests.done() and not answers.done():
                await self._let_the_server_finish(answers)
        finally:
            for task in (requests, answers):
                task.cancel()
            await asyncio.gather(requests, answers, return_exceptions=True)
            self.cut(reset=False)
            server_writer.close()

    def cut(self, *, reset: bool) -> None:
        """End the client's side."""
        if self._cut:
            return
        self._cut = True
        if reset:
            raw = self._client_writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._client_writer.transport.abort()
        else:
            self._client_writer.close()

    def abort(self) -> None:
        """End both sides at once, whatever is still on its way."""
        self._cut = True
        self._client_writer.transport.abort()
        if self._server_writer is not None:
            self._server_writer.transport.abort()

    async def _let_the_server_finish(self, answers: "asyncio.Task[None]") -> None:
        writer = self._server_writer
        if writer is not None and writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()
        await asyncio.wait({answers})

    async def _carry_requests(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, _CutError):
            while piece := await self._client_reader.read(_CHUNK):
                await self._board.pass_freely()
                await self._request(piece, writer)

    async def _request(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        begins = not self._client_spoke_last
        self._ignored = self._board.ignores(piece)
        fault = None if self._ignored else self._board.asked(piece, begins=begins)
        self._client_spoke_last = True
        if fault is not None and fault.moment is Moment.BEFORE_REQUEST:
            await self._meet(fault)
        elif fault is not None:
            self._fault, self._answer_bytes = fault, 0
        writer.write(piece)
        await writer.drain()
        if fault is not None and fault.moment is Moment.AFTER_REQUEST:
            await self._meet(fault)

    async def _carry_answers(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, _CutError):
            while piece := await reader.read(_CHUNK):
                await self._board.pass_freely()
                if not self._cut:
                    await self._answer(piece)

    async def _answer(self, piece: bytes) -> None:
        self._client_spoke_last = False
        fault = self._fault
        if fault is not None and fault.moment is Moment.BEFORE_ANSWER:
            self._fault = None
            await self._meet(fault)
        elif fault is not None and fault.moment is Moment.IN_ANSWER:
            left = fault.after_bytes - self._answer_bytes
            if len(piece) >= left:
                self._fault = None
                await self._give(piece[:left])
                await self._meet(fault)
        await self._give(piece)

    async def _give(self, piece: bytes) -> None:
        self._answer_bytes += len(piece)
        if not self._ignored:
            self._board.answered(len(piece))
        self._client_writer.write(piece)
        await self._client_writer.drain()

    async def _meet(self, fault: Fault) -> None:
        if fault.holds:
            await fault.happen()
            return
        self.cut(reset=fault.reset)
        await fault.happen()
        raise _CutError
