"""Which consumer of a persistent subscription gets an event."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from estoria_testservers.kurrentdb._log import Record


class Taker(Protocol):
    """A consumer, as far as a strategy looks at it."""

    @property
    def has_room(self) -> bool:
        """Whether it takes one more event now."""
        ...


class Strategy(Protocol):
    """Chooses among the consumers that are there; `None` lets the event wait."""

    def choose(self, event: Record, takers: Sequence[Taker], /) -> Taker | None: ...


class DispatchToSingle:
    """The first consumer that has room."""

    def choose(self, _event: Record, takers: Sequence[Taker]) -> Taker | None:
        return next((taker for taker in takers if taker.has_room), None)


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._last: Taker | None = None

    def choose(self, _event: Record, takers: Sequence[Taker]) -> Taker | None:
        start = takers.index(self._last) + 1 if self._last in takers else 0
        turn = [*takers[start:], *takers[:start]]
        found = next((taker for taker in turn if taker.has_room), None)
        self._last = found or self._last
        return found


@dataclass
class Pinned:
    """All events of a stream to one consumer, for as long as it stays."""

    by_correlation: bool = False
    pins: dict[str, Taker] = field(default_factory=dict)

    def choose(self, event: Record, takers: Sequence[Taker]) -> Taker | None:
        key = _correlation(event) if self.by_correlation else None
        key = key or _stream(event)
        taker = self.pins.get(key)
        if taker is None or taker not in takers:
            pinned = [*self.pins.values()]
            taker = self.pins[key] = min(takers, key=pinned.count)
        return taker if taker.has_room else None


def _stream(event: Record) -> str:
    if event.event.type == "$>":
        return event.event.data.decode().partition("@")[2]
    return event.stream


def _correlation(event: Record) -> str | None:
    try:
        metadata = json.loads(event.event.metadata)
    except ValueError:
        return None
    found = metadata.get("$correlationId") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else None


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "DispatchToSingle": DispatchToSingle,
    "RoundRobin": RoundRobin,
    "Pinned": Pinned,
    "PinnedByCorrelation": lambda: Pinned(by_correlation=True),
}
"""The strategies by the names that clients give them."""
