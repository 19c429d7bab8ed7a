"""What every server can be told, wherever it came from."""

import abc
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from estoria_testservers._candidate import Candidate, Rung
from estoria_testservers._errors import AddressInUseError, ServerNotOursError, ServerStartError
from estoria_testservers._folders import make_folder, remove_folder
from estoria_testservers._ports import ReservedPort
from estoria_testservers._process import Process
from estoria_testservers._users import unprivileged_user

_log = logging.getLogger("estoria_testservers")

START_PATIENCE = 60.0
"""Seconds that a server has to answer after it was started."""

NAMED_PATIENCE = 5.0
"""Seconds that a server has to answer which the environment names, and which should run."""

STOP_PATIENCE = 20.0
"""Seconds that a server has to end after it was asked to."""

_ATTEMPTS = 5
_WORDS_FOR_IN_USE = ("in use", "already bound", "Failed listening")


class Server(abc.ABC):
    """A server for tests: started, or run by somebody else and only looked at.

    Who starts one closes it, best as a context manager. `stop`, `kill` and `pause` leave the
    data where it is, and `start` goes on with it on the same port. Closing ends the server and
    removes its data. On a server that somebody else runs they raise `ServerNotOursError`, and
    closing does nothing.
    """

    refuses_root = False

    _second_port = 0
    """How far above its port the server takes another one; 0 where it takes one alone."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self._process: Process | None = None
        self._folder: Path | None = None
        self._reserved: ReservedPort | None = None
        self._is_new = False

    @property
    def name(self) -> str:
        """What the server is."""
        return self.candidate.name

    @property
    def version(self) -> str:
        """The server's version, as its binary or the server itself tells it."""
        return self.candidate.version

    @property
    def major(self) -> int:
        """The first number of the version."""
        return self.candidate.major

    @property
    def rung(self) -> Rung:
        """The rung of the ladder that the server came from."""
        return self.candidate.rung

    @property
    def url(self) -> str:
        """Where clients connect to."""
        if self.rung is Rung.ENVIRONMENT:
            return self.candidate.place
        return self._own_url()

    @property
    def host(self) -> str:
        """The host that the server listens on."""
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        """The port that the server listens on; it stays the same over restarts."""
        if self._reserved is not None:
            return self._reserved.number
        return urlsplit(self.url).port or self._usual_port

    @property
    def pid(self) -> int | None:
        """The process id of the server, while it runs and is ours."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs; of somebody else's server, whether it answers."""
        if self._process is not None:
            return self._process.alive
        with contextlib.suppress(*self._not_ready()):
            self._ping()
            return True
        return False

    def start(self) -> None:
        """Start the server on its data and its port, and wait until it answers."""
        process = self._ours("start")
        deadline = time.monotonic() + START_PATIENCE
        while not process.alive:
            process.start()
            try:
                self._wait_until_ready(process, deadline)
            except AddressInUseError:
                # What a kill left behind holds the port, or a data folder, a moment longer.
                if time.monotonic() > deadline or self._is_new:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """End the server as its owner would, and wait for it."""
        self._ours("stop").stop(STOP_PATIENCE)

    def kill(self) -> None:
        """Kill the server and all its processes, as SIGKILL does, and wait for their end."""
        self._ours("die").kill()

    def restart(self) -> None:
        """Stop the server, if it runs, and start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay, nothing is answered."""
        self._ours("pause").pause()

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._ours("resume").resume()

    def output(self) -> str:
        """The last lines that the server printed; empty for somebody else's."""
        return "" if self._process is None else self._process.output()

    def close(self) -> None:
        """End the server and remove its data."""
        if self._process is not None:
            self._process.close()
            self._process = None
        if self._folder is not None:
            remove_folder(self._folder)
            self._folder = None
        if self._reserved is not None:
            self._reserved.release()
            self._reserved = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.candidate} at {self.url}>"

    def open(self) -> Self:
        """Start for the first time, or make sure that somebody else's server answers."""
        if self.rung is Rung.ENVIRONMENT:
            self._wait_until_ready(None, time.monotonic() + NAMED_PATIENCE)
            return self
        with self._closed_on_error():
            for attempt in range(_ATTEMPTS):
                began = time.monotonic()
                try:
                    self._begin()
                except AddressInUseError:
                    self.close()
                    if attempt == _ATTEMPTS - 1:
                        raise
                    continue
                _log.info("started %s in %.2f s", self, time.monotonic() - began)
                return self
        raise AssertionError  # the last attempt has returned or raised

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        user = unprivileged_user() if self.refuses_root else None
        self._is_new = True
        self._reserved = ReservedPort(self._second_port)
        self._folder = make_folder(user)
        self._process = self._new_process(self._folder)
        self.start()
        self._is_new = False
        self._once_started()

    def _ours(self, operation: str) -> Process:
        if self._process is None:
            raise ServerNotOursError(self.name, operation)
        return self._process

    def _wait_until_ready(self, process: Process | None, deadline: float) -> None:
        def ended() -> str | None:
            return "it has ended" if process is not None and not process.alive else None

        try:
            wait_until(self._ping, self._not_ready(), deadline, unless=ended)
        except TimeoutError as error:
            output = self.output()
            kind = ServerStartError
            if ended() and any(words in output for words in _WORDS_FOR_IN_USE):
                kind = AddressInUseError
            if process is not None:
                process.kill()
            raise kind(str(self.candidate), str(error), output) from error

    @property
    @abc.abstractmethod
    def _usual_port(self) -> int: ...

    @abc.abstractmethod
    def _own_url(self) -> str: ...

    @abc.abstractmethod
    def _new_process(self, folder: Path) -> Process: ...

    @abc.abstractmethod
    def _ping(self) -> None:
        """Ask the server something; raise one of `_not_ready` where it can't answer yet."""

    @abc.abstractmethod
    def _not_ready(self) -> tuple[type[Exception], ...]: ...

    def _once_started(self) -> None:  # noqa: B027 - most servers need nothing
        """What a new server needs before anybody uses it, and only once."""


def wait_until(
    attempt: Callable[[], object],
    errors: tuple[type[Exception], ...],
    deadline: float,
    *,
    unless: Callable[[], str | None] = lambda: None,
) -> None:
    """Try until nothing is raised; a `TimeoutError` after the deadline, or when `unless` says why.

    The last error is the cause of the `TimeoutError`.
    """
    pause = 0.01
    while True:
        try:
            attempt()
        except errors as error:
            why = unless() or ("its time is over" if time.monotonic() > deadline else None)
            if why:
                msg = f"{why}; the last attempt: {type(error).__name__}: {error}"
                raise TimeoutError(msg) from error
        else:
            why = unless()
            if not why:
                return
            # Somebody else answered at the address of a server that has ended.
            raise TimeoutError(why)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
