"""Aggregates, and the store that sources them from events."""

import asyncio
from dataclasses import dataclass

import pytest

from estoria.core import (
    AbilityMissingError,
    Aggregate,
    AggregateBusyError,
    AggregateNotFoundError,
    AggregateStore,
    EventDecodingError,
    EventEncodingError,
    EventSourcedStore,
    EventStore,
    Expect,
    HistoryTruncatedError,
    NewEvent,
    NothingToSaveError,
    PendingEventsError,
    StoreUnavailableError,
    StreamChangedError,
    StreamDeleter,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.memory import MemoryEventStore
from estoria.core.testing import AggregatesAcceptance, Balance, Deposited

pytestmark = pytest.mark.anyio


@pytest.fixture
def events():
    return MemoryEventStore()


@pytest.fixture
def wallets(events):
    return EventSourcedStore(events, "wallet", Balance, events=[Deposited])


async def saved(wallets, *amounts):
    wallet = wallets.new()
    wallet.append(*map(Deposited, amounts))
    await wallets.save(wallet)
    return wallet


def test_the_store_is_an_aggregate_store(wallets):
    assert isinstance(wallets, AggregateStore)


def test_a_new_aggregate_is_empty(wallets):
    wallet = wallets.new()

    assert (wallet.version, wallet.state, wallet.pending) == (0, Balance(), ())
    assert wallet.id.type == "wallet"


def test_ids_may_be_given(wallets):
    id = TypeID.new("wallet")

    assert wallets.new(id).id == wallets.new(id.uuid).id == id
    with pytest.raises(ValueError, match="no wallet"):
        wallets.new(TypeID.new("order"))
    with pytest.raises(TypeError, match="UUID"):
        wallets.new(str(id))


def test_appending_changes_the_preview_alone(wallets):
    wallet = wallets.new()

    wallet.append(Deposited(1))
    assert wallet.preview == Balance(1, 1)
    wallet.append(Deposited(2), Deposited(3))

    assert wallet.preview == Balance(6, 3)
    assert (wallet.version, wallet.state) == (0, Balance())
    assert wallet.pending == (Deposited(1), Deposited(2), Deposited(3))


@dataclass
class Unknown:
    def apply_to(self, state):
        return state


def test_an_event_of_an_unknown_class_is_refused_where_it_is_appended(wallets):
    wallet = wallets.new()

    with pytest.raises(EventEncodingError, match="Unknown"):
        wallet.append(Deposited(1), Unknown())

    assert wallet.pending == ()


@pytest.mark.parametrize("metadata", [{"estoria.x": "y"}, {"a": 1}, {"a": "\0"}, {"\ud800": "x"}])
def test_bad_metadata_is_refused_where_it_is_appended(wallets, metadata):
    wallet = wallets.new()

    with pytest.raises(ValueError, match="metadata"):
        wallet.append(Deposited(1), metadata=metadata)

    assert wallet.pending == ()


async def test_metadata_is_stored_with_each_event_of_the_call(wallets, events):
    wallet, metadata = wallets.new(), {"who": "me"}
    wallet.append(Deposited(1), Deposited(2), metadata=metadata)
    metadata["who"] = "changed"
    wallet.append(Deposited(3))
    await wallets.save(wallet)

    stored = await events.read_stream(wallet.id).collect()
    assert [event.metadata for event in stored] == [{"who": "me"}, {"who": "me"}, {}]


async def test_saving_moves_pending_events_into_the_state(wallets):
    wallet = await saved(wallets, 1, 2)

    assert (wallet.version, wallet.state, wallet.pending) == (2, Balance(3, 2), ())
    assert wallet.preview == wallet.state


async def test_saving_nothing_new_is_a_no_op(wallets, events):
    wallet = await saved(wallets, 1)

    await wallets.save(wallet)

    assert len(await events.read_stream(wallet.id).collect()) == 1


async def test_saving_a_new_aggregate_without_events_is_an_error(wallets):
    with pytest.raises(NothingToSaveError):
        await wallets.save(wallets.new())


@dataclass
class NotCarried:
    value: float

    def apply_to(self, state):
        return state


@dataclass
class NotApplied:
    def apply_to(self, state):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("bad", "error"),
    [(NotCarried(float("nan")), EventEncodingError), (NotApplied(), ZeroDivisionError)],
)
async def test_an_event_that_fails_is_never_written(events, bad, error):
    store = EventSourcedStore(events, "w", Balance, events=[Deposited, NotCarried, NotApplied])
    wallet = store.new()
    wallet.append(Deposited(1), bad)

    with pytest.raises(error):
        await store.save(wallet)

    assert await events.head_position() == 0
    assert len(wallet.pending) == 2


class Flaky(MemoryEventStore):
    """Loses the acknowledgement of its next append, after or before writing."""

    lose = ""

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        lose, self.lose = self.lose, ""
        if lose == "before":
            raise StoreUnavailableError("here", "gone")
        appended = await super().append_stream(stream_id, events, expect=expect)
        if lose == "after":
            raise StoreUnavailableError("here", "gone")
        return appended


@pytest.mark.parametrize("lose", ["before", "after"])
async def test_a_save_of_unknown_outcome_may_be_repeated(lose):
    events = Flaky()
    wallets = EventSourcedStore(events, "wallet", Balance, events=[Deposited])
    wallet = await saved(wallets, 1)
    wallet.append(Deposited(2))
    events.lose = lose
    with pytest.raises(StoreUnavailableError):
        await wallets.save(wallet)
    assert (wallet.version, wallet.pending) == (1, (Deposited(2),))

    await wallets.save(wallet)

    assert (wallet.version, wallet.state) == (2, Balance(3, 2))
    assert (await wallets.load(wallet.id)).state == Balance(3, 2)


class Gate(MemoryEventStore):
    """Holds appends, after they were written, until the gate is opened."""

    def __init__(self):
        super().__init__()
        self.written, self.opened = asyncio.Event(), asyncio.Event()

    async def append_stream(self, stream_id, events, *, expect=Expect.ANY):
        appended = await super().append_stream(stream_id, events, expect=expect)
        self.written.set()
        await self.opened.wait()
        return appended


async def test_events_appended_during_a_save_stay_pending():
    events = Gate()
    wallets = EventSourcedStore(events, "wallet", Balance, events=[Deposited])
    wallet = wallets.new()
    wallet.append(Deposited(1))
    save = asyncio.ensure_future(wallets.save(wallet))
    await events.written.wait()
    wallet.append(Deposited(2))
    events.opened.set()
    await save

    assert (wallet.version, wallet.state, wallet.pending) == (1, Balance(1, 1), (Deposited(2),))
    assert wallet.preview == Balance(3, 2)
    await wallets.save(wallet)
    assert (await wallets.load(wallet.id)).state == Balance(3, 2)


async def test_one_aggregate_can_t_be_saved_twice_at_once():
    """Both would send the same events, and each would count them."""
    events = Gate()
    wallets = EventSourcedStore(events, "wallet", Balance, events=[Deposited])
    wallet = wallets.new()
    wallet.append(Deposited(1))
    save = asyncio.ensure_future(wallets.save(wallet))
    await events.written.wait()

    with pytest.raises(AggregateBusyError):
        await wallets.save(wallet)
    with pytest.raises(AggregateBusyError):
        await wallets.hydrate(wallet)
    events.opened.set()
    await save

    assert (wallet.version, wallet.state) == (1, Balance(1, 1))


async def test_a_cancelled_save_may_be_repeated():
    events = Gate()
    wallets = EventSourcedStore(events, "wallet", Balance, events=[Deposited])
    wallet = wallets.new()
    wallet.append(Deposited(1))
    save = asyncio.ensure_future(wallets.save(wallet))
    await events.written.wait()
    save.cancel()
    with pytest.raises(asyncio.CancelledError):
        await save
    assert (wallet.version, wallet.pending) == (0, (Deposited(1),))

    events.opened.set()
    await wallets.save(wallet)

    assert (wallet.version, wallet.state) == (1, Balance(1, 1))


async def test_hydrate_goes_on_from_the_aggregate_s_version(wallets):
    wallet = await saved(wallets, 1, 2)
    behind = await wallets.load(wallet.id, to_version=1)
    wallet.append(Deposited(3))
    await wallets.save(wallet)

    await wallets.hydrate(behind, to_version=2)
    assert (behind.version, behind.state) == (2, Balance(3, 2))
    await wallets.hydrate(behind, to_version=2)
    await wallets.hydrate(behind)
    assert (behind.version, behind.state) == (3, Balance(6, 3))


async def test_hydrate_refuses_what_makes_no_sense(wallets):
    wallet = await saved(wallets, 1, 2)

    with pytest.raises(ValueError, match="at 2 already"):
        await wallets.hydrate(wallet, to_version=1)
    for nonsense in (0, -1, True, "1"):
        with pytest.raises(ValueError, match="to_version"):
            await wallets.load(wallet.id, to_version=nonsense)
    wallet.append(Deposited(3))
    with pytest.raises(PendingEventsError):
        await wallets.hydrate(wallet)


async def test_hydrate_changes_nothing_when_it_fails(wallets, events):
    wallet = await saved(wallets, 1)
    good = NewEvent("Deposited", b'{"amount":2}', "application/json")
    bad = NewEvent("Deposited", b"{}", "application/json")
    await events.append_stream(wallet.id, [good, bad])

    with pytest.raises(EventDecodingError) as caught:
        await wallets.hydrate(wallet)

    assert caught.value.version == 3
    assert (wallet.version, wallet.state) == (1, Balance(1, 1))


async def test_hydrate_tells_another_life(wallets):
    stale = await saved(wallets, 1, 2)
    await wallets.delete(stale.id)
    with pytest.raises(AggregateNotFoundError):
        await wallets.hydrate(stale)
    for amount in (10, 20, 30, 40):
        await wallets.execute(stale.id, lambda w, a=amount: w.append(Deposited(a)))

    with pytest.raises(StreamChangedError):
        await wallets.hydrate(stale)

    assert (stale.version, stale.state) == (2, Balance(3, 2))


async def test_hydrate_tells_an_aggregate_ahead_of_its_stream(wallets):
    wallet = await saved(wallets, 1)
    wallet.restore(9, Balance(99, 9))

    with pytest.raises(StreamChangedError):
        await wallets.hydrate(wallet)


async def test_the_past_of_a_former_life_is_not_found(wallets):
    wallet = await saved(wallets, 1, 2)
    await wallets.delete(wallet.id)
    await wallets.execute(wallet.id, lambda w: w.append(Deposited(5), Deposited(6)))

    for version in (1, 2, 3):
        with pytest.raises(AggregateNotFoundError):
            await wallets.load(wallet.id, to_version=version)
    second = await wallets.load(wallet.id, to_version=4)
    assert (second.version, second.state) == (4, Balance(5, 1))
    assert (await wallets.load(wallet.id, to_version=5)).state == Balance(11, 2)


async def test_a_state_is_never_folded_from_a_suffix(wallets, events):
    wallet = await saved(wallets, 1, 2, 3)
    early = await wallets.load(wallet.id, to_version=1)
    late = await wallets.load(wallet.id, to_version=2)
    await events.truncate_stream(wallet.id, 2)

    with pytest.raises(HistoryTruncatedError) as caught:
        await wallets.load(wallet.id)
    assert (caught.value.needed, caught.value.first_version) == (1, 3)
    with pytest.raises(HistoryTruncatedError):
        await wallets.hydrate(early)
    await wallets.hydrate(late)
    assert late.state == Balance(6, 3)
    await events.truncate_stream(wallet.id, 3)
    with pytest.raises(HistoryTruncatedError):
        await wallets.load(wallet.id)
    await wallets.hydrate(late)


async def test_evolve_may_be_one_function(events):
    def evolve(total, event):
        return total + event.value

    @dataclass
    class Added:
        value: int

    totals = EventSourcedStore(events, "total", int, events=[Added], evolve=evolve)
    total = await totals.execute(TypeID.new("total"), lambda t: t.append(Added(3), Added(4)))

    assert (await totals.load(total.id)).state == 7


async def test_events_are_stored_under_their_names(events):
    @dataclass(frozen=True)
    class Named(Deposited):
        event_type = "money.in"

    by_attribute = EventSourcedStore(events, "a", Balance, events=[Named])
    wallet = await by_attribute.execute(TypeID.new("a"), lambda w: w.append(Named(1)))
    renamed = EventSourcedStore(events, "a", Balance, events={"in": Named, "money.in": Named})
    await renamed.execute(wallet.id, lambda w: w.append(Named(2)))

    stored = await events.read_stream(wallet.id).collect()
    assert [event.type for event in stored] == ["money.in", "in"]
    assert (await renamed.load(wallet.id)).state == Balance(3, 2)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"events": []}, ValueError),
        ({"events": [Deposited, Deposited]}, ValueError),
        ({"events": {"": Deposited}}, ValueError),
        ({"events": {"$x": Deposited}}, ValueError),
        ({"events": [int]}, TypeError),
        ({"aggregate_type": ""}, ValueError),
        ({"aggregate_type": "estoria.snapshot.a"}, ValueError),
        ({"aggregate_type": "_a"}, ValueError),
    ],
    ids=range(8),
)
def test_a_store_that_can_t_work_can_t_be_made(events, arguments, error):
    given = {"aggregate_type": "wallet", "new_state": Balance, "events": [Deposited], **arguments}

    with pytest.raises(error):
        EventSourcedStore(events, **given)


async def test_execute_makes_loads_and_saves(wallets):
    id = TypeID.new("wallet")

    first = await wallets.execute(id, lambda wallet: wallet.append(Deposited(1)))

    async def command(wallet: Aggregate[Balance]) -> None:
        await asyncio.sleep(0)
        wallet.append(Deposited(wallet.state.amount + 1))

    second = await wallets.execute(id.uuid, command)

    assert (first.version, second.version, second.state) == (1, 2, Balance(3, 2))


async def test_what_a_command_raises_passes_through(wallets, events):
    def refuse(wallet):
        wallet.append(Deposited(1))
        raise PermissionError

    with pytest.raises(PermissionError):
        await wallets.execute(TypeID.new("wallet"), refuse)

    assert await events.head_position() == 0


async def test_execute_tries_again_on_fresh_state_and_gives_up(wallets, events):
    wallet = await saved(wallets, 1)
    seen = []

    async def collide(mine):
        seen.append(mine.state.amount)
        theirs = await wallets.load(mine.id)
        theirs.append(Deposited(1))
        await wallets.save(theirs)
        mine.append(Deposited(100))

    with pytest.raises(StreamVersionMismatchError):
        await wallets.execute(wallet.id, collide)

    assert seen == [1, 2, 3]
    assert (await wallets.load(wallet.id)).state.amount == 4


@pytest.mark.parametrize("attempts", [0, -1, True, "3"])
async def test_execute_refuses_a_nonsensical_number_of_attempts(wallets, attempts):
    with pytest.raises(ValueError, match="attempts"):
        await wallets.execute(TypeID.new("wallet"), lambda _: None, attempts=attempts)


class NoDeleter:
    """An event store without optional abilities."""

    def __init__(self, events):
        self.append_stream, self.read_stream = events.append_stream, events.read_stream
        self.setup = events.setup


async def test_deleting_needs_a_store_that_can(events):
    plain = NoDeleter(events)
    assert isinstance(plain, EventStore)
    assert not isinstance(plain, StreamDeleter)
    wallets = EventSourcedStore(plain, "wallet", Balance, events=[Deposited])

    with pytest.raises(AbilityMissingError, match="StreamDeleter"):
        await wallets.delete(TypeID.new("wallet"))


async def test_deleting_what_was_never_saved(wallets):
    with pytest.raises(AggregateNotFoundError):
        await wallets.delete(TypeID.new("wallet"))


async def test_a_load_costs_one_read_for_each_page(events):
    fetches = 0
    read_stream = events.read_stream

    def counted(*args, **options):
        iterator = read_stream(*args, **options)
        fetch = iterator._read

        async def counting(*bounds):
            nonlocal fetches
            fetches += 1
            return await fetch(*bounds)

        iterator._read = counting
        return iterator

    events.read_stream = counted
    wallets = EventSourcedStore(events, "wallet", Balance, events=[Deposited])
    wallet = await saved(wallets, *range(1_500))
    for to_version, pages in ((None, 2), (700, 1), (1_500, 2)):
        fetches = 0
        await wallets.load(wallet.id, to_version=to_version)
        assert fetches == pages


class TestEventSourcedStore(AggregatesAcceptance):
    @pytest.fixture
    async def store(self):
        return MemoryEventStore()
