"""Finding the backend that serves a URL."""

import re
from contextlib import AbstractAsyncContextManager
from importlib.metadata import entry_points

from estoria.core._errors import UnknownSchemeError
from estoria.core._event_store import EventStore

ENTRY_POINT_GROUP = "estoria.event_stores"
"""Entry points: the name is the URL scheme, the object a function from a URL to an async
context manager that gives an event store."""

_PACKAGES = {
    "kurrentdb": "estoria-kurrentdb",
    "kurrentdb+discover": "estoria-kurrentdb",
    "mongodb": "estoria-mongodb",
    "mongodb+srv": "estoria-mongodb",
    "postgres": "estoria-postgres",
    "postgresql": "estoria-postgres",
    "sqlite": "estoria-sqlite",
}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)


def connect(url: str) -> AbstractAsyncContextManager[EventStore]:
    """An event store for this URL, open within its context.

    ::

        async with connect("sqlite:///ledger.db") as store:
            await store.setup()

    Serves the schemes of the backends that are installed, and ``memory://``. Raises
    `UnknownSchemeError` for any other, with the line that installs what is missing; what
    the backend makes of the rest of the URL is its own to say.
    """
    match = _SCHEME.match(url)
    if match is None:
        raise UnknownSchemeError("", "start it with a scheme, as in sqlite:///ledger.db")
    scheme = match[1].lower()
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=scheme):
        serve = entry_point.load()
        store: AbstractAsyncContextManager[EventStore] = serve(url)
        return store
    if scheme in _PACKAGES:
        raise UnknownSchemeError(scheme, f"pip install {_PACKAGES[scheme]}")
    served = sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))
    raise UnknownSchemeError(scheme, f"the installed ones serve {', '.join(served)}")
