"""What event stores are built of, for those who write one.

Checks that make bad input fail alike everywhere, the iterators that page a read, the rule that
tells a repeated append from a refused one, and the bytes that a cache keeps.
"""

from estoria.core._cache_entries import VERSION_DIGITS, CacheEntries
from estoria.core._checkpoint_store import check_position, check_projection_id
from estoria.core._checks import (
    MAX_VERSION,
    check_bound,
    check_count,
    check_events,
    check_expectation,
    check_filter,
    check_stream_id,
    check_truncation,
)
from estoria.core._connect import ENTRY_POINT_GROUP
from estoria.core._event_iterator import (
    PAGE_EVENTS,
    GlobalFetch,
    GlobalIterator,
    GlobalPage,
    StreamFetch,
    StreamIterator,
)
from estoria.core._owner import Owner
from estoria.core._repeats import repeated_batch
from estoria.core._snapshot_store import check_keep_newest
from estoria.core._text import RESERVED_PREFIX, check_name

__all__ = [
    "ENTRY_POINT_GROUP",
    "MAX_VERSION",
    "PAGE_EVENTS",
    "RESERVED_PREFIX",
    "VERSION_DIGITS",
    "CacheEntries",
    "GlobalFetch",
    "GlobalIterator",
    "GlobalPage",
    "Owner",
    "StreamFetch",
    "StreamIterator",
    "check_bound",
    "check_count",
    "check_events",
    "check_expectation",
    "check_filter",
    "check_keep_newest",
    "check_name",
    "check_position",
    "check_projection_id",
    "check_stream_id",
    "check_truncation",
    "repeated_batch",
]
