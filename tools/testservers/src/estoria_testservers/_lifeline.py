"""The line to the guard, which cleans up after a process that could not do so itself."""

import atexit
import functools
import json
import os
import subprocess
import sys
import threading

from estoria_testservers import _guard


class Lifeline:
    """Tells a guard process what to end when this process is gone.

    The guard sees the end of the line, or its parent gone, and so it also acts after a
    SIGKILL, where nothing in this process could. It is a process of its own session, so that
    an interrupt at the terminal does not reach it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", _guard.__file__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    @property
    def guard_pid(self) -> int:
        """The process id of the guard."""
        return self._guard.pid

    def watch(self, pid: int) -> None:
        """Have a process, and all that it starts, killed when this process is gone."""
        self._tell("watch", pid)

    def forget(self, pid: int) -> None:
        """Take back `watch`, once the process has ended."""
        self._tell("forget", pid)

    def folder(self, path: str) -> None:
        """Have a folder removed when this process is gone."""
        self._tell("folder", path)

    def removed(self, path: str) -> None:
        """Take back `folder`, once it is removed."""
        self._tell("removed", path)

    def close(self) -> None:
        """Have the guard end everything that is left, and wait for it."""
        stdin = self._guard.stdin
        if stdin is not None and not stdin.closed:
            stdin.close()
        self._guard.wait()

    def _tell(self, order: str, what: int | str) -> None:
        line = json.dumps([order, what]).encode() + b"\n"
        stdin = self._guard.stdin
        if stdin is None or stdin.closed:
            return
        with self._lock:
            os.write(stdin.fileno(), line)


@functools.cache
def _lifeline_of(_pid: int) -> Lifeline:
    lifeline = Lifeline()
    owner = os.getpid()

    def close() -> None:
        # A forked child leaves the guard to the process that started it.
        if os.getpid() == owner:
            lifeline.close()

    atexit.register(close)
    return lifeline


def lifeline() -> Lifeline:
    """The lifeline of this process; a forked child has one of its own."""
    return _lifeline_of(os.getpid())
