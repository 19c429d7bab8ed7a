"""Persistent subscriptions: what the consumers of a group are sent, and what they make of it."""

import asyncio
import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast
from uuid import uuid4

from estoria_testservers.kurrentdb._log import ANY, Log, Proposal, Record, system_event
from estoria_testservers.kurrentdb._sources import Source
from estoria_testservers.kurrentdb._strategies import STRATEGIES, Strategy

FROM_END = -1


@dataclass(frozen=True)
class Settings:
    """What a group was created or updated with; `start` is a place, or FROM_END."""

    start: int
    resolve_links: bool
    extra_statistics: bool
    max_retry_count: int
    min_checkpoint_count: int
    max_checkpoint_count: int
    max_subscriber_count: int
    live_buffer_size: int
    read_batch_size: int
    history_buffer_size: int
    message_timeout_ms: int
    checkpoint_after_ms: int
    strategy: str


@dataclass(eq=False)
class Entry:
    """An event on its way through a group; `link` is what it was resolved from."""

    event: Record | None
    link: Record | None
    place: int
    replayed: bool = False
    retries: int = 0
    done: bool = False
    deadline: float = math.inf

    @property
    def original(self) -> Record:
        """The record that stands in the source."""
        return cast("Record", self.link or self.event)

    @property
    def id(self) -> str:
        """What a consumer acknowledges it by."""
        return self.original.event.id


@dataclass(eq=False)
class Consumer:
    """One reader of a group."""

    capacity: int
    name: str
    held: dict[str, Entry] = field(default_factory=dict)
    queue: "asyncio.Queue[Entry | None]" = field(default_factory=asyncio.Queue)
    taken: int = 0

    @property
    def has_room(self) -> bool:
        """Whether it takes one more event now."""
        return len(self.held) < self.capacity


class Group:
    """The consumers of one persistent subscription and the events that they share."""

    def __init__(self, log: Log, source: Source, name: str, settings: Settings) -> None:
        self.source, self.name, self.settings = source, name, settings
        self.consumers: list[Consumer] = []
        self.retried: deque[Entry] = deque()
        self.total = 0
        self.checkpoint: int | None = None
        self.last_known: int | None = None
        self._log = log
        self._strategy: Strategy = STRATEGIES[settings.strategy]()
        self._buffer: list[Entry] = []
        self._unfinished: deque[Entry] = deque()
        self._finished = 0
        self._finished_place: int | None = None
        self._checkpointed_at = time.monotonic()
        self._watching: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        self.checkpoints, self.parked = (
            f"$persistentsubscription-{source.name}::{name}-{rest}"
            for rest in ("checkpoint", "parked")
        )
        stored = log.newest(self.checkpoints)
        if stored is not None:
            self.checkpoint = int(json.loads(stored.event.data))
        self._at = self._begin()

    @property
    def outstanding(self) -> int:
        """How many events are with consumers."""
        return sum(len(consumer.held) for consumer in self.consumers)

    @property
    def parked_records(self) -> Sequence[Record]:
        """The links to the events that were parked."""
        stream = self._log.stream(self.parked)
        return stream.visible() if stream is not None else []

    def update(self, settings: Settings) -> None:
        """Go on with other settings; the consumers have to come again."""
        moved = settings.start != self.settings.start
        self._dismiss()
        self.settings = settings
        self._strategy = STRATEGIES[settings.strategy]()
        if moved:
            self.checkpoint = None
            self.retried.clear()
            self._buffer.clear()
            self._unfinished.clear()
            self._finished, self._finished_place = 0, None
            self._at = self._begin()

    def delete(self) -> None:
        """Send the consumers away, and forget what was parked and reached."""
        self._dismiss()
        for stream in (self.checkpoints, self.parked):
            if self._log.stream(stream) is not None:
                self._log.soft_delete(stream, ANY)

    def join(self, consumer: Consumer) -> None:
        """Send events to this consumer too."""
        self.consumers.append(consumer)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        self._push()

    def leave(self, consumer: Consumer) -> None:
        """Send no more to this consumer, and what it holds to others."""
        if consumer not in self.consumers:
            return
        self.consumers.remove(consumer)
        self._take_all(consumer)
        if not self.consumers:
            self._watch_no_more()
        self._push()

    def ack(self, ids: Sequence[str]) -> None:
        """These events are dealt with."""
        for entry in self._released(ids):
            self._finish(entry)
        self._push()

    def nack(self, ids: Sequence[str], action: str, reason: str) -> None:
        """These events are not dealt with; `Stop` leaves them where they are."""
        if action == "Stop":
            return
        for entry in self._released(ids):
            if action == "Park":
                self._park(entry, f"Client explicitly NAK'ed message.\n{reason}")
            elif action == "Skip":
                self._finish(entry)
            else:
                self._retry(entry, reason)
        self._push()

    def replay_parked(self, limit: int | None) -> None:
        """Send parked events again, the oldest first, and park them no more."""
        links = [*self.parked_records][:limit]
        if not links:
            return
        for link in links:
            event = self._log.target(link)
            if event is not None:
                self.retried.append(Entry(event, link, -1, replayed=True))
        kept = {"$tb": links[-1].revision + 1}
        self._log.append(f"$${self.parked}", ANY, [system_event("$metadata", kept)])
        self._push()

    def _dismiss(self) -> None:
        dismissed, self.consumers = self.consumers, []
        self._watch_no_more()
        for consumer in dismissed:
            self._take_all(consumer)
            consumer.queue.put_nowait(None)

    def _take_all(self, consumer: Consumer) -> None:
        for entry in consumer.held.values():
            self._retry(entry, "the consumer has left")
        consumer.held.clear()

    def _watch_no_more(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _begin(self) -> int:
        if self.checkpoint is not None:
            return self.checkpoint + 1
        return self.source.end() if self.settings.start == FROM_END else self.settings.start

    async def _watch(self) -> None:
        """Push what is written, what was not acknowledged in time, and keep checkpoints."""
        heard = self._heard = self._log.listen()
        try:
            while True:
                heard.clear()
                self._take_back()
                self._keep_checkpoint(timed=True)
                self._push()
                due = [entry.deadline for each in self.consumers for entry in each.held.values()]
                if self._finished >= max(self.settings.min_checkpoint_count, 1):
                    due.append(self._checkpointed_at + self.settings.checkpoint_after_ms / 1000)
                wait = min(due, default=math.inf) - time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if wait == math.inf else max(wait, 0.001)):
                        await heard.wait()
        finally:
            self._log.leave(heard)

    def _take_back(self) -> None:
        now = time.monotonic()
        for consumer in self.consumers:
            for entry in [each for each in consumer.held.values() if each.deadline <= now]:
                del consumer.held[entry.id]
                self._retry(entry, "the message timed out")

    def _push(self) -> None:
        if not self.consumers:
            return
        while self._push_first(self.retried) or self._push_first(self._buffer):
            pass
        while len(self._buffer) < max(self.settings.live_buffer_size, 1):
            records, at = self.source.take(self._at, self.settings.read_batch_size)
            if at == self._at:
                break
            self._at = at
            self._load(records)
            while self._push_first(self._buffer):
                pass

    def _load(self, records: Sequence[Record]) -> None:
        for record in records:
            place = self.last_known = self.source.place(record)
            entry = Entry(record, None, place)
            if self.settings.resolve_links and record.event.type == "$>":
                entry = Entry(self._log.target(record), record, place)
            self._buffer.append(entry)
            self._unfinished.append(entry)

    def _push_first(self, entries: "deque[Entry] | list[Entry]") -> bool:
        """Send the first of these that a consumer takes."""
        if not any(consumer.has_room for consumer in self.consumers):
            return False
        for entry in entries:
            if any(entry.id in consumer.held for consumer in self.consumers):
                # Acknowledging could not tell them apart, so the later one is skipped.
                entries.remove(entry)
                self._finish(entry)
                return True
            chosen = self._strategy.choose(entry.event or entry.original, self.consumers)
            if chosen is not None:
                entries.remove(entry)
                self._send(entry, cast("Consumer", chosen))
                return True
        return False

    def _send(self, entry: Entry, consumer: Consumer) -> None:
        timeout = self.settings.message_timeout_ms / 1000
        entry.deadline = time.monotonic() + timeout if timeout else math.inf
        consumer.held[entry.id] = entry
        consumer.taken += 1
        self.total += 1
        consumer.queue.put_nowait(entry)
        self._heard.set()  # this may be the deadline that passes first

    def _released(self, ids: Sequence[str]) -> list[Entry]:
        holders = ((each.held, id) for id in ids for each in self.consumers)
        return [held.pop(id) for held, id in holders if id in held]

    def _retry(self, entry: Entry, reason: str) -> None:
        if entry.retries >= self.settings.max_retry_count:
            self._park(entry, f"Reached retry count of {entry.retries}: {reason}")
            return
        entry.retries += 1
        self.retried.append(entry)

    def _park(self, entry: Entry, reason: str) -> None:
        record = entry.event if entry.replayed and entry.event else entry.original
        metadata = json.dumps({"reason": reason, "group": self.name}).encode()
        link = f"{record.revision}@{record.stream}".encode()
        event = Proposal(str(uuid4()), "$>", "application/octet-stream", link, metadata)
        self._log.append(self.parked, ANY, [event])
        self._finish(entry)

    def _finish(self, entry: Entry) -> None:
        entry.done = True
        while self._unfinished and self._unfinished[0].done:
            self._finished_place = self._unfinished.popleft().place
            self._finished += 1
            self._heard.set()
        self._keep_checkpoint(timed=False)

    def _keep_checkpoint(self, *, timed: bool) -> None:
        after = self.settings.checkpoint_after_ms / 1000
        timed = timed and time.monotonic() - self._checkpointed_at >= after
        enough = self.settings.min_checkpoint_count if timed else self.settings.max_checkpoint_count
        if self._finished_place is None or self._finished < max(enough, 1):
            return
        self.checkpoint, self._finished = self._finished_place, 0
        self._checkpointed_at = time.monotonic()
        event = system_event("$SubscriptionCheckpoint", self.checkpoint)
        self._log.append(self.checkpoints, ANY, [event])
