"""The log: every record in one order, each in its stream, as KurrentDB keeps them."""

import asyncio
import bisect
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from estoria_testservers.kurrentdb._journal import Journal, Row

NO_STREAM, ANY, EXISTS = -1, -2, -4
"""Expectations that are no revisions, numbered as on the wire."""

SOFT_DELETED, TOMBSTONED = -5, -6
"""What a stream may be instead of at a revision, numbered as on the wire."""

DELETED = 2**63 - 1
"""The `$tb` of a soft-deleted stream, and the revision of a tombstone."""

MAX_APPEND_BYTES = 16 * 2**20
_RECORD_BYTES = 112
_EPOCH = "$epoch-information"


class WrongRevisionError(Exception):
    """An expectation that doesn't hold; `actual` is the stream's revision, or NO_STREAM."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(stream, expected, actual)
        self.stream, self.expected, self.actual = stream, expected, actual


class TombstonedError(Exception):
    """The stream's name is retired for good, or the stream is to exist and was deleted."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.stream = stream


class AppendTooLargeError(Exception):
    """An append of more bytes than the server takes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size, self.limit = size, limit


@dataclass(slots=True, frozen=True)
class Proposal:
    """An event that a client wants to write."""

    id: str
    type: str
    content_type: str
    data: bytes
    metadata: bytes

    @property
    def size(self) -> int:
        """What counts towards the largest append."""
        return len(self.data) + len(self.metadata) + len(self.type)


@dataclass(slots=True, eq=False)
class Record:
    """An event as it stands in the log; `created` in ticks of 100 ns since 1970."""

    position: int
    prepare: int
    stream: str
    revision: int
    event: Proposal
    created: int
    wire: bytes = b""


@dataclass(slots=True, frozen=True)
class Written:
    """Where an append stands: the last revision and the last position."""

    revision: int
    position: int


@dataclass(slots=True)
class Stream:
    """The records of one stream, the oldest first, and what its metadata says."""

    name: str
    records: list[Record] = field(default_factory=list)
    revisions: dict[str, int] = field(default_factory=dict)
    last: int = NO_STREAM
    tombstoned: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def soft_deleted(self) -> bool:
        """Whether the stream reads as missing until somebody appends to it."""
        return self._number("$tb") == DELETED

    @property
    def exists(self) -> bool:
        """Whether a reader finds it."""
        return self.last >= 0 and not self.soft_deleted and not self.tombstoned

    def visible(self) -> list[Record]:
        """The records that a reader sees: not truncated, of the newest `$maxCount`, not aged."""
        first = max(self._number("$tb") or 0, 0)
        count = 1 if self.name.startswith("$$") else self._number("$maxCount")
        if count is not None:
            first = max(first, self.last - count + 1)
        records = self.records
        if records and records[0].revision < first:
            records = records[bisect.bisect_left(records, first, key=lambda r: r.revision) :]
        age = self._number("$maxAge")
        if age is not None:
            oldest = ticks_now() - age * 10_000_000
            records = records[bisect.bisect_left(records, oldest, key=lambda r: r.created) :]
        return records

    def _number(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) else None


class Log:
    """An in-memory log; with a file, also one that a killed server finds again."""

    def __init__(self, file: Path | None = None, *, max_append_bytes: int = MAX_APPEND_BYTES):
        self.max_append_bytes = max_append_bytes
        self.hidden = 0
        self._records: list[Record] = []
        self._positions: list[int] = []
        self._streams: dict[str, Stream] = {}
        self._end = 0
        self._listeners: set[asyncio.Event] = set()
        self._journal = None
        if file is not None:
            for rows in Journal.rows(file):
                for row in rows:
                    self._restore(row)
            self._journal = Journal(file)
        if not self._records:
            self.append(_EPOCH, ANY, [system_event(_EPOCH, {})])

    @property
    def records(self) -> Sequence[Record]:
        """All of them, without the last `hidden`: a node that lags behind its leader."""
        return self._records[: -self.hidden] if self.hidden else self._records

    def stream(self, name: str) -> Stream | None:
        """The stream of this name, if anything was ever written to it."""
        found = self._streams.get(name)
        # The metadata of a tombstoned stream can't be read either, though they may be written.
        of = self._streams.get(name[2:]) if name.startswith("$$") else found
        if of is not None and of.tombstoned:
            raise TombstonedError(name)
        return found if found is not None and found.exists else None

    def newest(self, name: str) -> Record | None:
        """The last record of a stream, if a reader sees one."""
        stream = self.stream(name)
        visible = stream.visible() if stream is not None else []
        return visible[-1] if visible else None

    def target(self, link: Record) -> Record | None:
        """The record that a link leads to, if a reader sees it."""
        revision, _, name = link.event.data.decode().partition("@")
        try:
            stream = self.stream(name)
        except TombstonedError:
            return None
        found = [r for r in stream.visible() if r.revision == int(revision)] if stream else []
        return found[0] if found else None

    def index(self, position: int) -> int | None:
        """Where the record at exactly this position stands in `records`, if there is one."""
        at = bisect.bisect_left(self._positions, position)
        found = at < len(self.records) and self._positions[at] == position
        return at if found else None

    def index_after(self, position: int) -> int:
        """Where the first record above this position stands, or would."""
        return bisect.bisect_right(self._positions, position)

    def append(self, name: str, expected: int, events: Sequence[Proposal]) -> Written:
        """Write all events or none; a repeat is answered with where it stands already."""
        return self.append_all({name: expected}, [(name, event) for event in events])[name]

    def append_all(
        self, expected: Mapping[str, int], events: Sequence[tuple[str, Proposal]]
    ) -> dict[str, Written]:
        """Write to several streams in this order, to all or to none.

        Where some streams hold their events already and others don't, nothing is written.
        """
        size = sum(event.size for _, event in events)
        if size > self.max_append_bytes:
            raise AppendTooLargeError(size, self.max_append_bytes)
        ids: dict[str, list[str]] = {name: [] for name in expected}
        for name, event in events:
            ids[name].append(event.id)
        repeats = {name: self.check(name, expected[name], ids[name]) for name in ids}
        answers = {name: repeat for name, repeat in repeats.items() if repeat is not None}
        if len(answers) == len(ids):
            return answers
        for name, repeat in answers.items():
            raise WrongRevisionError(name, expected[name], repeat.revision)
        return self._write(ids, events)

    def _write(
        self, names: Iterable[str], events: Sequence[tuple[str, Proposal]]
    ) -> dict[str, Written]:
        rows: list[Row] = []
        answers: dict[str, Written] = {}
        for name in names:
            stream = self._streams.get(name) or Stream(name)
            answers[name] = Written(stream.last, self._positions[-1] if self._positions else 0)
            if stream.soft_deleted:
                kept = {**stream.metadata, "$tb": stream.last + 1}
                self._place(rows, f"$${name}", None, system_event("$metadata", kept))
        for name, event in events:
            answers[name] = self._place(rows, name, answers[name].revision + 1, event)
        self._commit(rows)
        return answers

    def state(self, name: str) -> int:
        """The stream's revision, or that it doesn't exist, is deleted or tombstoned."""
        stream = self._streams.get(name) or Stream(name)
        if stream.tombstoned:
            return TOMBSTONED
        return SOFT_DELETED if stream.soft_deleted else stream.last

    def check(self, name: str, expected: int, ids: Sequence[str]) -> Written | None:
        """Where these events stand already, or None when they may be written.

        Raises what is wrong. As in KurrentDB an exact expectation only looks at the place
        right after it, and ANY and EXISTS take ids that stand in any order for a repeat.
        """
        stream = self._streams.get(name) or Stream(name)
        if stream.tombstoned:
            raise TombstonedError(name)
        actual = stream.last
        if expected == EXISTS and stream.soft_deleted:
            raise TombstonedError(name)
        if expected == EXISTS and actual < 0 and f"$${name}" not in self._streams:
            raise WrongRevisionError(name, expected, actual)
        if expected in (ANY, EXISTS):
            places = [stream.revisions.get(id) for id in ids]
            if not places or places[0] is None:
                return None
            if None in places:
                raise WrongRevisionError(name, expected, actual)
            return self._written(stream, places[-1] or 0)
        if expected > actual:
            raise WrongRevisionError(name, expected, actual)
        if expected == actual:
            return None
        due = [expected + offset for offset in range(1, len(ids) + 1)]
        if ids and [stream.revisions.get(id) for id in ids] == due:
            return self._written(stream, due[-1])
        if expected == NO_STREAM and stream.soft_deleted:
            return None
        raise WrongRevisionError(name, expected, actual)

    def soft_delete(self, name: str, expected: int) -> int:
        """Hide the stream until the next append, which goes on from its last revision."""
        stream = self._to_delete(name, expected, any_missing=False)
        kept = {**stream.metadata, "$tb": DELETED}
        return self.append(f"$${name}", ANY, [system_event("$metadata", kept)]).position

    def tombstone(self, name: str, expected: int) -> int:
        """Retire the name for good."""
        self._to_delete(name, expected, any_missing=True)
        rows: list[Row] = []
        written = self._place(rows, name, DELETED, system_event("$streamDeleted", {}))
        self._commit(rows)
        return written.position

    def scavenge(self) -> int:
        """Take what is truncated out of the log; how many records that was."""
        keep = {id(r) for s in self._streams.values() for r in s.visible()}
        keep |= {id(r) for r in self._records if r.revision == DELETED}
        gone = [r for r in self._records if id(r) not in keep]
        self._records = [r for r in self._records if id(r) in keep]
        self._positions = [r.position for r in self._records]
        for stream in self._streams.values():
            stream.records = [r for r in stream.records if id(r) in keep]
        return len(gone)

    def write_legacy_transaction(self, name: str, events: Sequence[Proposal]) -> int:
        """As the old TCP clients did: several events with one commit position."""
        rows: list[Row] = []
        last = (self._streams.get(name) or Stream(name)).last
        for offset, event in enumerate(events, start=1):
            self._place(rows, name, last + offset, event)
        # The commit is a record of its own, behind those that it commits.
        commit: int = rows[-1][0] + rows[-1][-1]
        self._commit([(commit, *row[1:]) for row in rows])
        return commit

    def listen(self) -> asyncio.Event:
        """An event that is set at every commit."""
        heard = asyncio.Event()
        self._listeners.add(heard)
        return heard

    def leave(self, heard: asyncio.Event) -> None:
        """Stop listening."""
        self._listeners.discard(heard)

    def wake(self) -> None:
        """Let everybody who listens look again."""
        for heard in self._listeners:
            heard.set()

    def _written(self, stream: Stream, revision: int) -> Written:
        at = bisect.bisect_left(stream.records, revision, key=lambda r: r.revision)
        found = stream.records[at : at + 1]
        return Written(revision, found[0].position if found else 0)

    def _to_delete(self, name: str, expected: int, *, any_missing: bool) -> Stream:
        stream = self._streams.get(name) or Stream(name)
        if stream.tombstoned:
            raise TombstonedError(name)
        if expected == EXISTS and stream.soft_deleted:
            raise TombstonedError(name)
        actual = stream.last
        holds = expected in (ANY, actual) or (expected == EXISTS and actual >= 0)
        if not holds or (actual < 0 and not any_missing):
            raise WrongRevisionError(name, expected, actual)
        return stream

    def _place(self, rows: list[Row], name: str, revision: int | None, event: Proposal) -> Written:
        if revision is None:
            revision = (self._streams.get(name) or Stream(name)).last + 1
        position = rows[-1][0] + rows[-1][-1] if rows else self._end
        size = _RECORD_BYTES + 2 * len(name) + event.size
        parts = (event.id, event.type, event.content_type, event.data, event.metadata)
        rows.append((position, position, name, revision, *parts, ticks_now(), size))
        return Written(revision, position)

    def _commit(self, rows: list[Row]) -> None:
        if not rows:
            return
        if self._journal is not None:
            self._journal.write(rows)
        for row in rows:
            self._restore(row)
        self.wake()

    def _restore(self, row: Row) -> None:
        position, prepare, name, revision, *parts, created, size = row
        record = Record(position, prepare, name, revision, Proposal(*parts), created)
        self._end = max(self._end, position) + size
        self._records.append(record)
        self._positions.append(position)
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Stream(name)
        if revision == DELETED:
            stream.tombstoned = True
            return
        stream.records.append(record)
        stream.revisions[record.event.id] = revision
        stream.last = revision
        if name.startswith("$$") and record.event.type == "$metadata":
            of = self._streams.setdefault(name[2:], Stream(name[2:]))
            of.metadata = json.loads(record.event.data or b"{}")


def ticks_now() -> int:
    """The clock, in ticks of 100 ns since 1970."""
    return time.time_ns() // 100


def system_event(type_name: str, data: Any) -> Proposal:
    """An event that the server writes itself."""
    text = json.dumps(data).encode()
    return Proposal(str(uuid4()), type_name, "application/json", text, b"")
