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
    """A free port on the loopback, which other processes that use this package leave alone."""

    def __init__(self) -> None:
        self._claim: socket.socket | None = None
        candidates = random.sample(range(_FIRST, _last()), k=200)
        self.number = next((port for port in candidates if self._take(port)), 0)
        if not self.number:
            msg = f"none of 200 ports between {_FIRST} and {_last()} is free"
            raise OSError(msg)

    def _take(self, port: int) -> bool:
        if sys.platform == "linux":
            claim = socket.socket(socket.AF_UNIX)
            try:
                # An abstract socket is a lock that the system lets go with the process.
                claim.bind(f"\0estoria-testservers-port-{port}")
            except OSError:
                claim.close()
                return False
            self._claim = claim
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                self.release()
                return False
        return True

    def release(self) -> None:
        """Let others use the port."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None
