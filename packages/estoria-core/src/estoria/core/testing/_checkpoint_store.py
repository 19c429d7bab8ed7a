"""Clauses on checkpoint stores."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from estoria.core import CheckpointStore, ProjectionID, uuid7
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._data import ODD_TEXTS


def fresh(version: int = 1) -> ProjectionID:
    """A projection that nobody used before."""
    return ProjectionID(f"orders {uuid7()}", version)


class CheckpointStoreAcceptance(Acceptance):
    """What every `CheckpointStore` promises. Override the fixture `store`."""

    @pytest.fixture
    async def store(self) -> CheckpointStore:
        """The store under test."""
        raise TypeError(f"{type(self).__name__} has no fixture called store: override it")

    async def _position(self, store: CheckpointStore, projection_id: ProjectionID) -> int | None:
        checkpoint = await store.load(projection_id)
        return None if checkpoint is None else checkpoint.position

    async def test_it_is_a_checkpoint_store(self, store: CheckpointStore) -> None:
        """`isinstance` finds the protocol."""
        assert isinstance(store, CheckpointStore)

    async def test_there_is_none_before_the_first_save(self, store: CheckpointStore) -> None:
        """None, which is not position 0."""
        assert None is await store.load(fresh())

    async def test_the_last_save_wins(self, store: CheckpointStore) -> None:
        """Also to a lower position: a projection may be wound back."""
        projection_id = fresh()
        for position in (5, 2**62, 3, 0, 9):
            await store.save(projection_id, position)
            assert position == await self._position(store, projection_id)

    async def test_it_knows_when_it_was_saved(self, store: CheckpointStore) -> None:
        """In aware UTC; a save at the same position refreshes it."""
        projection_id = fresh()
        before = datetime.now(UTC)
        await store.save(projection_id, 5)
        first = await store.load(projection_id)
        await asyncio.sleep(0.002)
        await store.save(projection_id, 5)
        second = await store.load(projection_id)

        assert first is not None
        assert second is not None
        assert second.updated_at.utcoffset() == timedelta(0)
        assert before <= first.updated_at < second.updated_at <= datetime.now(UTC)

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
    async def test_names_and_versions_are_kept_apart(
        self, store: CheckpointStore, text: str
    ) -> None:
        """Each version of a projection has a checkpoint of its own, whatever its name."""
        name = f"{text} {uuid7()}"
        ids = [ProjectionID(name, 1), ProjectionID(name, 11), ProjectionID(name + "_v1", 1)]
        for position, projection_id in enumerate(ids):
            await store.save(projection_id, position)

        assert [await self._position(store, projection_id) for projection_id in ids] == [0, 1, 2]

    async def test_a_deleted_one_is_none(self, store: CheckpointStore) -> None:
        """No other is touched, nothing to delete is no error, and it may be saved again."""
        deleted = fresh()
        other = ProjectionID(deleted.name, 2)
        for projection_id in (deleted, other):
            await store.save(projection_id, 7)

        await store.delete(deleted)
        await store.delete(deleted)

        assert None is await store.load(deleted)
        assert await self._position(store, other) == 7
        await store.save(deleted, 1)
        assert await self._position(store, deleted) == 1

    @pytest.mark.parametrize("position", [-1, True, 2**80, "5"], ids=repr)
    async def test_what_is_no_position_is_refused(
        self, store: CheckpointStore, position: Any
    ) -> None:
        """And what was saved before stays."""
        projection_id = fresh()
        await store.save(projection_id, 4)

        with pytest.raises(ValueError, match="position"):
            await store.save(projection_id, position)

        assert await self._position(store, projection_id) == 4

    async def test_what_is_no_projection_id_is_refused(self, store: CheckpointStore) -> None:
        """A name alone could be anybody's."""
        for call in (store.load, store.delete):
            with pytest.raises(TypeError, match="ProjectionID"):
                await call("orders_v1")  # type: ignore[arg-type]  # on purpose
        with pytest.raises(TypeError, match="ProjectionID"):
            await store.save("orders_v1", 1)  # type: ignore[arg-type]  # on purpose

    async def test_many_saves_at_once_all_succeed(self, store: CheckpointStore) -> None:
        """One of them is the last."""
        projection_id = fresh()

        await asyncio.gather(*(store.save(projection_id, position) for position in range(20)))

        assert await self._position(store, projection_id) in range(20)
