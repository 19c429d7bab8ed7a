"""Hooks in the append's transaction."""

import pytest
from pymongo.errors import DuplicateKeyError

from estoria.core import StreamNotFoundError, StreamVersionMismatchError, TypeID
from estoria.core.testing import new_events, versions
from estoria.mongodb import MongoEventStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def outbox(client, mongodb_database):
    """A collection of the test's own; gives the ids in it."""

    async def outbox():
        found = await client[mongodb_database]["outbox"].find().sort("_id", 1).to_list()
        return [document["_id"] for document in found]

    return outbox


@pytest.fixture
def keep(mongodb_database):
    """A hook that writes to the outbox."""

    async def keep(session, events):
        outbox = session.client[mongodb_database]["outbox"]
        for event in events:
            await outbox.insert_one({"_id": str(event.id)}, session=session)

    return keep


@pytest.fixture
def hooked(client, mongodb_database, laid_out, layout):
    """Makes a store with hooks, of the layout that was set up."""
    return lambda *hooks: MongoEventStore(client, mongodb_database, layout=layout, hooks=hooks)


async def test_what_a_hook_writes_commits_with_the_events(hooked, keep, outbox, mongodb_database):
    """In the order of the hooks, with the events as they are stored."""
    seen = []

    async def look(session, events):
        own = session.client[mongodb_database]["outbox"]
        seen.append((events, len(await outbox()), await own.count_documents({}, session=session)))

    store = hooked(keep, look)
    stream_id, batch = TypeID.new("account"), new_events(2)

    appended = await store.append_stream(stream_id, batch, expect=0)

    assert seen == [(appended, 0, 2)]
    assert sorted(str(event.id) for event in batch) == await outbox()
    assert appended == await store.read_stream(stream_id).collect()
    assert appended == await store.read_all().collect()


class RefusedError(Exception):
    """Of the hook's own."""


@pytest.mark.parametrize("error", [RefusedError("no"), KeyError("k"), DuplicateKeyError("mine")])
async def test_what_a_hook_raises_rolls_all_back(hooked, keep, outbox, laid_out, error):
    """And passes through as it is, also when it looks like one of the library's own."""
    cause = ValueError("why")

    async def refuse(session, events):
        raise error from cause

    store = hooked(keep, refuse)
    stream_id = TypeID.new("account")

    with pytest.raises(type(error)) as caught:
        await store.append_stream(stream_id, new_events(1))

    assert caught.value is error
    assert caught.value.__cause__ is cause
    assert await outbox() == []
    with pytest.raises(StreamNotFoundError):
        await store.read_stream(stream_id).collect()
    # No reader waits for the number that was taken in vain.
    after = await laid_out.append_stream(TypeID.new("account"), new_events(1))
    assert after == await laid_out.read_all().collect()


async def test_a_duplicate_key_of_a_hook_s_own_passes_through(hooked, keep, outbox):
    """The server has ended the transaction then; the append isn't tried again."""
    store = hooked(keep, keep)

    with pytest.raises(DuplicateKeyError):
        await store.append_stream(TypeID.new("account"), new_events(1))

    assert await outbox() == []
    assert await store.read_all().collect() == []


async def test_a_hook_doesn_t_run_for_what_happened_already_or_is_refused(hooked, keep, outbox):
    """Repeated, the append gives the first result."""
    runs = []

    async def count(_session, events):
        runs.append(len(events))

    store = hooked(count, keep)
    stream_id, batch = TypeID.new("account"), new_events(2)
    first = await store.append_stream(stream_id, batch, expect=0)
    assert first == await store.append_stream(stream_id, batch, expect=0)
    with pytest.raises(StreamVersionMismatchError):
        await store.append_stream(stream_id, new_events(1), expect=7)

    assert runs == [2]
    assert len(await outbox()) == 2


async def test_a_hook_runs_again_with_the_transaction_and_commits_once(
    hooked, keep, outbox, fail, mongodb_database
):
    """After an error that came up in the hook itself, and asks for another attempt."""
    runs = []

    async def meet(session, _events):
        runs.append(1)
        if len(runs) == 1:
            async with fail("delete", errorCode=112, errorLabels=["TransientTransactionError"]):
                other = session.client[mongodb_database]["other"]
                await other.delete_one({"_id": 1}, session=session)

    store = hooked(keep, meet)
    stream_id = TypeID.new("account")

    await store.append_stream(stream_id, new_events(1))

    assert len(runs) == 2
    assert len(await outbox()) == 1
    assert await versions(store, stream_id) == [1]


@pytest.mark.parametrize("moment", ["cut_before_request", "cut_after_request", "cut_before_answer"])
async def test_a_commit_that_is_cut_off_happens_once(
    proxy, proxied, mongodb_database, laid_out, layout, keep, outbox, moment
):
    """Nobody knows at first whether it took place; asking again tells."""
    store = MongoEventStore(proxied, mongodb_database, layout=layout, hooks=[keep])
    stream_id = TypeID.new("account")
    await store.append_stream(stream_id, new_events(1))
    fault = getattr(proxy, moment)(b"commitTransaction")

    appended = await store.append_stream(stream_id, new_events(1), expect=1)

    assert fault.happened
    assert [event.stream_version for event in appended] == [2]
    assert await versions(store, stream_id) == [1, 2]
    assert len(await outbox()) == 2


async def test_a_hook_may_append_in_the_same_transaction(hooked, laid_out):
    """Through `within`, to another stream."""
    other = TypeID.new("audit")

    async def audit(session, _events):
        await laid_out.within(session).append_stream(other, new_events(1))

    store = hooked(audit)
    await store.append_stream(TypeID.new("account"), new_events(1))
    await store.append_stream(TypeID.new("account"), new_events(1))

    assert await versions(laid_out, other) == [1, 2]
    assert len(await laid_out.read_all().collect()) == 4


async def test_hooks_see_batches_of_several_documents_whole(hooked):
    """One call for one append, however it is stored."""
    seen = []

    async def look(_session, events):
        seen.append([event.stream_version for event in events])

    store = hooked(look)
    await store.append_stream(TypeID.new("account"), new_events(3, size=6 * 2**20))

    assert seen == [[1, 2, 3]]
