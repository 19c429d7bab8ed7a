"""Random scripts: a store and a small model of the contract, side by side."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from estoria.core import (
    DuplicateEventError,
    EstoriaError,
    Event,
    EventStore,
    Expect,
    GlobalReader,
    NewEvent,
    StreamDeleter,
    StreamInfo,
    StreamNotFoundError,
    StreamTruncator,
    StreamVersionMismatchError,
    TypeID,
)
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._samples import as_given, new_events

T = TypeVar("T")

STREAMS = 3
EXAMPLES = int(os.environ.get("ESTORIA_RANDOM_SCRIPTS", "100"))
STEPS = int(os.environ.get("ESTORIA_RANDOM_SCRIPT_STEPS", "40"))

Outcome = list[tuple[int, UUID]] | type[Exception]


class ModelStream:
    """What the contract says of one stream, in as few words as possible."""

    def __init__(self) -> None:
        self.life: list[tuple[int, NewEvent]] | None = None
        self.version = self.origin = 0
        self.first_version = 1

    def append(self, batch: list[NewEvent], expect: Expect | int) -> Outcome:
        """What an append answers: versions and ids, or an error; and its effect."""
        standing = {event.id: version for version, event in self.life or []}
        found = [standing.get(event.id) for event in batch]
        if any(found):
            start = found[0]
            if isinstance(expect, int) and expect:
                start = expect + 1
            elif expect in (0, Expect.NO_STREAM):
                start = self.origin + 1
            due = [start + index if start else None for index in range(len(batch))]
            if found != due:
                return DuplicateEventError
            return [(standing[event.id], event.id) for event in batch]
        actual = self.version if self.life is not None else 0
        holds = {Expect.ANY: True, Expect.NO_STREAM: not actual, Expect.STREAM_EXISTS: actual > 0}
        if not (holds[expect] if isinstance(expect, Expect) else expect == actual):
            return StreamVersionMismatchError
        if self.life is None:
            self.life, self.origin, self.first_version = [], self.version, self.version + 1
        written = [(self.version + n, event) for n, event in enumerate(batch, start=1)]
        self.version += len(batch)
        self.life += written
        return [(version, event.id) for version, event in written]

    def truncate(self, to_version: int) -> None:
        """Forget what is at or below."""
        assert self.life is not None
        self.life = [(version, event) for version, event in self.life if version > to_version]
        self.first_version = max(self.first_version, to_version + 1)

    def delete(self) -> None:
        """Forget all, and retire a version."""
        self.life = None
        self.version += 1


class RandomScriptsAcceptance(Acceptance):
    """A store answers every random script as the contract's model does.

    Appends with every expectation, stale ones and repeated ids, reads with every bound,
    global reads, truncations and deletions, as far as the store has these abilities. Asks
    for the fixture `store`. ``ESTORIA_RANDOM_SCRIPTS`` scripts (100) of
    ``ESTORIA_RANDOM_SCRIPT_STEPS`` steps (40): set them for a longer run.
    """

    scripts: ClassVar[int] = EXAMPLES

    shows_truncated: ClassVar[bool] = False
    """Whether global reads go on showing what was truncated, as the contract lets them where
    the backend reclaims space later."""

    @pytest.fixture
    async def store(self) -> EventStore:
        """The store under test."""
        raise TypeError(f"{type(self).__name__} has no fixture called store: override it")

    async def test_it_answers_random_scripts_as_the_model_does(self, store: EventStore) -> None:
        """Hypothesis shrinks what differs to the shortest script."""
        facts = {
            "store": store,
            "loop": asyncio.get_running_loop(),
            "shows_truncated": self.shows_truncated,
        }
        machine = type("Script", (Script,), facts)
        run = settings(
            max_examples=self.scripts,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        # Hypothesis is synchronous: it runs in a thread and sends each step to this loop.
        await asyncio.to_thread(run_state_machine_as_test, machine, settings=run)


_streams = st.integers(0, STREAMS - 1)


class Script(RuleBasedStateMachine):
    """One random script; a subclass names the store and the loop that it belongs to."""

    store: ClassVar[EventStore]
    loop: ClassVar[asyncio.AbstractEventLoop]
    shows_truncated: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.ids = [TypeID.new("account") for _ in range(STREAMS)]
        self.models = [ModelStream() for _ in range(STREAMS)]
        self.batches: list[list[NewEvent]] = []
        self.deleted: set[UUID] = set()
        self.log: list[tuple[TypeID, int, UUID]] = []
        self.head = self._run(self._head())

    def _run(self, step: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(step, self.loop).result(60)

    def _outcome(self, step: Coroutine[Any, Any, list[Event]]) -> Outcome:
        try:
            return [(event.stream_version, event.id) for event in self._run(step)]
        except EstoriaError as error:
            return type(error)

    async def _head(self) -> int:
        return await self.store.head_position() if isinstance(self.store, GlobalReader) else 0

    @rule(
        stream=_streams,
        size=st.integers(1, 4),
        off=st.sampled_from([0, 0, 0, -1, 1, -2, 2, None]),
        expect=st.sampled_from([*Expect, None, None, None]),
    )
    def append_new(self, stream: int, size: int, off: int | None, expect: Expect | None) -> None:
        self._append(stream, new_events(size), off, expect)

    @precondition(lambda self: self.batches)
    @rule(
        stream=_streams,
        batch=st.integers(0, 1_000),
        start=st.integers(0, 2),
        extra=st.booleans(),
        off=st.sampled_from([0, -1, -2, -3, 1, None]),
        expect=st.sampled_from([*Expect, None, None]),
    )
    def append_again(
        self,
        stream: int,
        batch: int,
        start: int,
        extra: bool,
        off: int | None,
        expect: Expect | None,
    ) -> None:
        chosen = self.batches[batch % len(self.batches)]
        repeated = chosen[start:] or chosen
        self._append(stream, repeated + new_events(int(extra)), off, expect)

    def _append(
        self, stream: int, batch: list[NewEvent], off: int | None, expect: Expect | None
    ) -> None:
        model = self.models[stream]
        version = 0 if off is None else max(model.version + off, 0)
        expected: Expect | int = version if expect is None else expect
        known = {event.id for _, event in model.life or []}
        due = model.append(batch, expected)
        append = self.store.append_stream(self.ids[stream], batch, expect=expected)
        assert due == self._outcome(append), f"append to {stream}, expecting {expected}"
        self.batches.append(batch)
        if isinstance(due, list):
            self.log += [(self.ids[stream], version, id) for version, id in due if id not in known]

    @rule(
        stream=_streams,
        reverse=st.booleans(),
        bound=st.one_of(st.none(), st.integers(0, 30)),
        count=st.one_of(st.none(), st.integers(1, 9)),
    )
    def read(self, stream: int, reverse: bool, bound: int | None, count: int | None) -> None:
        model = self.models[stream]
        options: dict[str, Any] = {"count": count, "reverse": reverse}
        life = list(model.life or [])
        if reverse:
            options["before_version"] = bound
            life = [x for x in reversed(life) if bound is None or x[0] < bound]
        elif bound is not None:
            options["after_version"] = bound
            life = [x for x in life if x[0] > bound]
        due: Outcome = [(version, event.id) for version, event in life[:count]]
        if model.life is None:
            due = StreamNotFoundError
        read = self.store.read_stream(self.ids[stream], **options)
        assert due == self._outcome(read.collect()), f"read {stream} with {options}"

    @rule(stream=_streams)
    def look(self, stream: int) -> None:
        model = self.models[stream]
        if model.life is None:
            return
        stream_id = self.ids[stream]

        async def info() -> tuple[StreamInfo, list[NewEvent]]:
            async with self.store.read_stream(stream_id) as events:
                return events.stream, as_given(await events.collect())

        due = StreamInfo(stream_id, model.version, model.first_version, model.origin)
        assert (due, [event for _, event in model.life]) == self._run(info())

    @precondition(lambda self: isinstance(self.store, GlobalReader))
    @rule(skip=st.integers(0, 5), count=st.one_of(st.none(), st.integers(1, 9)))
    def read_globally(self, skip: int, count: int | None) -> None:
        self._compare_globally(skip, count)

    def teardown(self) -> None:
        """Whatever the script was, all of it is read once more."""
        for stream in range(STREAMS):
            self.look(stream)
        self._compare_globally(1, 1)

    def _compare_globally(self, skip: int, count: int | None) -> None:
        if not isinstance(self.store, GlobalReader):
            return
        alive = {
            (stream_id, version)
            for stream_id, model in zip(self.ids, self.models, strict=True)
            for version, _ in model.life or []
        }
        due = [entry for entry in self.log if entry[:2] in alive]
        everything = self._run(self.store.read_all(after_position=self.head).collect())
        mine = [event for event in everything if event.stream_id in self.ids]
        if self.shows_truncated:
            mine = [e for e in mine if (e.stream_id, e.stream_version) in alive]
        assert due == [(e.stream_id, e.stream_version, e.id) for e in mine]
        after = everything[skip - 1].global_position if 0 < skip <= len(mine) else self.head
        rest = [event for event in everything if event.global_position > after][:count]
        assert rest == self._run(self.store.read_all(after_position=after, count=count).collect())

    @precondition(lambda self: isinstance(self.store, StreamTruncator))
    @rule(stream=_streams, back=st.integers(0, 8))
    def truncate(self, stream: int, back: int) -> None:
        assert isinstance(self.store, StreamTruncator)
        model = self.models[stream]
        to_version = max(model.version - back, 1)
        truncation = self.store.truncate_stream(self.ids[stream], to_version)
        if model.life is None:
            with pytest.raises(StreamNotFoundError):
                self._run(truncation)
        else:
            self._run(truncation)
            model.truncate(to_version)

    @precondition(lambda self: isinstance(self.store, StreamDeleter))
    @rule(stream=_streams)
    def delete(self, stream: int) -> None:
        assert isinstance(self.store, StreamDeleter)
        model = self.models[stream]
        deletion = self.store.delete_stream(self.ids[stream])
        if model.life is None:
            with pytest.raises(StreamNotFoundError):
                self._run(deletion)
        else:
            self._run(deletion)
            model.delete()
