"""The names of streams: which are ours, and how the server picks them out."""

import re
from collections.abc import Sequence
from functools import lru_cache

from estoria.core import TypeID
from estoria.core.backends import RESERVED_PREFIX

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ANY_TYPE = r"(?!\$|_|estoria\.)[\s\S]+"


class Names:
    """From stream ids to the server's names and back: ``prefix.user_<uuid>``."""

    def __init__(self, prefix: str) -> None:
        """Raises `ValueError` for a prefix that holds a dot: two could overlap."""
        if prefix and _PREFIX.fullmatch(prefix) is None:
            raise ValueError(
                f"prefix {prefix!r} is not 1 to 64 letters, digits, dashes and underscores"
            )
        self._start = f"{prefix}." if prefix else ""
        self.has_prefix = bool(prefix)
        self.parse = lru_cache(maxsize=16_384)(self._parse)

    def of(self, stream_id: TypeID) -> str:
        """The stream's name in the server."""
        return f"{self._start}{stream_id}"

    def _parse(self, name: str) -> TypeID | None:
        """The stream's id, or None for a stream that isn't ours."""
        if not name.startswith(self._start):
            return None
        try:
            return TypeID.parse(name[len(self._start) :])
        except ValueError:
            return None

    def pattern(self, types: Sequence[str] | None) -> str:
        """A regular expression, for the server, of our streams of these types.

        Without `types` of all but the library's own.
        """
        chosen = _ANY_TYPE if types is None else one_of(types)
        return f"{re.escape(self._start)}{chosen}_{_UUID}"


def one_of(names: Sequence[str]) -> str:
    """A regular expression, for the server, of these names."""
    return f"(?:{'|'.join(map(re.escape, names))})"


def is_wanted(stream_type: str, types: Sequence[str] | None) -> bool:
    """Whether a global read with this filter gives streams of this type."""
    if types is None:
        return not stream_type.startswith(RESERVED_PREFIX)
    return stream_type in types
