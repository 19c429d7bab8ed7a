"""The acceptance-test suite: the contract in executable form, for everybody's stores.

::

    class TestMyEventStore(EventStoreAcceptance, GlobalReaderAcceptance):
        @pytest.fixture
        async def store(self):
            async with MyEventStore.connect(...) as store:
                await store.setup()
                yield store

One class for each protocol; a store that has an ability runs that ability's class. Needs the
extra ``estoria-core[testing]``, and no pytest plugin or setting of its own.
"""

from pkgutil import iter_modules

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in iter_modules(__path__)))

from estoria.core.testing._acceptance import Acceptance  # noqa: E402 - rewritten from here on
from estoria.core.testing._aggregate_cache import AggregateCacheAcceptance, Cart  # noqa: E402
from estoria.core.testing._aggregates import (  # noqa: E402
    AggregatesAcceptance,
    Balance,
    Deposited,
)
from estoria.core.testing._checkpoint_store import CheckpointStoreAcceptance  # noqa: E402
from estoria.core.testing._event_store import EventStoreAcceptance  # noqa: E402
from estoria.core.testing._global_reader import GlobalReaderAcceptance  # noqa: E402
from estoria.core.testing._random_scripts import RandomScriptsAcceptance  # noqa: E402
from estoria.core.testing._samples import new_events, versions, written  # noqa: E402
from estoria.core.testing._snapshot_store import SnapshotStoreAcceptance  # noqa: E402
from estoria.core.testing._stream_deleter import StreamDeleterAcceptance  # noqa: E402
from estoria.core.testing._stream_lister import StreamListerAcceptance  # noqa: E402
from estoria.core.testing._stream_truncator import StreamTruncatorAcceptance  # noqa: E402
from estoria.core.testing._transaction_sharing import (  # noqa: E402
    Transaction,
    TransactionSharingAcceptance,
)

__all__ = [
    "Acceptance",
    "AggregateCacheAcceptance",
    "AggregatesAcceptance",
    "Balance",
    "Cart",
    "CheckpointStoreAcceptance",
    "Deposited",
    "EventStoreAcceptance",
    "GlobalReaderAcceptance",
    "RandomScriptsAcceptance",
    "SnapshotStoreAcceptance",
    "StreamDeleterAcceptance",
    "StreamListerAcceptance",
    "StreamTruncatorAcceptance",
    "Transaction",
    "TransactionSharingAcceptance",
    "new_events",
    "versions",
    "written",
]
