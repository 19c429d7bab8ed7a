"""``python -m estoria_testservers.kurrentdb --port N``: the test double, until it is stopped."""

import argparse
import asyncio
import logging
import signal
from pathlib import Path

from estoria_testservers.kurrentdb._log import MAX_APPEND_BYTES
from estoria_testservers.kurrentdb._server import ProtocolServer

_log = logging.getLogger("estoria_testservers.kurrentdb")


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="estoria_testservers.kurrentdb", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=2113)
    parser.add_argument("--file", type=Path, help="keep the log there, over restarts and kills")
    parser.add_argument("--max-append-bytes", type=int, default=MAX_APPEND_BYTES)
    parser.add_argument("--key", type=Path, help="speak TLS, with this private key")
    parser.add_argument("--certificate", type=Path, help="and this chain")
    parser.add_argument("--login", help="USER:PASSWORD that every call must bring")
    logging.basicConfig(level=logging.INFO)
    asyncio.run(_serve(parser.parse_args()))


async def _serve(arguments: argparse.Namespace) -> None:
    certificate = None
    if arguments.key is not None:
        certificate = arguments.key.read_bytes(), arguments.certificate.read_bytes()
    server = ProtocolServer(
        host=arguments.host,
        port=arguments.port,
        file=arguments.file,
        max_append_bytes=arguments.max_append_bytes,
        certificate=certificate,
        login=arguments.login,
    )
    await server.start()
    _log.info("a test double of KurrentDB at %s", server.url)
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, lambda: loop.create_task(server.stop()))
    await server.wait()


if __name__ == "__main__":
    main()
