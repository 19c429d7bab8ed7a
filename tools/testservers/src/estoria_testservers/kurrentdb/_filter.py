"""What a reader of `$all` wants to see of it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from estoria_testservers.kurrentdb._log import Record


@dataclass(frozen=True)
class Filter:
    """Which records of `$all` a reader wants: by stream name or by event type."""

    by_stream: bool = False
    regex: re.Pattern[str] | None = None
    prefixes: tuple[str, ...] = ()
    known: dict[str, bool] = field(default_factory=dict)

    def select(self, records: Sequence[Record]) -> Iterator[tuple[int, Record]]:
        """The records that match, each with its place in `records`."""
        known, by_stream = self.known, self.by_stream
        for index, record in enumerate(records):
            text = record.stream if by_stream else record.event.type
            fits = known.get(text)
            if fits is None:
                fits = known[text] = self._fits(text)
            if fits or (self.prefixes and self._indexed(record)):
                yield index, record

    def _fits(self, text: str) -> bool:
        if self.prefixes:
            return text.startswith(self.prefixes)
        return self.regex is None or self.regex.search(text) is not None

    def _indexed(self, record: Record) -> bool:
        """Whether one of the prefixes names a secondary index that holds the record."""
        if record.event.type.startswith("$"):
            return False
        category = record.stream.partition("-")[0]
        return bool({f"$idx-et-{record.event.type}", f"$idx-ce-{category}"} & {*self.prefixes})


def filter_by(options: Any) -> Filter:
    """The filter that a client describes."""
    by = options.WhichOneof("filter")
    expression = getattr(options, by)
    regex = re.compile(expression.regex) if expression.regex else None
    return Filter(by == "stream_identifier", regex, tuple(expression.prefix))
