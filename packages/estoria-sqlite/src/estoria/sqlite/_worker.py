"""Threads that run SQLite for an event loop.

Hand-made rather than `aiosqlite`, which sends each statement to its thread and back: here a
whole operation crosses once, and appends that wait for the writer go out together, with one
sync of the disk for all of them (group commit).
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar

import msgspec

from estoria.sqlite._errors import named_error

T = TypeVar("T")

Operation = Callable[[sqlite3.Connection], T]

_log = logging.getLogger(__name__)

MAX_GROUP = 256
"""How many writes go into one transaction at most."""

MAX_CHANGES = 10_000
"""After how many changed rows a transaction takes in no further write."""


class _Job(msgspec.Struct, frozen=True):
    operation: Operation[Any]
    future: "asyncio.Future[Any]"
    writes: bool
    queued: float


class _Outcome(msgspec.Struct, frozen=True):
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
        self._held: list[_Job | None] = []
        self._gave_up = 0.0
        self._reason: sqlite3.Error = sqlite3.OperationalError()
        self._threads = [
            threading.Thread(target=self._work, name=f"estoria-sqlite-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, operation: Operation[T], *, writes: bool) -> "asyncio.Future[T]":
        """Run the operation in a thread and in a transaction, which writers may share.

        Cancelled before it starts it never runs; once started it runs to its end.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(operation, future, writes, monotonic()))
        return future

    async def stop(self) -> None:
        """Let the threads finish what is queued, close their connections and end."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        while (job := self._take()) is not None:
            if connection is None:
                try:
                    connection = self._open_connection()
                except Exception as error:  # noqa: BLE001 - it is the caller's to see
                    _deliver([self._failed(job, error)])
                    continue
            if job.writes:
                _deliver(self._write(connection, job))
            else:
                _deliver([self._read(connection, job)])
        if connection is not None:
            connection.close()

    def _take(self) -> _Job | None:
        return self._held.pop() if self._held else self._jobs.get()

    def _take_write(self) -> _Job | None:
        """The next job if it is there already and writes."""
        try:
            job = self._jobs.get_nowait()
        except Empty:
            return None
        if job is not None and job.writes:
            return job
        self._held.append(job)
        return None

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

    def _write(self, connection: sqlite3.Connection, first: _Job) -> list[_Outcome]:
        """Write the job, and those that come meanwhile, in one transaction if all goes well."""
        if first.queued < self._gave_up:
            return [self._failed(first, self._reason)]
        started = monotonic()
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            # What was waiting by then has waited as long, and isn't tried any further.
            self._gave_up, self._reason = started, error
            return [self._failed(first, error)]
        group: list[_Job] = []
        try:
            return self._transact(connection, first, group)
        except Exception as error:  # noqa: BLE001 - it is the caller's to see
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if len(group) == 1:
                return [self._failed(first, error)]
        # One of them failed after it had changed something: each by itself, then.
        return [outcome for job in group for outcome in self._write_alone(connection, job)]

    def _transact(
        self, connection: sqlite3.Connection, first: _Job, group: list[_Job]
    ) -> list[_Outcome]:
        outcomes = []
        full = connection.total_changes + MAX_CHANGES
        job: _Job | None = first
        while job is not None:
            group.append(job)
            if not job.future.cancelled():
                outcomes.append(self._step(connection, job))
            room = len(group) < MAX_GROUP and connection.total_changes < full
            job = self._take_write() if room else None
        connection.execute("COMMIT")
        return outcomes

    def _write_alone(self, connection: sqlite3.Connection, job: _Job) -> list[_Outcome]:
        if job.future.cancelled():
            return []
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcome = self._step(connection, job)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - it is the caller's to see
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return [self._failed(job, error)]
        return [outcome]

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
    for outcome in outcomes:
        if outcome.future.done():
            continue
        if outcome.error is None:
            outcome.future.set_result(outcome.result)
        else:
            outcome.future.set_exception(outcome.error)
