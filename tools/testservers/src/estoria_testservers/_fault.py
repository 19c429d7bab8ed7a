"""What a proxy can do to a request."""

import asyncio
import enum
import threading
from collections.abc import Callable

Match = bytes | Callable[[bytes], bool]
"""Which requests are meant: those that contain these bytes, or of which this is true."""


class Moment(enum.Enum):
    """Where in an exchange a fault happens."""

    BEFORE_REQUEST = "before the request"
    AFTER_REQUEST = "after the request"
    BEFORE_ANSWER = "before the answer"
    IN_ANSWER = "in mid-answer"


class Fault:
    """Something that will happen to one request, once.

    `happened` tells whether it has, and `wait` waits for it. Where the fault holds the request
    or the answer back, `release` lets it go on.
    """

    def __init__(
        self,
        moment: Moment,
        *,
        match: Match | None = None,
        skip: int = 0,
        after_bytes: int = 0,
        holds: bool = False,
        reset: bool = False,
    ) -> None:
        if skip < 0 or after_bytes < 0:
            msg = f"skip and after_bytes are counts, not {skip} and {after_bytes}"
            raise ValueError(msg)
        self.moment, self.after_bytes, self.holds, self.reset = moment, after_bytes, holds, reset
        self._match, self._skip = match, skip
        self._happened = threading.Event()
        self._released = threading.Event()

    @property
    def happened(self) -> bool:
        """Whether the fault has come about."""
        return self._happened.is_set()

    def wait(self, timeout: float = 10.0) -> None:
        """Wait until the fault has come about; a `TimeoutError` after so many seconds."""
        if not self._happened.wait(timeout):
            msg = f"no request has met the fault {self.moment.value} in {timeout} s"
            raise TimeoutError(msg)

    def release(self) -> None:
        """Let go what the fault holds back."""
        self._released.set()

    def takes(self, request: bytes) -> bool:
        """Whether this is the request to be hit; the proxy asks once for each."""
        if not matches(self._match, request):
            return False
        self._skip -= 1
        return self._skip < 0

    async def happen(self) -> None:
        """Say that the fault has come about, and hold what it holds until it is released."""
        self._happened.set()
        while self.holds and not self._released.is_set():  # noqa: ASYNC110 - see below
            # Released from other threads, where an event of the loop could not be set.
            await asyncio.sleep(0.002)


def matches(match: Match | None, request: bytes) -> bool:
    """Tell whether a request is meant; without a match, any is."""
    if match is None:
        return True
    return match in request if isinstance(match, bytes) else match(request)
