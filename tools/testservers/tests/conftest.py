"""The sync and the async client of `kurrentdbclient` behind one face, and what they talk to."""

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator
from itertools import islice

import pytest
from estoria_testservers import fresh_name, kurrentdb_double, start_kurrentdb
from kurrentdbclient import (
    AsyncKurrentDBClient,
    KurrentDBClient,
    NewEvent,
    StreamState,
    exceptions,
)

_PATIENCE = 60


class LoopThread:
    """An event loop that goes on between the calls of a synchronous test."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, awaitable):
        return asyncio.run_coroutine_threadsafe(_awaited(awaitable), self._loop).result(_PATIENCE)

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _awaited(what):
    result = what() if callable(what) else what
    return await result if inspect.isawaitable(result) else result


class SyncFace:
    """The sync client; what could be waited for without an end has a deadline."""

    def __init__(self, url, **options):
        self._client = KurrentDBClient(url, **options)

    def __getattr__(self, name):
        return _with_deadline(getattr(self._client, name), name)


def _with_deadline(attribute, name):
    if not name.startswith(("subscribe_to_", "read_subscription_to_")):
        return attribute
    return lambda *args, **options: attribute(*args, **{"timeout": _PATIENCE, **options})


class AsyncFace:
    """The async client, called as the sync one is."""

    def __init__(self, loop, url, **options):
        self._loop = loop

        async def connected():
            client = AsyncKurrentDBClient(url, **options)
            await client.connect()
            return client

        self._client = loop.run(connected)

    def __getattr__(self, name):
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        attribute = _with_deadline(attribute, name)

        def call(*args, **options):
            result = self._loop.run(lambda: attribute(*args, **options))
            return AsyncEvents(self._loop, result) if isinstance(result, AsyncIterator) else result

        return call


class AsyncEvents:
    """A read response or a subscription of the async client, used as the sync one's is."""

    def __init__(self, loop, events):
        self._loop, self._events = loop, events

    def __iter__(self):
        return self

    def __next__(self):
        async def following():
            return await anext(self._events, None)

        event = self._loop.run(following)
        if event is None:
            raise StopIteration
        return event

    def __enter__(self):
        self._loop.run(self._events.__aenter__)
        return self

    def __exit__(self, *raised):
        self._loop.run(lambda: self._events.__aexit__(*raised))

    def __getattr__(self, name):
        attribute = getattr(self._events, name)
        if not callable(attribute):
            return attribute
        return lambda *args, **options: self._loop.run(lambda: attribute(*args, **options))


class Source:
    """The calls about one group, which are alike for a stream and for all."""

    def __init__(self, client, group, stream, *, to_all):
        self.client, self.group, self.stream, self.to_all = client, group, stream, to_all

    def create(self, **options):
        if self.to_all:
            self.client.create_subscription_to_all(
                self.group, filter_include=[self.stream], filter_by_stream_name=True, **options
            )
        else:
            self.client.create_subscription_to_stream(self.group, self.stream, **options)
        return self

    def update(self, **options):
        where = () if self.to_all else (self.stream,)
        how = "all" if self.to_all else "stream"
        getattr(self.client, f"update_subscription_to_{how}")(self.group, *where, **options)

    def read(self, client=None, **options):
        where = () if self.to_all else (self.stream,)
        how = "all" if self.to_all else "stream"
        call = getattr(client or self.client, f"read_subscription_to_{how}")
        return call(self.group, *where, **options)

    def info(self):
        return self.client.get_subscription_info(self.group, *self._where())

    def delete(self):
        self.client.delete_subscription(self.group, *self._where())

    def append(self, *events):
        self.client.append_to_stream(self.stream, current_version=StreamState.ANY, events=events)

    def wait_until_idle(self):
        """Until the server has heard of everything that was acknowledged."""
        until(lambda: not self.info().total_in_flight_messages)

    def replay_parked(self):
        self.client.replay_parked_events(self.group, *self._where())

    def start_at(self, number):
        """The option that begins with the event of this number."""
        if self.to_all:
            return {"commit_position": self.client.get_stream(self.stream)[number].commit_position}
        return {"stream_position": number}

    def _where(self):
        return () if self.to_all else (self.stream,)


def until(condition):
    """Wait for what comes by itself."""
    started = time.monotonic()
    while not (result := condition()):
        assert time.monotonic() < started + _PATIENCE
        time.sleep(0.02)
    return result


@pytest.fixture(name="until", scope="session")
def until_it_is_so():
    return until


@pytest.fixture(scope="session")
def taken():
    """Takes so many events from a persistent subscription, and acknowledges each."""

    def acknowledged(count, subscription):
        events = []
        for event in islice(subscription, count):
            subscription.ack(event)
            events.append(event)
        return events

    return acknowledged


@pytest.fixture(scope="session")
def loop_thread():
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def shared_double():
    """The test double, and never a real KurrentDB."""
    with start_kurrentdb(kurrentdb_double()) as server:
        yield server


@pytest.fixture
def control(shared_double):
    """The switch of the shared double, which is turned back when the test ends."""
    switch = shared_double.control()
    switch.clear()
    yield switch
    switch.clear()
    switch.close()


@pytest.fixture(params=["sync", "async"])
def connect(request, loop_thread):
    """Connects clients of either kind; they are closed when the test ends."""
    clients = []

    def connected(url, **options):
        if request.param == "sync":
            client = SyncFace(url, **options)
        else:
            client = AsyncFace(loop_thread, url, **options)
        clients.append(client)
        return client

    yield connected
    for client in clients:
        client.close()


@pytest.fixture
def client(connect, shared_double):
    """A client of either kind, on the shared double."""
    return connect(shared_double.url)


@pytest.fixture(scope="session")
def denied():
    """What the client says to PERMISSION_DENIED, which the oldest one has no name for."""
    named = hasattr(exceptions, "CancelledError")
    return exceptions.AccessDeniedError if named else exceptions.GrpcError


@pytest.fixture
def stream():
    """The name of a stream of the test's own."""
    return fresh_name("stream")


@pytest.fixture
def some_events():
    """Makes so many events, each of a type of its own: ``Happened0``, ``Happened1``, ..."""

    def made(count, prefix="Happened"):
        return [NewEvent(type=f"{prefix}{n}", data=b'{"n": %d}' % n) for n in range(count)]

    return made


@pytest.fixture
def group():
    """The name of a persistent subscription of the test's own."""
    return fresh_name("group")


@pytest.fixture
def three(client, stream, some_events):
    """Three events, recorded in the test's own stream."""
    events = some_events(3)
    client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events)
    return events


@pytest.fixture(params=["stream", "all"])
def source(request, client, stream, group):
    """A group on a stream, and one to all that is sent the events of that stream alone."""
    return Source(client, group, stream, to_all=request.param == "all")
