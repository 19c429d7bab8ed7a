"""Ends what its parent started, once the parent is gone, however it went.

This file runs as a program of its own and imports nothing but the standard library. It reads
one JSON array per line: `["watch", pid]`, `["forget", pid]`, `["folder", path]`,
`["removed", path]`. When its input ends, or its parent is gone, it kills every process that
it still watches, and removes every folder.
"""

import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_SECONDS_BETWEEN_LOOKS_AT_THE_PARENT = 0.5


def started_at(pid: int) -> str | None:
    """The moment a process began, by which it differs from a later one with the same id.

    `None` where the process is gone, or was and nobody has collected it. A system without
    `/proc` gives the same answer for every process.
    """
    if not Path("/proc/self/stat").exists():
        return "unknown"
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process started, and theirs."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = [int(child) for child in children.read_text().split()]
        except OSError:
            continue
        for child in pids:
            yield child
            yield from descendants(child)


def signal_tree(pid: int, number: signal.Signals) -> list[int]:
    """Send a signal to a process and to all below it; the ids of those that it reached."""
    reached = []
    for one in [pid, *descendants(pid)]:
        try:
            os.kill(one, number)
        except ProcessLookupError:
            continue
        reached.append(one)
    return reached


def kill_tree(pid: int, patience: float = 10.0) -> None:
    """Kill a process and all below it, and wait until they are gone."""
    # A stopped process starts nothing more while the list of its children is read.
    signal_tree(pid, signal.SIGSTOP)
    killed = signal_tree(pid, signal.SIGKILL)
    if started_at(os.getpid()) == "unknown":
        return
    deadline = time.monotonic() + patience
    while any(started_at(one) for one in killed) and time.monotonic() < deadline:
        time.sleep(0.005)


def remove_tree(path: str, patience: float = 5.0) -> None:
    """Remove a folder, also where a dying process still writes into it."""
    deadline = time.monotonic() + patience
    while os.path.lexists(path):
        shutil.rmtree(path, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _lines(parent: int) -> Iterator[bytes]:
    rest = b""
    while True:
        if not select.select([0], [], [], _SECONDS_BETWEEN_LOOKS_AT_THE_PARENT)[0]:
            # Looked at only now: what a parent said before its end is still to be read.
            if os.getppid() != parent:
                return
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def main(parent: int) -> None:
    """Follow the parent's orders until it is gone, then clean up after it."""
    processes: dict[int, str | None] = {}
    folders: dict[str, None] = {}
    for line in _lines(parent):
        order, what = json.loads(line)
        if order == "watch":
            processes[what] = started_at(what)
        elif order == "forget":
            processes.pop(what, None)
        elif order == "folder":
            folders[what] = None
        else:
            folders.pop(what, None)
    for pid, began in processes.items():
        if began is not None and started_at(pid) == began:
            kill_tree(pid)
    for folder in reversed(folders):
        remove_tree(folder)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    main(int(sys.argv[1]))
