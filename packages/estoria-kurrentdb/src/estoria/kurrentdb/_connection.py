"""Asking the server: retries, names for errors, pages."""

import asyncio
import random
import time
from bisect import bisect_right, insort
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from kurrentdbclient import AsyncKurrentDBClient, RecordedEvent, StreamState
from kurrentdbclient.exceptions import (
    InvalidCommitPositionError,
    NotFoundError,
    StreamIsDeletedError,
    UnknownError,
)

from estoria.core import TypeID
from estoria.core.backends import MAX_VERSION, Owner
from estoria.kurrentdb._errors import (
    ANSWERS,
    DRIVER_ERRORS,
    StreamDeletedError,
    is_passing,
    named_error,
)
from estoria.kurrentdb._schema import MAX_COUNT, SOFT_DELETED, TRUNCATE_BEFORE

PAGE_BYTES = 4 * 2**20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_KNOWN_POSITIONS = 512
_USUAL_DEADLINE = 60.0

T = TypeVar("T")


class Records(NamedTuple):
    """Records of one read; `has_ended` unless it was cut off at its limit."""

    found: Sequence[RecordedEvent]
    has_ended: bool


class Retention(NamedTuple):
    """What a stream's metadata say of its first event; `revision` is their own."""

    metadata: dict[str, Any]
    revision: int | StreamState

    @property
    def truncated_before(self) -> int:
        """The first revision that is kept; 0 where nothing was truncated."""
        value = self.metadata.get(TRUNCATE_BEFORE)
        return value if type(value) is int else 0

    def first_version(self, version: int) -> int:
        """The first version still readable of a stream at this version."""
        first = self.truncated_before + 1
        count = self.metadata.get(MAX_COUNT)
        return max(first, version - count + 1) if type(count) is int and count > 0 else first


class Connection:
    """A client, used from one event loop, whose passing troubles are waited for."""

    def __init__(self, client: AsyncKurrentDBClient, retry_seconds: float) -> None:
        self.client = client
        self.where = f"KurrentDB at {', '.join(client.connection_spec.targets)}"
        # Not for reads of all streams, whose filter may have to pass by a great many records.
        self.deadline = client.connection_spec.options.default_deadline or _USUAL_DEADLINE
        self._retry_seconds = retry_seconds
        self._owner = Owner("this KurrentDBEventStore")
        self._positions: list[int] = []

    def check(self) -> asyncio.AbstractEventLoop:
        """The running loop; `StoreMisusedError` in any other, and in a forked child."""
        return self._owner.check()

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer, for as long as retries go on."""
        self.check()
        deadline = time.monotonic() + self._retry_seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                return await _not_cancelled(attempt())
            except ANSWERS:
                raise
            except DRIVER_ERRORS as error:
                if isinstance(error, UnknownError) and "InvalidPosition" in str(error):
                    raise InvalidCommitPositionError(str(error)) from error
                if not is_passing(error) or time.monotonic() > deadline:
                    raise named_error(error, self.where) from error
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def stream(
        self,
        stream_id: TypeID,
        name: str,
        *,
        revision: int | None = None,
        backwards: bool = False,
        limit: int,
    ) -> Records | None:
        """Records of a stream; None where there is no such stream.

        From the one at `revision` on, or from the beginning or the end. Fewer than `limit`
        where they are large.
        """

        async def read() -> Records:
            response = await self.client.read_stream(
                name,
                stream_position=revision,
                backwards=backwards,
                limit=limit,
                timeout=self.deadline,
            )
            return await _drain(response, limit)

        try:
            return await self.run(read)
        except StreamIsDeletedError as error:
            raise StreamDeletedError(stream_id, tombstoned=True) from error
        except NotFoundError:
            await self.retention(stream_id, name)
            return None

    async def retention(self, stream_id: TypeID, name: str) -> Retention:
        """What the stream's metadata say; `StreamDeletedError` for a soft-deleted one."""
        try:
            metadata, revision = await self.run(
                lambda: self.client.get_stream_metadata(name, timeout=self.deadline)
            )
        except StreamIsDeletedError as error:
            raise StreamDeletedError(stream_id, tombstoned=True) from error
        found = Retention(metadata, revision)
        if found.truncated_before == SOFT_DELETED:
            raise StreamDeletedError(stream_id, tombstoned=False)
        return found

    async def head(self) -> int:
        """The position of the last record of all, also of foreign and system ones."""

        async def read() -> int:
            response = await self.client.read_all(
                backwards=True, filter_exclude=(), limit=1, timeout=self.deadline
            )
            found = (await _drain(response, 1)).found
            return found[0].commit_position if found else 0

        position = await self.run(read)
        self._remember(position)
        return position

    async def all(self, after: int, limit: int, pattern: str, *, by_stream: bool) -> Records:
        """Records above a position whose stream or type matches, filtered by the server."""

        async def read() -> Records:
            return await self._all(after, after, limit, pattern, by_stream=by_stream)

        async def read_from_before() -> Records:
            start = self._positions[bisect_right(self._positions, after) - 1 :][:1]
            known = start[0] if start and start[0] <= after else 0
            try:
                return await self._all(known, after, limit, pattern, by_stream=by_stream)
            except InvalidCommitPositionError:
                # What stood there was scavenged.
                return await self._all(0, after, limit, pattern, by_stream=by_stream)

        try:
            records = await self.run(read)
        except InvalidCommitPositionError:
            # The server reads from records only, and at this position there is none.
            records = await self.run(read_from_before)
        if records.found:
            self._remember(records.found[-1].commit_position)
        return records

    async def _all(
        self, start: int, after: int, limit: int, pattern: str, *, by_stream: bool
    ) -> Records:
        # The record at the start is among what the server gives.
        is_bounded = start == after
        response = await self.client.read_all(
            commit_position=start or None,
            filter_include=(pattern,),
            filter_by_stream_name=by_stream,
            limit=limit + 1 if is_bounded else MAX_VERSION,
        )
        return await _drain(response, limit, after, is_bounded=is_bounded)

    def _remember(self, position: int) -> None:
        if not self._positions or position > self._positions[-1]:
            self._positions.append(position)
        elif position not in self._positions:
            insort(self._positions, position)
        if len(self._positions) > _KNOWN_POSITIONS:
            del self._positions[::2]


async def _not_cancelled(call: Awaitable[T]) -> T:
    """What the call gives, unless its task was cancelled: the client drops that here and there."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    answer = await call
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return answer


async def _drain(response: Any, limit: int, after: int = -1, *, is_bounded: bool = True) -> Records:
    """What a read gives above a position, as far as the page goes.

    One that the server bounds is read to its end: a call that is cut off ends later, and then
    perhaps after its event loop.
    """
    found: list[RecordedEvent] = []
    size = 0
    async with response as records:
        async for record in records:
            if record.commit_position <= after:
                continue
            found.append(record)
            size += len(record.data)
            if size > PAGE_BYTES or (len(found) == limit and not is_bounded):
                return Records(found[:limit], has_ended=False)
    return Records(found[:limit], has_ended=len(found) < limit)
