"""Reading events: by pages underneath, one by one for the caller.

Nothing is held between two pages: no cursor, no connection, no transaction. An iterator
that is dropped half-way leaks nothing, and one whose fetch was cancelled goes on from the
last event that it gave.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from estoria.core._checks import MAX_VERSION, check_bound, check_count, check_stream_id
from estoria.core._errors import (
    EventIteratorClosedError,
    StreamChangedError,
    StreamNotFoundError,
)
from estoria.core._events import Event, StreamInfo
from estoria.core._ids import TypeID

PAGE_EVENTS = 1_000
"""How many events a page holds at most, unless a store says otherwise."""


class EventIterator(ABC, AsyncIterator[Event]):
    """Events of one read, in order.

    ::

        async for event in store.read_stream(account_id):
            ...  # opens at the first step
        events = await store.read_stream(account_id).collect()  # all of it, as a list
        async with store.read_all(after_position=p) as events:  # opened here
            async for event in events:
                ...

    Opens once: at the first step, on entering its context, or in `collect`. An exhausted
    iterator stays exhausted. After `aclose`, or the end of its context, every further step
    raises `EventIteratorClosedError`. For one task at a time.
    """

    _opened = False
    _closed = False
    _more = True

    def __init__(self) -> None:
        self._page: Iterator[Event] = iter(())

    @abstractmethod
    async def _open(self) -> Sequence[Event]:
        """Settle what will be read and give the first page; clear `_more` if it is the last."""

    @abstractmethod
    async def _fetch(self) -> Sequence[Event]:
        """The next page; clear `_more` when nothing can follow it."""

    async def __anext__(self) -> Event:
        while True:
            for event in self._page:
                return event
            page = await self._turn()
            if page is None:
                raise StopAsyncIteration
            self._page = iter(page)

    async def collect(self) -> list[Event]:
        """All events that are left, as a list."""
        events: list[Event] = []
        async for page in self.pages():
            events += page
        return events

    async def pages(self) -> AsyncIterator[Sequence[Event]]:
        """The events that are left, a page at a time: for readers that count every microsecond."""
        rest = list(self._page)
        if rest:
            yield rest
        while (page := await self._turn()) is not None:
            if page:
                yield page

    async def __aenter__(self) -> Self:
        self._check_open()
        if not self._opened:
            self._page = iter(await self._first())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give the iterator up; it can't be read any further."""
        self._closed = True
        self._page = iter(())

    def _check_open(self) -> None:
        if self._closed:
            raise EventIteratorClosedError

    async def _turn(self) -> Sequence[Event] | None:
        self._check_open()
        if not self._opened:
            return await self._first()
        if not self._more:
            return None
        return await self._fetch()

    async def _first(self) -> Sequence[Event]:
        page = await self._open()
        self._opened = True
        return page


StreamFetch = Callable[[int, int, int], Awaitable[tuple[StreamInfo | None, Sequence[Event]]]]
"""``fetch(first, last, limit)``: the stream as it is, and its events of the versions from
`first` to `last`, both included, at most `limit` of them, in the direction of the read, both
seen at one moment. None and no events for a stream that doesn't exist. A page may be
shorter than `limit`, but not empty, when there is something to give."""


class StreamIterator(EventIterator):
    """The events of one stream, up to the version that it had at the opening.

    A later page that lacks what it should hold raises `StreamChangedError`: the read never
    ends short and never mixes two lives of a stream.
    """

    def __init__(
        self,
        fetch: StreamFetch,
        stream_id: TypeID,
        *,
        after_version: int = 0,
        before_version: int | None = None,
        reverse: bool = False,
        count: int | None = None,
        page_events: int = PAGE_EVENTS,
    ) -> None:
        """Takes the arguments of `EventStore.read_stream` and checks them.

        Raises `ValueError` for a bound that is negative or of the other direction, and for
        a `count` below 1.
        """
        super().__init__()
        check_stream_id(stream_id)
        if reverse and after_version != 0:
            raise ValueError("after_version is for reading forwards: use before_version")
        if not reverse and before_version is not None:
            raise ValueError("before_version is for reading in reverse: use after_version")
        self._first_version = check_bound("after_version", after_version) + 1
        self._last_version = MAX_VERSION
        if before_version is not None:
            self._last_version = check_bound("before_version", before_version) - 1
        self._count = check_count(count)
        self._read = fetch
        self._stream_id = stream_id
        self._reverse = reverse
        self._page_events = page_events
        self._stream: StreamInfo | None = None

    @property
    def stream(self) -> StreamInfo:
        """The stream at the opening; `ValueError` before that."""
        if self._stream is None:
            raise ValueError("not opened yet: iterate, or enter the iterator's context")
        return self._stream

    async def _open(self) -> Sequence[Event]:
        first, last = min(self._first_version, MAX_VERSION), self._last_version
        limit = min(self._page_events, self._count or self._page_events)
        stream, events = await self._read(first, last, limit)
        if stream is None:
            raise StreamNotFoundError(self._stream_id)
        self._stream = stream
        first = max(self._first_version, stream.first_version)
        last = min(last, stream.version)
        if self._count is not None and self._reverse:
            first = max(first, last - self._count + 1)
        elif self._count is not None:
            last = min(last, first + self._count - 1)
        self._first_version, self._last_version = first, last
        return self._advance(events)

    async def _fetch(self) -> Sequence[Event]:
        first, last = self._first_version, self._last_version
        limit = min(self._page_events, last - first + 1)
        stream, events = await self._read(first, last, limit)
        if stream is None or stream.origin != self.stream.origin:
            raise self._changed()
        return self._advance(events)

    def _advance(self, events: Sequence[Event]) -> Sequence[Event]:
        """Move the bounds past this page, which must begin where the one before ended."""
        if self._first_version > self._last_version:
            self._more = False
            return ()
        due = self._last_version if self._reverse else self._first_version
        if not events or events[0].stream_version != due:
            raise self._changed()
        if self._reverse:
            self._last_version -= len(events)
        else:
            self._first_version += len(events)
        self._more = self._first_version <= self._last_version
        return events

    def _changed(self) -> StreamChangedError:
        seen = self._last_version + 1 if self._reverse else self._first_version - 1
        return StreamChangedError(self._stream_id, seen)


class GlobalPage(NamedTuple):
    """One page of a global read."""

    events: Sequence[Event]
    """Matching events, in the order of their positions; may be none although more follow."""

    frontier: int
    """The stable frontier; settled by the first page and passed on to the later ones."""

    resume_after: int | None
    """The position after which the next page goes on; None when this is the last one."""


GlobalFetch = Callable[[int, int | None, int], Awaitable[GlobalPage]]
"""``fetch(after, frontier, limit)``: the events above `after` and up to `frontier`, at most
`limit` of them. `frontier` is None in the first call of a read, which settles it."""


class GlobalIterator(EventIterator):
    """Events of all streams, up to the stable frontier at the opening."""

    def __init__(
        self,
        fetch: GlobalFetch,
        *,
        after_position: int = 0,
        count: int | None = None,
        page_events: int = PAGE_EVENTS,
    ) -> None:
        """Raises `ValueError` for a negative `after_position` and for a `count` below 1."""
        super().__init__()
        self._after = check_bound("after_position", after_position)
        self._left = check_count(count)
        self._read = fetch
        self._page_events = page_events
        self._frontier: int | None = None

    async def _open(self) -> Sequence[Event]:
        return await self._fetch()

    async def _fetch(self) -> Sequence[Event]:
        limit = min(self._page_events, self._left or self._page_events)
        events, frontier, resume_after = await self._read(self._after, self._frontier, limit)
        self._frontier = frontier
        if self._left is not None:
            self._left -= len(events)
        self._more = resume_after is not None and self._left != 0
        if resume_after is not None:
            self._after = resume_after
        return events
