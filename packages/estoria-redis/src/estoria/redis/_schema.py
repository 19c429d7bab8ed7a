"""Keys, values and scripts: all that the server is told.

Both kinds of value begin with a version in `VERSION_DIGITS` digits, which compare as bytes: the
server's numbers are floats, and lose count beyond 2**53. A script is one atomic step, and what it
writes first is what a full server refuses, so that nothing is half-done.
"""

from datetime import UTC, datetime, timedelta
from hashlib import sha1
from typing import NamedTuple

from estoria.core import Snapshot, TypeID
from estoria.core.backends import VERSION_DIGITS, check_stream_id

DEFAULT_PREFIX = "estoria"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LARGEST = 10**VERSION_DIGITS - 1
_ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


class Script(NamedTuple):
    """A script on one key, and the name that a server which has it knows it by."""

    text: bytes
    sha: str


def _script(text: str) -> Script:
    # The server names scripts so; nothing is kept secret by it.
    return Script(text.encode(), sha1(text.encode(), usedforsecurity=False).hexdigest())


PUT = _script(f"""\
local kept = redis.call('GETRANGE', KEYS[1], 0, {VERSION_DIGITS - 1})
local is_version = #kept == {VERSION_DIGITS} and not string.find(kept, '%D')
if is_version and kept > string.sub(ARGV[1], 1, {VERSION_DIGITS}) then
  return 0
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
""")
"""Keeps an entry, for so many milliseconds or for ever, unless a newer one is kept."""

WRITE_SNAPSHOT = _script(f"""\
local version = string.sub(ARGV[1], 1, {VERSION_DIGITS})
redis.call('ZADD', KEYS[1], 0, ARGV[1])
local least, beyond = '[' .. version .. ':', '(' .. version .. ';'
for _, other in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], least, beyond)) do
  if other ~= ARGV[1] then
    redis.call('ZREM', KEYS[1], other)
  end
end
if ARGV[2] ~= '0' then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[2]))
end
""")
"""Keeps a snapshot instead of the one of its version, and then as many of the newest, or all."""


def check_prefix(prefix: str) -> str:
    """A prefix of keys; raises `ValueError` for anything but a text that isn't empty."""
    if not isinstance(prefix, str) or not prefix:
        raise ValueError(f"prefix is {prefix!r}, not a text")
    return prefix


def state_key(prefix: str, aggregate_id: TypeID) -> str:
    """Where the cached state is."""
    return f"{_base(prefix, aggregate_id)}:state"


def snapshots_key(prefix: str, aggregate_id: TypeID) -> str:
    """Where the snapshots are: members of a sorted set, in the order of their bytes."""
    return f"{_base(prefix, aggregate_id)}:snapshots"


def _base(prefix: str, aggregate_id: TypeID) -> str:
    """The id in braces, which in a cluster puts all keys of one aggregate into one slot."""
    check_stream_id(aggregate_id)
    return f"{prefix}:{{{str(aggregate_id).translate(_ESCAPES)}}}"


def snapshot_member(snapshot: Snapshot) -> bytes:
    """The snapshot as bytes: version, microseconds since 1970, content type and data."""
    moment = (snapshot.timestamp - _EPOCH) // _MICROSECOND
    content_type = snapshot.data_content_type.encode()
    if snapshot.aggregate_version > _LARGEST:
        raise ValueError(f"aggregate_version has more than {VERSION_DIGITS} digits")
    head = b"%020d:%d\0%b\0" % (snapshot.aggregate_version, moment, content_type)
    return head + snapshot.data


def read_member(aggregate_id: TypeID, member: bytes) -> Snapshot:
    """The snapshot; raises `ValueError` for bytes that are none."""
    head, content_type, data = member.split(b"\0", 2)
    version, _, moment = head.partition(b":")
    timestamp = _EPOCH + int(moment) * _MICROSECOND
    return Snapshot(aggregate_id, int(version), timestamp, data, content_type.decode())


def upper_bound(max_version: int | None) -> bytes:
    """Where to begin, going down, for the newest snapshot that isn't above this version."""
    if max_version is None or max_version >= _LARGEST:
        return b"+"
    return b"(%020d;" % max_version
