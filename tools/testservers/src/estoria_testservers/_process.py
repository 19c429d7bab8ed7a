"""Servers as processes of this machine."""

import logging
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from estoria_testservers._guard import kill_tree, signal_tree
from estoria_testservers._lifeline import lifeline

_log = logging.getLogger("estoria_testservers")

# The server's program begins only when the guard has heard of the process: until then a shell
# waits for a word, and ends without it if the process that would give it is gone.
_WAIT_FOR_THE_WORD = 'read -r word && exec "$0" "$@"'


class Process(Protocol):
    """A server that can be started again on the data that it left."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        ...

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        ...

    def start(self) -> None:
        """Start it."""
        ...

    def stop(self, patience: float) -> None:
        """Ask it to end and wait; kill it when patience, in seconds, is over."""
        ...

    def kill(self) -> None:
        """Kill it, and what it started, at once."""
        ...

    def pause(self) -> None:
        """Freeze it: it keeps its connections and answers nobody."""
        ...

    def resume(self) -> None:
        """Let it go on after `pause`."""
        ...

    def output(self) -> str:
        """The last lines that it printed."""
        ...

    def close(self) -> None:
        """Kill it and remove what it kept outside its folder."""
        ...


class LocalProcess:
    """A server that this process started, in a folder of its own.

    It runs in its own session, so that an interrupt at the terminal reaches only the tests,
    which then stop it.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        user: pwd.struct_passwd | None = None,
        environ: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._command, self._folder, self._user = list(command), folder, user
        self._environ = {**os.environ, "LC_ALL": "C", **(environ or {})}
        self._stop_signal = stop_signal
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_file = folder / "log"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._popen.pid if self._popen is not None and self.alive else None

    def start(self) -> None:
        """Start it, once the guard knows of it."""
        with self._log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                ["/bin/sh", "-c", _WAIT_FOR_THE_WORD, *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environ,
                start_new_session=True,
                umask=0o077,
                user=self._user.pw_uid if self._user else None,
                group=self._user.pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
            )
        lifeline().watch(self._popen.pid)
        if self._popen.stdin is not None:
            with self._popen.stdin as word:
                word.write(b"go\n")

    def run(self, patience: float) -> int:
        """Start it and wait for its end; its exit status."""
        self.start()
        assert self._popen is not None
        try:
            return self._popen.wait(patience)
        finally:
            self.kill()

    def stop(self, patience: float) -> None:
        """Ask it to end and wait; kill it when patience is over."""
        if self._popen is not None and self.alive:
            self.resume()
            self._popen.send_signal(self._stop_signal)
            try:
                self._popen.wait(patience)
            except subprocess.TimeoutExpired:
                _log.warning("%s has not ended in %s s, killed", self._command[0], patience)
        self.kill()

    def kill(self) -> None:
        """Kill it, and what it started, at once."""
        if self._popen is None:
            return
        if self.alive:
            kill_tree(self._popen.pid)
        self._popen.wait()
        lifeline().forget(self._popen.pid)
        self._popen = None

    def pause(self) -> None:
        """Freeze it and what it started."""
        if self._popen is not None and self.alive:
            signal_tree(self._popen.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        if self._popen is not None and self.alive:
            signal_tree(self._popen.pid, signal.SIGCONT)

    def output(self) -> str:
        """The last lines that it printed."""
        if not self._log_file.exists():
            return ""
        return "\n".join(self._log_file.read_text(errors="replace").splitlines()[-40:])

    def close(self) -> None:
        """Kill it."""
        self.kill()
