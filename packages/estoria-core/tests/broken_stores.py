"""Stores that break one promise each, held to the suite: `test_suite` reads what fails."""

import asyncio

import pytest
from hypothesis import Phase, settings
from msgspec.structs import replace

from estoria.core import (
    Appended,
    DuplicateEventError,
    Expect,
    StreamVersionMismatchError,
)
from estoria.core.backends import StreamIterator
from estoria.core.memory import MemoryEventStore
from estoria.core.testing import (
    AggregatesAcceptance,
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    RandomScriptsAcceptance,
    StreamDeleterAcceptance,
    StreamListerAcceptance,
    StreamTruncatorAcceptance,
)


class LosesOrder(MemoryEventStore):
    """Pages of a reverse read come forwards."""

    meant = "test_a_read_gives_the_versions_between_its_bounds"

    def read_stream(self, stream_id, **options):
        iterator = super().read_stream(stream_id, **options)
        advance = iterator._advance
        if options.get("reverse"):
            iterator._advance = lambda events: advance(events)[::-1]
        return iterator


class AcceptsAStaleVersion(MemoryEventStore):
    """Takes any expectation not above the tip for a match."""

    meant = "test_a_wrong_expectation_changes_nothing"

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        if type(expect) is int and expect > 0:
            stream = self._streams.get(stream_id)
            if stream and stream.exists and expect <= stream.version:
                expect = Expect.ANY
        return await super().append_stream(stream_id, events, expect=expect)


class DropsMetadata(MemoryEventStore):
    """Has no column for it."""

    meant = "test_what_is_stored_is_what_was_given"

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        appended = await super().append_stream(stream_id, events, expect=expect)
        for event in self._log[-len(appended) :]:
            event.metadata.clear()
        return appended


class ReusesVersionsAfterTruncation(MemoryEventStore):
    """Takes the highest stored version for the tip, and an emptied stream for none."""

    meant = "test_an_emptied_stream_still_exists"

    async def truncate_stream(self, stream_id, to_version):
        await super().truncate_stream(stream_id, to_version)
        stream = self._streams[stream_id]
        if not stream.events:
            stream.version, stream.first_version, stream.exists = 0, 1, False


class StartsAgainAfterDeletion(MemoryEventStore):
    """A stream that was deleted and written again starts at version 1."""

    meant = "test_versions_never_go_back"

    async def delete_stream(self, stream_id):
        await super().delete_stream(stream_id)
        del self._streams[stream_id]


class YieldsPastTheFrontier(MemoryEventStore):
    """A global read goes on as long as there is something."""

    meant = "test_a_read_is_finite"

    def read_all(self, **options):
        iterator = super().read_all(**options)
        fetch = iterator._read

        async def endless(after, frontier, limit):
            page = await fetch(after, None, limit)
            if not page.events:
                return page
            return page._replace(resume_after=page.events[-1].global_position)

        iterator._read = endless
        return iterator


class MutatesItsInput(MemoryEventStore):
    """Notes in the caller's metadata that the event was seen."""

    meant = "test_what_is_given_is_not_changed"

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        appended = await super().append_stream(stream_id, events, expect=expect)
        for event in events:
            event.metadata["seen"] = "yes"
        return appended


class WritesRepeatsAgain(MemoryEventStore):
    """Doesn't know event ids."""

    meant = "test_a_repeated_append_returns_the_first_result"

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        stream = self._streams.get(stream_id)
        if stream:
            stream.ids = dict.fromkeys(stream.ids)
        return await super().append_stream(stream_id, events, expect=expect)


def in_milliseconds(moment):
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class ReturnsWhatItDidNotStore(MemoryEventStore):
    """Keeps milliseconds, and returns microseconds."""

    meant = "test_timestamps_keep_microseconds"

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        appended = await super().append_stream(stream_id, events, expect=expect)
        cut = [
            replace(e, timestamp=in_milliseconds(e.timestamp))
            for e in (self._log[-len(appended) :] if appended else [])
        ]
        if appended and self._log[-1].id == appended[-1].id:
            self._log[-len(cut) :] = cut
            self._streams[stream_id].events[-len(cut) :] = cut
        return appended


class BurnsAVersion(MemoryEventStore):
    """A refused append leaves a hole."""

    meant = "test_a_wrong_expectation_changes_nothing"

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        try:
            return await super().append_stream(stream_id, events, expect=expect)
        except StreamVersionMismatchError as error:
            stream = self._streams.get(stream_id)
            if stream and error.actual > 2:
                stream.version += 1
            raise


class WritesHalfABatch(MemoryEventStore):
    """Writes event by event, and stops at the first that stands there already."""

    meant = "test_a_batch_that_stands_there_in_part_is_refused"

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        try:
            return await super().append_stream(stream_id, events, expect=expect)
        except DuplicateEventError:
            for event in events:
                await super().append_stream(stream_id, [event])
            raise


class TakesEmptyForMissing(MemoryEventStore):
    """Finds no rows, and says that there is no stream."""

    meant = "test_it_yields_nothing_past_the_tip"

    def read_stream(self, stream_id, **options):
        iterator = super().read_stream(stream_id, **options)
        fetch = iterator._read

        async def rows_only(*bounds):
            stream, events = await fetch(*bounds)
            return (stream if events else None), events

        iterator._read = rows_only
        return iterator


class EndsShort(MemoryEventStore):
    """A reader whose next page is gone takes that for the end."""

    meant = "test_a_reader_between_two_pages_is_told"

    def read_stream(self, stream_id, **options):
        class Short(StreamIterator):
            async def _fetch(self):
                page = await self._read(self._first_version, self._last_version, self._page_events)
                if page[0] is None or not page[1] or page[0].first_version > self._first_version:
                    self._more = False
                    return ()
                return self._advance(page[1])

        iterator = super().read_stream(stream_id, **options)
        iterator.__class__ = Short
        return iterator


class IsNotAtomic(MemoryEventStore):
    """Lets others in between two events of a batch."""

    meant = "test_many_who_accept_any_version_all_succeed"

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        batch = list(events)
        if len(batch) < 2 or len(batch) > 9:
            return await super().append_stream(stream_id, batch, expect=expect)
        first = await super().append_stream(stream_id, batch[:1], expect=expect)
        await asyncio.sleep(0)
        rest = await super().append_stream(stream_id, batch[1:])
        return Appended([*first, *rest], rest.stream)


class PassesAnOpenGap(MemoryEventStore):
    """Takes positions at once and shows the events later, without holding readers back."""

    meant = "test_readers_see_a_stable_prefix_while_many_write"

    def __init__(self):
        super().__init__()
        self._open = set()
        self._appends = 0

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        appended = await super().append_stream(stream_id, events, expect=expect)
        self._appends += 1
        hidden = {event.global_position for event in appended}
        if self._appends % 3 == 0:
            self._open |= hidden
            for _ in range(5):
                await asyncio.sleep(0)
            self._open -= hidden
        return appended

    def read_all(self, **options):
        iterator = super().read_all(**options)
        fetch = iterator._read

        async def committed(*bounds):
            page = await fetch(*bounds)
            seen = [event for event in page.events if event.global_position not in self._open]
            return page._replace(events=seen)

        iterator._read = committed
        return iterator


class OrdersByStream(MemoryEventStore):
    """Global reads go stream by stream."""

    meant = "test_all_streams_read_in_one_order"

    def read_all(self, **options):
        iterator = super().read_all(**options)
        fetch = iterator._read

        async def grouped(after, frontier, limit):
            page = await fetch(after, frontier, limit)
            return page._replace(events=sorted(page.events, key=lambda e: e.stream_id))

        iterator._read = grouped
        return iterator


class ForgetsTheFilter(MemoryEventStore):
    """Filters events by type, and streams not at all."""

    meant = "test_filters_select_streams_and_events"

    def read_all(self, *, stream_types=None, **options):
        del stream_types
        return super().read_all(**options)


class UnlimitedGlobalReads(MemoryEventStore):
    """Checks the count of a global read, and forgets it."""

    meant = "test_a_count_limits_it"

    def read_all(self, *, count=None, **options):
        super().read_all(count=count, **options)
        return super().read_all(**options)


class DeletesTheNamesake(MemoryEventStore):
    """Deletes by UUID alone."""

    meant = "test_a_deleted_stream_reads_as_missing"

    async def delete_stream(self, stream_id):
        await super().delete_stream(stream_id)
        # The latest first: scripts share a store, and know nothing of each other's streams.
        for other, stream in reversed(list(self._streams.items())):
            if other != stream_id and stream.exists:
                await super().delete_stream(other)
                break


# That a script differs is enough here: no time is spent on shrinking it.
settings.register_profile("differs", phases=[Phase.generate], derandomize=True)
settings.load_profile("differs")

BROKEN = [
    store
    for store in list(globals().values())
    if isinstance(store, type) and issubclass(store, MemoryEventStore) and hasattr(store, "meant")
]


class Clauses(
    EventStoreAcceptance,
    GlobalReaderAcceptance,
    StreamDeleterAcceptance,
    StreamTruncatorAcceptance,
    StreamListerAcceptance,
    AggregatesAcceptance,
):
    """All of them, but for the random scripts."""

    @pytest.fixture
    async def store(self, broken):
        return broken()


@pytest.mark.parametrize("broken", BROKEN, ids=lambda store: store.__name__)
class TestBroken(Clauses):
    pass


@pytest.mark.parametrize("broken", BROKEN, ids=lambda store: store.__name__)
class TestBrokenInRandomScripts(RandomScriptsAcceptance):
    @pytest.fixture
    async def store(self, broken):
        return broken()
