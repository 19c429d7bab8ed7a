"""What all acceptance classes have in common: the event loop, waivers and the guard."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar

import pytest


class Acceptance:
    """The base of the acceptance classes.

    Subclass one or several of them in a test module, as ``class TestMine(...)``, and override
    the fixture that they ask for; nothing else is needed. A clause that a store can't keep is
    waived, with the reason, and then must fail::

        waived = {"test_it_does_this": "why this store can't"}

    Replacing a clause, or waiving one that doesn't exist, is a `TypeError` when the class is
    made.
    """

    pytestmark = pytest.mark.anyio

    waived: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("estoria.core.testing."):
            return
        for name in vars(cls):
            if name.startswith("test_") and any(_is_clause(base, name) for base in cls.__mro__[1:]):
                raise TypeError(f"{cls.__name__} replaces the clause {name}: waive it instead")
        for name, reason in vars(cls).get("waived", {}).items():
            clause = getattr(cls, name, None)
            if clause is None:
                raise TypeError(f"{cls.__name__} waives {name}, which is no clause")
            if not reason:
                raise TypeError(f"{cls.__name__} waives {name} without a reason")
            setattr(cls, name, _waived(clause, reason))

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The clauses run on asyncio, one loop for each test."""
        return "asyncio"


def _is_clause(base: type, name: str) -> bool:
    return base.__module__.startswith("estoria.core.testing.") and name in vars(base)


def _waived(clause: Callable[..., Any], reason: str) -> Callable[..., Any]:
    @wraps(clause)
    async def waived_clause(*args: Any, **kwargs: Any) -> None:
        await clause(*args, **kwargs)

    marked: Callable[..., Any] = pytest.mark.xfail(strict=True, reason=reason)(waived_clause)
    return marked
