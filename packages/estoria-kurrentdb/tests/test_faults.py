"""Answers that are lost, servers that go, calls that are cancelled: known outcomes, named errors.

What no server does on demand, the test double is told to do; cut connections and restarts are
the same on a real server.
"""

import asyncio

import pytest
from estoria_testservers import Proxy, kurrentdb_candidate, start_kurrentdb

from estoria.core import (
    DuplicateEventError,
    EventsAppendedError,
    EventTooLargeError,
    Expect,
    NewEvent,
    StoreBusyError,
    StoreMisusedError,
    StoreUnavailableError,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.testing import new_events, versions, written
from estoria.kurrentdb import AccessDeniedError

pytestmark = pytest.mark.anyio

EXPECTATIONS = [2, Expect.ANY, Expect.STREAM_EXISTS, Expect.NO_STREAM]


@pytest.fixture
def proxy(kurrentdb_server):
    with Proxy(kurrentdb_server.host, kurrentdb_server.port) as proxy:
        yield proxy


CUTS = {
    "before the request": lambda proxy, match: proxy.cut_before_request(match),
    "after the request": lambda proxy, match: proxy.cut_after_request(match),
    "before the answer": lambda proxy, match: proxy.cut_before_answer(match),
    "in mid-answer": lambda proxy, match: proxy.cut_in_answer(20, match),
    "reset": lambda proxy, match: proxy.cut_before_answer(match, reset=True),
}


@pytest.fixture(params=CUTS)
def cut(request, proxy):
    """Cuts the connection of the next request that holds these bytes."""
    return lambda match: CUTS[request.param](proxy, match)


async def begun(store, expect):
    """A stream for which the expectation holds, and the first version that will follow."""
    stream_id = TypeID.new("account")
    if expect is Expect.NO_STREAM:
        return stream_id, 1
    await store.append_stream(stream_id, new_events(2))
    return stream_id, 3


async def assert_once(store, stream_id, batch, appended, start):
    """The batch stands in the stream once, and is what the append gave."""
    due = list(range(start, start + len(batch)))
    assert due == [event.stream_version for event in appended]
    assert batch == [
        NewEvent(e.type, e.data, e.data_content_type, e.metadata, e.id) for e in appended
    ]
    assert appended == await store.read_stream(stream_id, after_version=start - 1).collect()
    assert await versions(store, stream_id) == list(range(1, start + len(batch)))


@pytest.mark.parametrize("expect", EXPECTATIONS, ids=str)
@pytest.mark.parametrize("events", [1, 3])
async def test_an_append_that_is_cut_off_happens_once(
    store, url, connect, proxy, cut, expect, events
):
    """It is tried again under its ids: the caller never learns of the cut."""
    async with connect(proxy.url(url)) as through:
        stream_id, start = await begun(store, expect)
        batch = new_events(events, type="the cut one")
        fault = cut(b"the cut one")

        appended = await through.append_stream(stream_id, batch, expect=expect)

    assert fault.happened
    await assert_once(store, stream_id, batch, appended, start)


async def test_a_read_that_is_cut_off_goes_on(store, url, connect, proxy, cut):
    """From the page that was cut, with nothing twice."""
    stream_id = await written(store, events=2_500)
    async with connect(proxy.url(url)) as through:
        fault = cut(str(stream_id).encode())
        assert await versions(through, stream_id) == list(range(1, 2_501))
    assert fault.happened


async def test_a_global_read_that_is_cut_off_goes_on(store, url, connect, proxy, cut):
    """From the page that was cut, with nothing twice."""
    await written(store, events=2_500, stream_type="thecutone")
    async with connect(proxy.url(url)) as through:
        fault = cut(b"thecutone")
        seen = await through.read_all(stream_types=["thecutone"]).collect()
    assert fault.happened
    assert [event.stream_version for event in seen] == list(range(1, 2_501))


@pytest.mark.parametrize("expect", EXPECTATIONS, ids=str)
@pytest.mark.parametrize("events", [1, 3])
async def test_an_answer_that_is_lost_again_and_again(doubled, control, expect, events):
    """The client gives up after a few; the store goes on, and nothing is doubled."""
    stream_id, start = await begun(doubled, expect)
    batch = new_events(events)
    control.inject("BatchAppend", status="UNAVAILABLE", performed=True, times=6)

    appended = await doubled.append_stream(stream_id, batch, expect=expect)

    await assert_once(doubled, stream_id, batch, appended, start)


@pytest.mark.parametrize("expect", EXPECTATIONS, ids=str)
@pytest.mark.parametrize("events", [1, 3])
@pytest.mark.parametrize("who", ["the same", "another"])
async def test_an_append_that_was_given_up_is_answered_when_it_is_repeated(
    doubled, double_url, connect, control, expect, events, who
):
    """By the same process or another one, with what was stored the first time."""
    stream_id, start = await begun(doubled, expect)
    batch = new_events(events)
    await give_up(doubled, control, stream_id, batch, expect)
    (first, *_) = await doubled.read_stream(stream_id, after_version=start - 1).collect()
    async with connect(double_url) as other:
        store = doubled if who == "the same" else other

        appended = await store.append_stream(stream_id, batch, expect=expect)

        assert appended[0] == first
        await assert_once(store, stream_id, batch, appended, start)


async def give_up(store, control, stream_id, batch, expect):
    """An append that the server performs, and whose caller doesn't wait for the answer."""
    before = control.calls().get("BatchAppend", 0)
    control.inject("BatchAppend", status="CANCELLED", performed=True)
    append = asyncio.ensure_future(store.append_stream(stream_id, batch, expect=expect))
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(0.01)
            if control.calls().get("BatchAppend", 0) > before:
                break
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append


@pytest.mark.parametrize("expect", [Expect.ANY, Expect.STREAM_EXISTS], ids=str)
async def test_events_that_another_process_wrote_apart_are_no_repeat(url, store, connect, expect):
    """The server takes them for one, as long as it knows the ids in whichever place."""
    batch = new_events(3)
    stream_id = TypeID.new("account")
    await store.append_stream(stream_id, batch)
    for part in (batch[::2], batch[::-1], [*batch, *new_events(1)]):
        async with connect(url) as other:
            with pytest.raises(DuplicateEventError):
                await other.append_stream(stream_id, part, expect=expect)
    assert await versions(store, stream_id) == [1, 2, 3]


async def test_a_repeat_that_others_have_appended_after_is_still_one(doubled, control):
    """However far it lies back by now."""
    stream_id = await written(doubled, events=1)
    batch = new_events(2)
    await give_up(doubled, control, stream_id, batch, 1)
    for _ in range(3):
        await doubled.append_stream(stream_id, new_events(400))

    for expect in (1, Expect.ANY, Expect.STREAM_EXISTS):
        appended = await doubled.append_stream(stream_id, batch, expect=expect)

        assert [event.stream_version for event in appended] == [2, 3]
        assert appended.stream.version == 1_203


@pytest.mark.parametrize("expect", [2, Expect.ANY], ids=str)
async def test_positions_that_can_t_be_read_back_are_named(double_url, connect, control, expect):
    """The events are durable, and the caller is told so."""
    async with connect(double_url, retry_seconds=0) as store:
        stream_id, _ = await begun(store, expect)
        control.inject("Read", status="PERMISSION_DENIED", times=10)
        with pytest.raises(EventsAppendedError) as caught:
            await store.append_stream(stream_id, new_events(3), expect=expect)
        control.clear()

        assert caught.value.aggregate_id == stream_id
        assert await versions(store, stream_id) == [1, 2, 3, 4, 5]


async def test_a_read_that_breaks_off_in_mid_page_goes_on(doubled, control):
    """The page is read again as a whole, and nothing is given twice."""
    stream_id = await written(doubled, events=2_500)
    for status in ("UNAVAILABLE", "INTERNAL", "CANCELLED", "ABORTED"):
        control.inject("Read", nth=2, status=status, details="broken", messages=300)
        assert await versions(doubled, stream_id) == list(range(1, 2_501))
        control.inject("Read", nth=4, status=status, details="broken", messages=300)
        seen = await doubled.read_all().collect()
        assert [event.stream_version for event in seen] == list(range(1, 2_501))


async def test_a_reader_that_was_too_slow_goes_on(doubled, control):
    """The server breaks its call off; the page is read again."""
    stream_id = await written(doubled, events=50)
    control.inject("Read", status="ABORTED", details="Consumer too slow", messages=7)
    assert await versions(doubled, stream_id) == list(range(1, 51))


FAULTS = {
    "too slow": ("ABORTED", "Consumer too slow", StoreBusyError, "too slowly"),
    "deadline": ("DEADLINE_EXCEEDED", "", StoreBusyError, "deadline"),
    "denied": ("PERMISSION_DENIED", "Access Denied", AccessDeniedError, "denied"),
    "who": ("UNAUTHENTICATED", "Bad credentials", AccessDeniedError, "denied"),
    "leader": ("NOT_FOUND", "Leader info available", StoreUnavailableError, "Leader"),
    "gone": ("UNAVAILABLE", "shutting down", StoreUnavailableError, "shutting down"),
    "broken": ("INTERNAL", "out of order", StoreUnavailableError, "out of order"),
    "handler": ("UNKNOWN", "Exception was thrown by handler.", StoreUnavailableError, "handler"),
    "unheard of": ("DATA_LOSS", "oh", StoreUnavailableError, "oh"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_stays_wrong_is_named(double_url, connect, control, fault):
    """In writing and in each kind of reading, with the server's reason and its error as cause."""
    status, details, kind, words = FAULTS[fault]
    async with connect(double_url, retry_seconds=0) as store:
        stream_id = await written(store, events=2)
        await store.truncate_stream(stream_id, 1)
        for method in ("BatchAppend", "Read"):
            control.inject(method, status=status, details=details, times=1_000)
        for use in (
            lambda: store.append_stream(stream_id, new_events(1)),
            lambda: store.append_stream(TypeID.new("account"), new_events(1), expect=0),
            lambda: store.read_stream(stream_id).collect(),
            lambda: store.read_all().collect(),
            lambda: store.truncate_stream(stream_id, 2),
        ):
            with pytest.raises(kind, match=words) as caught:
                await use()
            assert caught.value.__cause__ is not None
        control.clear()
        assert await versions(store, stream_id) == [2]


@pytest.mark.parametrize("fault", ["too slow", "deadline", "leader", "gone", "broken", "handler"])
async def test_what_passes_is_waited_for(doubled, control, fault):
    """The caller hears nothing of it."""
    status, details, _, _ = FAULTS[fault]
    stream_id = await written(doubled, events=1)
    for method in ("BatchAppend", "Read"):
        control.inject(method, status=status, details=details, times=3)

    (event,) = await doubled.append_stream(stream_id, new_events(1), expect=1)

    assert event.stream_version == 2
    assert await versions(doubled, stream_id) == [1, 2]


async def test_a_call_past_its_deadline_is_named(double_url, connect, control):
    """The deadline is the URL's; a server that doesn't answer is no reason to hang."""
    url = double_url.replace("?", "?defaultDeadline=1&")
    async with connect(url, retry_seconds=0) as store:
        stream_id = await written(store, events=1)
        for method in ("BatchAppend", "Read"):
            control.inject(method, delay=60, times=4)
        for use in (
            lambda: store.append_stream(stream_id, new_events(1), expect=1),
            lambda: store.read_stream(stream_id).collect(),
        ):
            with pytest.raises(StoreBusyError, match="deadline"):
                await use()


@pytest.mark.parametrize("kind", ["stop", "kill"])
async def test_a_server_that_restarts_in_mid_append_loses_nothing(fresh_server, connect, kind):
    """On the same log: what was acknowledged stands there once, in its order."""
    server = fresh_server(start_kurrentdb, kurrentdb_candidate(owned=True))
    async with connect(server.url, retry_seconds=60) as store:
        streams = [TypeID.new("account") for _ in range(4)]
        first_ones, enough = asyncio.Event(), asyncio.Event()
        acknowledged = {stream_id: [] for stream_id in streams}

        async def write(stream_id, expect_exactly):
            kept = acknowledged[stream_id]
            while not enough.is_set() or len(kept) < 40:
                expect = len(kept) if expect_exactly and kept else Expect.ANY
                kept += await store.append_stream(stream_id, new_events(2), expect=expect)
                if len(kept) > 10:
                    first_ones.set()

        async def restart():
            await first_ones.wait()
            await asyncio.to_thread(getattr(server, kind))
            await asyncio.to_thread(server.start)
            enough.set()

        await asyncio.gather(restart(), *(write(s, n % 2) for n, s in enumerate(streams)))

        for stream_id in streams:
            assert acknowledged[stream_id] == await store.read_stream(stream_id).collect()


async def test_a_server_that_restarts_in_mid_read_is_read_to_the_end(fresh_server, connect):
    """Between two pages; the log is the same, and so are the positions."""
    server = fresh_server(start_kurrentdb, kurrentdb_candidate(owned=True))
    async with connect(server.url, retry_seconds=60) as store:
        stream_id = await written(store, events=4_500)
        seen = []
        for read in (store.read_stream(stream_id), store.read_all()):
            async with read as events:
                seen = [(await anext(events)).stream_version]
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                seen += [event.stream_version async for event in events]
            assert seen == list(range(1, 4_501))


async def test_a_server_that_is_gone_is_named(fresh_server, connect):
    """Within the time for retries, with the reason."""
    server = fresh_server(start_kurrentdb, kurrentdb_candidate(owned=True))
    async with connect(server.url, retry_seconds=0.5) as store:
        stream_id = await written(store, events=1)
        await asyncio.to_thread(server.stop)
        for use in (
            lambda: store.append_stream(stream_id, new_events(1)),
            lambda: store.read_stream(stream_id).collect(),
            store.head_position,
        ):
            with pytest.raises(StoreUnavailableError, match=rf"{server.port}"):
                await use()
    with pytest.raises(StoreUnavailableError):
        async with connect(server.url, retry_seconds=0):
            pass


class CancelledAt:
    """Awaits a coroutine, and cancels its own task at the nth await in it."""

    def __init__(self, coroutine, nth):
        self.steps, self.nth = coroutine.__await__(), nth

    def __await__(self):
        step, argument = self.steps.send, None
        while True:
            try:
                future = step(argument)
            except StopIteration as done:
                return done.value
            self.nth -= 1
            if self.nth == 0:
                asyncio.current_task().cancel()
            try:
                step, argument = self.steps.send, (yield future)
            except BaseException as error:
                step, argument = self.steps.throw, error


async def _cancelled_at(coroutine, nth):
    return await CancelledAt(coroutine, nth)


async def cancelled_everywhere(operation):
    """Runs an operation again and again, cancelled at its first await, its second, ..."""
    nth = 0
    while True:
        # Each of the first ones, then here and there: a page has one for each record.
        nth += 1 + nth // 20
        task = asyncio.ensure_future(_cancelled_at(operation(), nth))
        await asyncio.wait([task])
        yield
        if not task.cancelled():
            task.result()
            assert nth > 2
            return


async def test_an_append_that_is_cancelled_anywhere_may_be_repeated(store):
    """It happened or it didn't; the repeat writes it once, whatever was expected."""
    for expect in EXPECTATIONS:
        for events in (1, 3):
            stream_id, start = await begun(store, expect)
            batch = new_events(events)

            def append(stream_id=stream_id, batch=batch, expect=expect):
                return store.append_stream(stream_id, batch, expect=expect)

            async for _ in cancelled_everywhere(append):
                pass
            appended = await append()

            await assert_once(store, stream_id, batch, appended, start)


async def test_an_append_that_is_cancelled_anywhere_is_whole_or_not_there(store):
    """And whoever comes next finds the store as usable as before."""
    for expect in (Expect.NO_STREAM, Expect.ANY):
        streams = []

        def append(streams=streams, expect=expect):
            streams.append(TypeID.new("account"))
            return store.append_stream(streams[-1], new_events(3), expect=expect)

        async for _ in cancelled_everywhere(append):
            found = await store.read_all(after_position=0, stream_types=["account"]).collect()
            mine = [e.stream_version for e in found if e.stream_id == streams[-1]]
            assert mine in ([], [1, 2, 3])


async def test_a_truncation_that_is_cancelled_anywhere_may_be_repeated(store):
    """It is all of it or nothing of it."""
    stream_id = await written(store, events=5)
    async for _ in cancelled_everywhere(lambda: store.truncate_stream(stream_id, 2)):
        assert await versions(store, stream_id) in ([1, 2, 3, 4, 5], [3, 4, 5])
    await store.truncate_stream(stream_id, 2)
    assert await versions(store, stream_id) == [3, 4, 5]


async def test_a_read_that_is_cancelled_anywhere_goes_on(store):
    """From the last event that it gave, or not at all; nothing is left out."""
    stream_id = await written(store, events=300)
    for read in (
        lambda: store.read_stream(stream_id).collect(),
        lambda: store.read_stream(stream_id, reverse=True).collect(),
        lambda: store.read_all(stream_types=["account"]).collect(),
    ):
        async for _ in cancelled_everywhere(read):
            pass
    assert await versions(store, stream_id) == list(range(1, 301))


async def test_an_event_over_the_limit_is_named(fresh_server, connect):
    """The store's own limit before anything is sent, else the server's; nothing is written."""
    candidate = kurrentdb_candidate(owned=True)
    server = fresh_server(start_kurrentdb, candidate, max_append_bytes=2**20)
    async with connect(server.url) as store, connect(server.url, max_event_bytes=100) as small:
        stream_id = await written(store, events=1)
        for each, size, limit in ((small, 101, 100), (store, 2**20 + 1, 2**20)):
            batch = [NewEvent("small", b""), NewEvent("large", bytes(size))]
            with pytest.raises(EventTooLargeError) as caught:
                await each.append_stream(stream_id, batch)
            assert caught.value.limit == limit
            assert caught.value.event_id == batch[1].id
            assert caught.value.size > limit
        batch = [NewEvent("half", bytes(2**19)) for _ in range(3)]
        with pytest.raises(EventTooLargeError) as caught:
            await store.append_stream(stream_id, batch)
        assert caught.value.limit == 2**20
        assert await versions(store, stream_id) == [1]


async def test_a_second_event_loop_is_named(store):
    """The client belongs to the first one."""

    def elsewhere(use):
        return asyncio.run(use())

    with pytest.raises(StoreMisusedError):
        await asyncio.to_thread(elsewhere, lambda: written(store))
    with pytest.raises(StoreMisusedError):
        await asyncio.to_thread(elsewhere, lambda: store.read_all().collect())


async def test_more_abandoned_iterators_than_anybody_needs(store):
    """Nothing is held between two pages."""
    stream_id = await written(store, events=1_200)
    kept = []
    for _ in range(10):
        kept += [store.read_stream(stream_id), store.read_all(), store.read_stream(stream_id)]
        for events in kept[-2:]:
            await anext(events)
    await written(store, events=1)


async def test_a_refused_append_tells_the_true_version(doubled, double_url, connect):
    """The server's word at the refusal, whoever has appended since the last look."""
    async with connect(double_url) as other:
        stream_id = await written(doubled, events=3)
        await other.append_stream(stream_id, new_events(300))
        for expect in (0, 1, 3, 302, 304):
            with pytest.raises(StreamVersionMismatchError) as caught:
                await doubled.append_stream(stream_id, new_events(1), expect=expect)
            assert caught.value.actual == 303
        with pytest.raises(StreamVersionMismatchError) as caught:
            await doubled.append_stream(TypeID.new("account"), new_events(1), expect=7)
        assert caught.value.actual == 0
