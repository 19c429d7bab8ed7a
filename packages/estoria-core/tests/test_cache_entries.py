"""Entries of caches, as bytes."""

import msgspec
import pytest

from estoria.core import CachedAggregate, EventEncodingError, JSONStateCodec
from estoria.core.backends import VERSION_DIGITS, CacheEntries


class Cart(msgspec.Struct, frozen=True):
    items: tuple[str, ...] = ()


class Renamed(msgspec.Struct, frozen=True):
    things: tuple[str, ...] = ()


ENTRIES = CacheEntries(JSONStateCodec(Cart))


@pytest.mark.parametrize("version", [0, 1, 2**53 + 1, 2**63 - 1])
def test_an_entry_comes_back(version):
    entry = CachedAggregate(version, Cart(("a", "\0", "é🧾")))

    assert ENTRIES.decode(ENTRIES.encode(entry)) == entry


def test_versions_compare_as_bytes():
    versions = [0, 9, 10, 99, 2**53, 2**53 + 1, 2**63 - 1]
    heads = [ENTRIES.encode(CachedAggregate(v, Cart()))[:VERSION_DIGITS] for v in versions]

    assert heads == sorted(heads)
    assert len(set(heads)) == len(versions)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"17",
        CacheEntries(JSONStateCodec(Renamed)).encode(CachedAggregate(3, Renamed())),
        CacheEntries(JSONStateCodec(Cart, schema="2")).encode(CachedAggregate(3, Cart())),
        ENTRIES.encode(CachedAggregate(3, Cart()))[:-1],
        b"x" + ENTRIES.encode(CachedAggregate(3, Cart()))[1:],
    ],
)
def test_what_another_wrote_is_a_miss(data):
    assert ENTRIES.decode(data) is None


def test_what_can_t_be_kept_is_refused():
    for version in (-1, True, "1", 10**20):
        with pytest.raises(ValueError, match="version"):
            ENTRIES.encode(CachedAggregate(version, Cart()))
    with pytest.raises(EventEncodingError):
        ENTRIES.encode(CachedAggregate(1, object()))
