"""Threads that run SQLite for an event loop.

Hand-made rather than `aiosqlite`, which sends each statement to its thread and back: here a
whole operation crosses once, and appends that wait for the writer go out together, with one
sync of the disk for all of them (group commit).
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from estoria.sqlite._errors import named_error

T = TypeVar("T")

Operation = Callable[[sqlite3.Connection], T]

_log = logging.getLogger(__name__)

MAX_GROUP = 256
"""How many writes go into one transaction at most."""


class _Job(NamedTuple):
    operation: Operation[Any]
    future: "asyncio.Future[Any]"
    writes: bool


class _Outcome(NamedTuple):
    future: "asyncio.Future[Any]"
    result: Any
    error: Exception | None


class Worker:
    """A queue of operations, and threads that take from it, each with its own connection.

    Operations that write need a worker of one thread.
    """

    def __init__(
        self, open_connection: Callable[[], sqlite3.Connection], where: str, threads: int
    ) -> None:
        self._open_connection = open_connection
        self._where = where
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"estoria-sqlite-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, operation: Operation[T], *, writes: bool) -> T:
        """Run the operation in a thread and in a transaction, which writers may share.

        Cancelled before it starts it never runs; once started it runs to its end.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(operation, future, writes))
        return await future

    async def stop(self) -> None:
        """Let the threads finish what is queued, close their connections and end."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        for group in self._groups():
            if connection is None:
                try:
                    connection = self._open_connection()
                except Exception as error:  # noqa: BLE001 - it is the caller's to see
                    _deliver([self._failed(job, error) for job in group])
                    continue
            if group[0].writes:
                _deliver(self._write(connection, group))
            else:
                _deliver([self._read(connection, job) for job in group])
        if connection is not None:
            connection.close()

    def _groups(self) -> Iterator[list[_Job]]:
        """What waits in the queue: single reads, and as many writes at a time as there are."""
        job = self._jobs.get()
        while job is not None:
            group = [job]
            following: list[_Job | None] = []
            while job.writes and not following and len(group) < MAX_GROUP:
                try:
                    waiting = self._jobs.get_nowait()
                except Empty:
                    break
                if waiting is not None and waiting.writes:
                    group.append(waiting)
                else:
                    following.append(waiting)
            yield group
            job = following[0] if following else self._jobs.get()

    def _read(self, connection: sqlite3.Connection, job: _Job) -> _Outcome:
        if job.future.cancelled():
            return _Outcome(job.future, None, None)
        try:
            connection.execute("BEGIN")
            result = job.operation(connection)
        except Exception as error:  # noqa: BLE001 - it is the caller's to see
            return self._failed(job, error)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return _Outcome(job.future, result, None)

    def _write(self, connection: sqlite3.Connection, group: list[_Job]) -> list[_Outcome]:
        live = [job for job in group if not job.future.cancelled()]
        if not live:
            return []
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            return [self._failed(job, error) for job in live]
        try:
            outcomes = [self._step(connection, job) for job in live]
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - it is the caller's to see
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if len(live) == 1:
                return [self._failed(live[0], error)]
            # One of them failed after it had changed something: each by itself, then.
            return [outcome for job in live for outcome in self._write(connection, [job])]
        return outcomes

    def _step(self, connection: sqlite3.Connection, job: _Job) -> _Outcome:
        """One write of a group; raises when it failed and the transaction isn't clean."""
        before = connection.total_changes
        try:
            return _Outcome(job.future, job.operation(connection), None)
        except Exception as error:
            if isinstance(error, sqlite3.Error) or connection.total_changes != before:
                raise
            return self._failed(job, error)

    def _failed(self, job: _Job, error: Exception) -> _Outcome:
        if isinstance(error, sqlite3.Error):
            named = named_error(error, self._where)
            named.__cause__ = error
            return _Outcome(job.future, None, named)
        return _Outcome(job.future, None, error)


def _deliver(outcomes: list[_Outcome]) -> None:
    """Hand the outcomes to the event loop that waits for them."""
    if not outcomes:
        return
    try:
        outcomes[0].future.get_loop().call_soon_threadsafe(_settle, outcomes)
    except RuntimeError:
        _log.debug("nobody waits any more for %d operations", len(outcomes))


def _settle(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
