"""What a persistent subscription takes its events from: one stream, or all of them."""

import bisect
from typing import Protocol

from estoria_testservers.kurrentdb._filter import Filter
from estoria_testservers.kurrentdb._log import Log, Record, TombstonedError

SCANNED_AT_ONCE = 1_000


class Source(Protocol):
    """Records in an order, each at a place of its own: a revision, or a position."""

    name: str

    def take(self, at: int, count: int) -> tuple[list[Record], int]:
        """At most so many records from this place on, and the place to go on from."""
        ...

    def end(self) -> int:
        """The place of the next record that is written."""
        ...

    def place(self, record: Record) -> int:
        """Where a record of this source stands."""
        ...

    def text(self, place: int) -> str:
        """A place as the server writes it down."""
        ...


class StreamSource:
    """One stream; its places are revisions."""

    def __init__(self, log: Log, name: str) -> None:
        self._log, self.name = log, name

    def take(self, at: int, count: int) -> tuple[list[Record], int]:
        try:
            stream = self._log.stream(self.name)
        except TombstonedError:
            return [], at
        visible = stream.visible() if stream is not None else []
        start = bisect.bisect_left(visible, at, key=lambda record: record.revision)
        records = [*visible[start : start + count]]
        return records, records[-1].revision + 1 if records else at

    def end(self) -> int:
        return max(self._log.state(self.name), -1) + 1

    def place(self, record: Record) -> int:
        return record.revision

    def text(self, place: int) -> str:
        return str(place)


class AllSource:
    """All records that a filter lets through; their places are positions."""

    name = "$all"

    def __init__(self, log: Log, wanted: Filter, own: str) -> None:
        """`own` begins the names of the streams that the subscription writes itself."""
        self._log, self._wanted, self._own = log, wanted, own

    def take(self, at: int, count: int) -> tuple[list[Record], int]:
        records = self._log.records
        start = self._log.index_after(at - 1)
        part = records[start : start + SCANNED_AT_ONCE]
        found: list[Record] = []
        for _, record in self._wanted.select(part):
            if record.stream.startswith(self._own):
                continue
            found.append(record)
            if len(found) == count:
                return found, record.position + 1
        return found, part[-1].position + 1 if part else at

    def end(self) -> int:
        records = self._log.records
        return records[-1].position + 1 if records else 0

    def place(self, record: Record) -> int:
        return record.position

    def text(self, place: int) -> str:
        return f"C:{place}/P:{place}"
