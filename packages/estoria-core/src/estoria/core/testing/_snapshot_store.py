"""Clauses on snapshot stores."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from estoria.core import Snapshot, SnapshotStore, TypeID
from estoria.core.testing._acceptance import Acceptance

MOMENT = datetime(2024, 2, 29, 23, 59, 59, 123_457, UTC)


def snapshot(
    aggregate_id: TypeID, version: int, *, data: bytes | None = None, content_type: str = "text/x"
) -> Snapshot:
    """A snapshot that differs from those of other versions."""
    return Snapshot(
        aggregate_id,
        version,
        MOMENT,
        f"at {version}".encode() if data is None else data,
        content_type,
    )


class SnapshotStoreAcceptance(Acceptance):
    """What every `SnapshotStore` promises.

    Override the fixture `store` with one that keeps all snapshots, and
    `store_of_newest_two` with one that keeps the newest two of each aggregate.
    """

    @pytest.fixture
    async def store(self) -> SnapshotStore:
        """The store under test; keeps all snapshots."""
        raise TypeError(f"{type(self).__name__} has no fixture called store: override it")

    @pytest.fixture
    async def store_of_newest_two(self) -> SnapshotStore:
        """The same kind of store, with ``keep_newest=2``."""
        raise TypeError(f"{type(self).__name__} has no fixture store_of_newest_two: override it")

    async def test_it_is_a_snapshot_store(self, store: SnapshotStore) -> None:
        """`isinstance` finds the protocol."""
        assert isinstance(store, SnapshotStore)

    async def test_there_is_none_before_the_first(self, store: SnapshotStore) -> None:
        """None, not an error."""
        assert None is await store.read_snapshot(TypeID.new("account"))

    @pytest.mark.parametrize("data", [b"", b"\0\xff", bytes(range(256)) * 4_096])
    async def test_it_comes_back_verbatim(self, store: SnapshotStore, data: bytes) -> None:
        """Bytes, content type, version and the moment to the microsecond."""
        written = snapshot(TypeID.new("account"), 7, data=data, content_type='a/b; schema="é"')

        await store.write_snapshot(written)

        assert written == await store.read_snapshot(written.aggregate_id)

    async def test_another_time_zone_is_the_same_moment(self, store: SnapshotStore) -> None:
        """And what comes back is aware."""
        aggregate_id = TypeID.new("account")
        zone = timezone(timedelta(hours=-9, minutes=-30))
        await store.write_snapshot(
            Snapshot(aggregate_id, 1, MOMENT.astimezone(zone), b"", "text/x")
        )

        read = await store.read_snapshot(aggregate_id)

        assert read is not None
        assert read.timestamp == MOMENT

    async def test_the_newest_comes_first(self, store: SnapshotStore) -> None:
        """By version, in whatever order they were written."""
        aggregate_id = TypeID.new("account")
        for version in (5, 20, 1, 15):
            await store.write_snapshot(snapshot(aggregate_id, version))

        assert snapshot(aggregate_id, 20) == await store.read_snapshot(aggregate_id)

    async def test_it_is_never_newer_than_asked_for(self, store: SnapshotStore) -> None:
        """The bound itself is allowed; below the oldest there is none."""
        aggregate_id = TypeID.new("account")
        for version in (5, 20, 10):
            await store.write_snapshot(snapshot(aggregate_id, version))

        found = {
            bound: await store.read_snapshot(aggregate_id, max_version=bound)
            for bound in (0, 4, 5, 9, 10, 19, 20, 2**80)
        }

        assert {bound: read and read.aggregate_version for bound, read in found.items()} == {
            0: None,
            4: None,
            5: 5,
            9: 5,
            10: 10,
            19: 10,
            20: 20,
            2**80: 20,
        }

    async def test_the_same_version_is_replaced(self, store: SnapshotStore) -> None:
        """A new release of the application takes it again, in its own format."""
        aggregate_id = TypeID.new("account")
        await store.write_snapshot(snapshot(aggregate_id, 3, data=b"old", content_type="old"))
        renewed = snapshot(aggregate_id, 3, data=b"new", content_type="new")

        await store.write_snapshot(renewed)

        assert renewed == await store.read_snapshot(aggregate_id)

    async def test_the_whole_id_is_the_key(self, store: SnapshotStore) -> None:
        """Not the UUID alone, nor a name that looks alike."""
        account = TypeID.new("account")
        others = [TypeID(name, account.uuid) for name in ("account_x", "Account", "a.b", "a%")]
        await store.write_snapshot(snapshot(account, 1))

        assert [await store.read_snapshot(other) for other in others] == [None] * 4

    async def test_deleting_forgets_all_of_one_aggregate(self, store: SnapshotStore) -> None:
        """And of no other; what isn't there is no error; it may be written again."""
        deleted, other = TypeID.new("account"), TypeID.new("account")
        for version in (1, 2, 3):
            await store.write_snapshot(snapshot(deleted, version))
        await store.write_snapshot(snapshot(other, 1))

        await store.delete_snapshots(deleted)
        await store.delete_snapshots(deleted)
        await store.delete_snapshots(TypeID.new("account"))

        assert None is await store.read_snapshot(deleted)
        assert None is not await store.read_snapshot(other)
        await store.write_snapshot(snapshot(deleted, 2))
        assert snapshot(deleted, 2) == await store.read_snapshot(deleted)

    async def test_retention_keeps_the_newest(self, store_of_newest_two: SnapshotStore) -> None:
        """Of each aggregate, so many and no more."""
        store, aggregate_id, other = store_of_newest_two, TypeID.new("account"), TypeID.new("a")
        await store.write_snapshot(snapshot(other, 1))
        for version in (1, 2, 3, 4):
            await store.write_snapshot(snapshot(aggregate_id, version))

        assert snapshot(aggregate_id, 4) == await store.read_snapshot(aggregate_id)
        assert snapshot(aggregate_id, 3) == await store.read_snapshot(aggregate_id, max_version=3)
        assert None is await store.read_snapshot(aggregate_id, max_version=2)
        assert snapshot(other, 1) == await store.read_snapshot(other)

    async def test_retention_never_drops_a_newer_one(
        self, store_of_newest_two: SnapshotStore
    ) -> None:
        """However late a slow writer comes with older ones."""
        store, aggregate_id = store_of_newest_two, TypeID.new("account")
        for version in (40, 10, 20, 15, 5):
            await store.write_snapshot(snapshot(aggregate_id, version))
            assert snapshot(aggregate_id, 40) == await store.read_snapshot(aggregate_id)

    async def test_many_writers_at_once_all_succeed(self, store: SnapshotStore) -> None:
        """And the newest is found."""
        aggregate_id = TypeID.new("account")

        await asyncio.gather(
            *(store.write_snapshot(snapshot(aggregate_id, version)) for version in range(1, 21))
        )

        assert snapshot(aggregate_id, 20) == await store.read_snapshot(aggregate_id)
        assert snapshot(aggregate_id, 11) == (
            await store.read_snapshot(aggregate_id, max_version=11)
        )

    async def test_a_naive_timestamp_can_t_be_made(self, store: SnapshotStore) -> None:  # noqa: ARG002 - a clause on the value, held with every store
        """It would mean another moment on another machine."""
        with pytest.raises(ValueError, match="naive"):
            Snapshot(TypeID.new("account"), 1, MOMENT.replace(tzinfo=None), b"", "text/x")

    async def test_nonsense_is_refused(self, store: SnapshotStore) -> None:
        """A negative bound, what is no id, and what can't be kept as it is."""
        for bad in ({"data": "text"}, {"content_type": "nul\0"}, {"content_type": "\ud800"}):
            with pytest.raises(ValueError, match="data"):
                snapshot(TypeID.new("account"), 1, **bad)  # type: ignore[arg-type]  # on purpose
        for version in (0, -1, True, "1"):
            with pytest.raises(ValueError, match="version"):
                snapshot(TypeID.new("account"), version)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(ValueError, match="max_version"):
            await store.read_snapshot(TypeID.new("account"), max_version=-1)
        with pytest.raises(TypeError, match="TypeID"):
            await store.read_snapshot("account")  # type: ignore[arg-type]  # on purpose
