"""Ports that stay a server's own, also while it is down."""

import random
import re
import socket
import sys
from pathlib import Path

_FIRST = 20000


def _last() -> int:
    """The last port below those that the system gives to outgoing connections.

    A client that keeps trying a port whose server is down may be given that very port as its
    own, and then the server can't come back.
    """
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    except OSError:
        return 32000
    first = int(re.findall(r"\d+", text)[0])
    return first - 1 if first > _FIRST + 1000 else 32000


class ReservedPort:
    """A free port on the loopback, which other processes that use this package leave alone.

    And the one that lies `second` above it, for a server that takes two.
    """

    def __init__(self, second: int = 0) -> None:
        self._claims: list[socket.socket] = []
        candidates = random.sample(range(_FIRST, _last() - second), k=200)
        wanted = {0, second}
        self.number = next((p for p in candidates if self._take({p + each for each in wanted})), 0)
        if not self.number:
            msg = f"none of 200 ports between {_FIRST} and {_last()} is free"
            raise OSError(msg)

    def _take(self, ports: set[int]) -> bool:
        for port in ports:
            if not self._take_one(port):
                self.release()
                return False
        return True

    def _take_one(self, port: int) -> bool:
        if sys.platform == "linux":
            claim = socket.socket(socket.AF_UNIX)
            try:
                # An abstract socket is a lock that the system lets go with the process.
                claim.bind(f"\0estoria-testservers-port-{port}")
            except OSError:
                claim.close()
                return False
            self._claims.append(claim)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
        return True

    def release(self) -> None:
        """Let others use the port."""
        while self._claims:
            self._claims.pop().close()
