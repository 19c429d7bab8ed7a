"""Where a server can come from."""

import enum
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass


class Rung(enum.Enum):
    """The rungs of the ladder, from the first to the last."""

    ENVIRONMENT = "environment"
    LOCAL = "local binary"
    WHEEL = "wheel"
    DOCKER = "docker"
    DOUBLE = "test double"
    """No such server, but one of our own that speaks its protocol."""


@dataclass(frozen=True)
class Candidate:
    """One server that could be used: which, of what version, from which rung.

    `place` is the URL, the path of the binary, or the name of the image; `origin` is the same
    for people to read: the environment variable, the path, the wheel, the image.
    """

    name: str
    rung: Rung
    version: str
    place: str
    origin: str

    @property
    def major(self) -> int:
        """The number that the version begins with; 0 where the version is not known."""
        number = re.match(r"\d+", self.version)
        return int(number.group()) if number else 0

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.rung.value} {self.origin})"


def servers_required(environ: Mapping[str, str] = os.environ, *, optional: bool = False) -> bool:
    """Tell whether a test whose server is missing fails rather than skips.

    `CI` asks for every server that is not optional, `ESTORIA_REQUIRE_SERVERS=1` for all.
    """
    if environ.get("ESTORIA_REQUIRE_SERVERS", "") not in {"", "0"}:
        return True
    return not optional and environ.get("CI", "").lower() not in {"", "0", "false"}
