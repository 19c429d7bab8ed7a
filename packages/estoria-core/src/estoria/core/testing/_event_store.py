"""The acceptance class for event stores."""

import pytest

from estoria.core import EventStore
from estoria.core.testing._appending import AppendingAcceptance
from estoria.core.testing._concurrency import ConcurrencyAcceptance
from estoria.core.testing._data import DataAcceptance
from estoria.core.testing._reading import ReadingAcceptance


class EventStoreAcceptance(
    AppendingAcceptance, ReadingAcceptance, DataAcceptance, ConcurrencyAcceptance
):
    """What every `EventStore` promises.

    Override the fixture `store`: it gives a store that is set up, with no streams of the
    clauses' making, and closes it afterwards.
    """

    @pytest.fixture
    async def store(self) -> EventStore:
        """The store under test."""
        raise TypeError(f"{type(self).__name__} has no fixture called store: override it")
