"""How far a projection has come, and what a checkpoint store promises."""

import re
from datetime import datetime
from typing import Protocol, runtime_checkable

import msgspec

from estoria.core._checks import check_bound
from estoria.core._text import check_name

_PRINTED = re.compile(r"(.+)_v([1-9][0-9]*)", re.DOTALL)


class ProjectionID(msgspec.Struct, frozen=True, order=True):
    """A projection and its version, printed as ``orders_v7``; `parse` is the inverse.

    Raises `ValueError` for a name that can be no type name and for a version below 1.
    """

    name: str
    version: int

    def __post_init__(self) -> None:
        check_name(self.name, "projection name")
        if isinstance(self.version, bool) or not isinstance(self.version, int) or self.version < 1:
            raise ValueError(f"version is {self.version!r}, not a number from 1 on")

    @classmethod
    def parse(cls, text: str) -> "ProjectionID":
        """Read what `str` printed; anything else is a `ValueError`."""
        if (match := _PRINTED.fullmatch(text)) is None:
            raise ValueError(f"{text!r} is not a name and a version like 'orders_v7'")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.name}_v{self.version}"


class Checkpoint(msgspec.Struct, frozen=True):
    """The global position up to which a projection has worked, and when that was saved (UTC)."""

    position: int
    updated_at: datetime


@runtime_checkable
class CheckpointStore(Protocol):
    """Keeps the checkpoints of projections.

    Held to it by `CheckpointStoreAcceptance`.
    """

    async def load(self, projection_id: ProjectionID) -> Checkpoint | None:
        """The checkpoint that was saved last, or None."""
        ...

    async def save(self, projection_id: ProjectionID, position: int) -> None:
        """Keep this position; the last save wins, also to a lower position.

        A save at the same position refreshes `updated_at`. Raises `ValueError` for a
        negative position.
        """
        ...

    async def delete(self, projection_id: ProjectionID) -> None:
        """Forget the checkpoint; nothing happens when there is none."""
        ...


def check_projection_id(projection_id: ProjectionID) -> None:
    """Raise `TypeError` for anything but a `ProjectionID`."""
    if not isinstance(projection_id, ProjectionID):
        raise TypeError(f"projection_id is a {type(projection_id).__name__}, not a ProjectionID")


def check_position(position: int) -> int:
    """A position from 0 on that backends can hold; else `ValueError`."""
    if check_bound("position", position) != position:
        raise ValueError(f"position is {position}, above every position there is")
    return position
