"""Who may use a store: one event loop in one process."""

import asyncio
import os

from estoria.core._errors import StoreMisusedError


class Owner:
    """Remembers the event loop and the process of the first use, and refuses all others.

    A driver's connection that is used from a second loop, or in a forked child, hangs or
    mixes up answers; an error says so instead.
    """

    __slots__ = ("_loop", "_name", "_process")

    def __init__(self, name: str) -> None:
        self._name = name
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> asyncio.AbstractEventLoop:
        """The running loop; raises `StoreMisusedError` if it isn't the owner's."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # So says a forked child that goes on in its parent's loop.
            self._check_process()
            raise
        if loop is not self._loop:
            self._check_process()
            if self._loop is not None:
                raise StoreMisusedError(f"{self._name} belongs to another event loop")
            self._loop = loop
        return loop

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise StoreMisusedError(f"{self._name} belongs to the process that made it")
