"""What a proxy's connections share: the faults to come, the counts, the stop of all flow."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from estoria_testservers._fault import Fault, Match, matches


@dataclass
class Traffic:
    """What has passed: bytes each way, connections, and round trips.

    A round trip begins when a client sends after its server has spoken, or for the first time;
    what it sends until the server speaks again belongs to the same one.
    """

    round_trips: int = 0
    bytes_to_server: int = 0
    bytes_to_client: int = 0
    connections: int = 0


class Switchboard:
    """Asked by every connection for each piece that passes; told by the proxy what shall happen."""

    def __init__(self, ignore: Match | None) -> None:
        self.traffic = Traffic()
        self._ignore = ignore
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()

    def arm(self, fault: Fault) -> Fault:
        """Have a fault happen to the first request that it takes."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def disarm(self) -> None:
        """Forget the faults that have not happened."""
        with self._lock:
            self._faults.clear()

    def ignores(self, request: bytes) -> bool:
        """Whether a request is one of those that are neither counted nor hit."""
        return self._ignore is not None and matches(self._ignore, request)

    def connected(self) -> None:
        """Count a connection."""
        with self._lock:
            self.traffic.connections += 1

    def asked(self, request: bytes, *, begins: bool) -> Fault | None:
        """Count a piece of a request, and give the fault that hits it."""
        with self._lock:
            self.traffic.bytes_to_server += len(request)
            self.traffic.round_trips += begins
            for fault in self._faults:
                if fault.takes(request):
                    self._faults.remove(fault)
                    return fault
        return None

    def answered(self, size: int) -> None:
        """Count bytes of an answer."""
        with self._lock:
            self.traffic.bytes_to_client += size

    def stall(self) -> None:
        """Hold everything back."""
        self._flowing.clear()

    def flow(self) -> None:
        """Let everything pass again."""
        self._flowing.set()

    async def pass_freely(self) -> None:
        """Wait while everything is held back."""
        while not self._flowing.is_set():  # noqa: ASYNC110 - see below
            # Told from other threads, where an event of the loop could not be set.
            await asyncio.sleep(0.002)

    @contextlib.contextmanager
    def counting(self) -> Iterator[Traffic]:
        """What passes within the context; complete when it has ended."""
        with self._lock:
            before = replace(self.traffic)
        counted = Traffic()
        try:
            yield counted
        finally:
            with self._lock:
                for name, value in vars(self.traffic).items():
                    setattr(counted, name, value - getattr(before, name))
