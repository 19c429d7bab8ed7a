"""Measuring the sides of a workload in turn.

Figures of a shared machine wander; ratios of sides that take turns wander less. Each round
runs every side once, in the same order; the median over the rounds counts.
"""

import gc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

Side = Callable[[], Awaitable[int]]
"""Does its work once, and says how many operations that was."""

MIN_ROUNDS = 5


@dataclass(frozen=True)
class Bar:
    """How fast the side `ours` must be, as a multiple of another side's speed.

    `at_most_times` says the same as a multiple of the other's time, as some bars are put.
    """

    against: str
    at_least: float
    at_most_times: float | None = None

    @classmethod
    def time(cls, against: str, at_most: float) -> "Bar":
        """A bar on time: at most so many times as long as the other side."""
        return cls(against, 1 / at_most, at_most)


@dataclass(frozen=True)
class Workload:
    """Something that several sides can do: `ours`, floors and rivals."""

    name: str
    what: str
    bars: Sequence[Bar]
    sides: Callable[[], AbstractAsyncContextManager[Mapping[str, Side]]]
    """Opens what the sides need; its first side is `ours`."""

    rounds: int = MIN_ROUNDS


@dataclass
class Result:
    """Operations per second of each side: the median, and every round."""

    workload: Workload
    rates: dict[str, list[float]] = field(default_factory=dict)

    def rate(self, side: str) -> float:
        """The side's median."""
        return median(self.rates[side])

    def ratio(self, against: str) -> float:
        """Our speed as a multiple of the other side's."""
        return self.rate("ours") / self.rate(against)

    def missed(self) -> list[Bar]:
        """The bars that weren't reached."""
        return [bar for bar in self.workload.bars if self.ratio(bar.against) < bar.at_least]


async def measure(workload: Workload) -> Result:
    """Run all sides once to warm up, then in turn, round by round."""
    result = Result(workload)
    async with workload.sides() as sides:
        for side in sides.values():
            await side()
        for _ in range(max(workload.rounds, MIN_ROUNDS)):
            for name, side in sides.items():
                gc.collect()
                start = perf_counter()
                operations = await side()
                elapsed = perf_counter() - start
                result.rates.setdefault(name, []).append(operations / elapsed)
    return result
