"""How a cache outside of the process keeps an entry: one run of bytes that says what it is."""

from typing import Generic, TypeVar

from estoria.core._aggregate_cache import CachedAggregate
from estoria.core._codecs import StateCodec

S = TypeVar("S")

VERSION_DIGITS = 20
"""An entry begins with its version in so many decimal digits, so that two entries' versions
compare as their first bytes do, also in a server that counts in floats."""

_LARGEST = 10**VERSION_DIGITS


class CacheEntries(Generic[S]):
    """Entries as bytes: the version's digits, the codec's content type, a NUL, the state.

    The content type names the state's schema, so what another release of the application
    wrote, in whatever shape, is told apart before anything is decoded.
    """

    __slots__ = ("_codec", "_mark", "_start")

    def __init__(self, codec: StateCodec[S]) -> None:
        self._codec = codec
        self._mark = codec.content_type.encode() + b"\0"
        self._start = VERSION_DIGITS + len(self._mark)

    def encode(self, entry: CachedAggregate) -> bytes:
        """The entry as bytes.

        Raises `EventEncodingError` for a state that the codec can't carry, and `ValueError`
        for a version that isn't a number from 0 on, of at most `VERSION_DIGITS` digits.
        """
        version = entry.version
        if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < _LARGEST:
            raise ValueError(f"version is {version!r}, not a number from 0 on")
        return b"%020d%b%b" % (version, self._mark, self._codec.encode(entry.state))

    def decode(self, data: bytes) -> CachedAggregate | None:
        """The entry; None for anything that this codec didn't write or can't read."""
        if not data.startswith(self._mark, VERSION_DIGITS):
            return None
        try:
            state = self._codec.decode(data[self._start :])
            return CachedAggregate(int(data[:VERSION_DIGITS]), state)
        # A codec may be anybody's, and so may be what lies in a cache: a miss, whatever is wrong.
        except Exception:  # noqa: BLE001
            return None
