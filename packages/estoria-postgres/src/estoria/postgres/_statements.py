"""The statements on the tables of `_schema`, and why they keep the promises.

Why positions are a stable prefix
---------------------------------

Positions come from a sequence, so that writers don't queue, and so they become visible out of
order. Before an append takes positions it takes a *shared* advisory lock, of its transaction,
on the key ``(this store, K)``, where K is the position that was taken last. Everything that it
takes is above K, and it holds K until it has ended, however it ends. `_HOLD` does that, once
the stream's row is locked: every column that follows depends on a row of that step.

A reader first reads N, the position that was taken last, and then the smallest key L that is
held (`FRONTIER`, one statement whose second part depends on the first); then, in a statement
with a later snapshot, what lies at or below ``min(N, L)``. Take a position P of those, and the
transaction T that took it. T took it before the reader read N, and T took its lock before that.
So when the locks were looked at, T either held a key below P, and then ``P > L``: a
contradiction; or T had ended. PostgreSQL makes a commit visible before it releases the locks,
so a later snapshot sees what T committed.

Shared locks never wait for each other, and readers take none at all.

- A sequence that never gave a position says ``is_called = false``: nothing was taken yet.
- The sequence must have ``CACHE 1``: with a cache, a session would take positions long before
  it locks. `setup` checks it.
- A key has 32 bits: it is told from N by their distance, which may be up to 2**31 positions.
- The first half of the key is the number of the sequence itself (its oid), so that two stores
  in one database have nothing to do with each other.
- A transaction that appends twice needs the lock once: its first key is the smallest.
- A transaction that is prepared for a two-phase commit keeps its locks, over a restart too.
- Positions that were taken and never committed aren't safe from a crash: the server may give
  them out again. So the frontier that is passed on to later pages, or to a caller, is the last
  position at or below ``min(N, L)`` that holds an event, or held one (`LAST`): it is on disk.
"""

from functools import lru_cache
from typing import NamedTuple

from estoria.postgres._schema import composed, names

# An append first moves its stream's tip; no row comes back when the expectation doesn't hold.
_THIS_STREAM = "type = %(type)s AND uuid = %(uuid)s"
_NEW = """
    INSERT INTO {streams} AS s (type, uuid, alive, version, first_version, origin, largest)
    SELECT %(type)s, %(uuid)s, true, %(count)s, 1, 0, %(largest)s WHERE /*guard*/
    ON CONFLICT (type, uuid) DO UPDATE SET largest = greatest(s.largest, %(largest)s),"""
_MOVES = {
    "any": f"""{_NEW}
        version = s.version + %(count)s,
        first_version = CASE WHEN s.alive THEN s.first_version ELSE s.version + 1 END,
        origin = CASE WHEN s.alive THEN s.origin ELSE s.version END,
        alive = true""",
    "new": f"""{_NEW}
        version = s.version + %(count)s, first_version = s.version + 1, origin = s.version,
        alive = true
        WHERE NOT s.alive""",
    "existing": f"""
    UPDATE {{streams}} AS s
    SET version = version + %(count)s, largest = greatest(largest, %(largest)s)
    WHERE {_THIS_STREAM} AND alive AND /*guard*/""",
    "exact": f"""
    UPDATE {{streams}} AS s
    SET version = version + %(count)s, largest = greatest(largest, %(largest)s)
    WHERE {_THIS_STREAM} AND alive AND version = %(expected)s AND /*guard*/""",
}

_TAKEN = "SELECT last_value - (NOT is_called)::int FROM {positions}"
# The lower 32 bits of K, as the signed number that the function takes.
_LOCK = f"""pg_advisory_xact_lock_shared(
        {{positions_oid}}::oid::int, (({_TAKEN} WHERE moved.key IS NOT NULL) << 32 >> 32)::int)"""
_STORE_LOCKS = """pg_locks AS l
    WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted AND l.objsubid = 2
        AND l.classid = {positions_oid}::oid
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
# In the caller's transaction: many appends hold one lock, since the lock table is small.
_LOCK_ONCE = f"""CASE WHEN NOT EXISTS (
        SELECT FROM {_STORE_LOCKS} AND l.pid = pg_backend_pid() AND moved.key IS NOT NULL
    ) THEN {_LOCK} END"""
# Without it a crash of the server could lose events that were acknowledged or read.
_DURABLE = """CASE current_setting('synchronous_commit')
        WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END"""
_HOLD = f"SELECT moved.*, /*lock*/ AS lock, {_DURABLE} AS durable FROM moved"
# In the caller's transaction a broken rule would end it, so the ids are looked for before.
_NONE_STANDS = f"""NOT EXISTS (
        SELECT FROM {{events}} AS e WHERE e.id = ANY(%(all_ids)b)
        AND e.stream = (SELECT key FROM {{streams}} WHERE {_THIS_STREAM}))"""

_COLUMNS = "position, stream, version, timestamp, id, reserved, type, content_type, metadata, data"
_POSITION = "nextval({positions_oid})"
_ONE = f"""
    INSERT INTO {{events}} ({_COLUMNS})
    SELECT {_POSITION}, held.key, held.version, %(timestamp)s, %(id)s,
        held.reserved, %(event_type)s,
        %(content_type)s, %(metadata)s, %(data)b FROM held
    RETURNING position"""
# No sort: a join with a single row is a nested loop, which keeps the order of the arrays.
_ARRAYS = """unnest(
        %(ids)b, %(types)b, %(content_types)b, %(metadatas)b, %(datas)b
    ) WITH ORDINALITY AS e (id, type, content_type, metadata, data, number)"""
_MANY = f"""
    INSERT INTO {{events}} ({_COLUMNS})
    SELECT {_POSITION}, held.key, held.version - %(count)s + e.number, %(timestamp)s,
        e.id, held.reserved, e.type, e.content_type, e.metadata, e.data
    FROM held CROSS JOIN {_ARRAYS}
    RETURNING position"""
_APPEND = f"""
WITH moved AS (/*move*/
    RETURNING key, version, first_version, origin, reserved
), held AS MATERIALIZED (
    {_HOLD}
), written AS (/*insert*/
)
SELECT key, reserved, version, first_version, origin, """
_APPEND_ONE = f"{_APPEND} position FROM held CROSS JOIN written"
_APPEND_MANY = f"{_APPEND} (SELECT array_agg(position) FROM written) FROM held"
APPEND_MORE = f"""
WITH written AS (
    INSERT INTO {{events}} ({_COLUMNS})
    SELECT {_POSITION}, %(key)s, %(before)s + e.number, %(timestamp)s,
        e.id, %(reserved)s, e.type, e.content_type, e.metadata, e.data FROM {_ARRAYS}
    RETURNING position
)
SELECT array_agg(position) FROM written"""

_EVENT = "version, position, id, type, timestamp, data, content_type, metadata"
_EVENT_OF_E = ", ".join(f"e.{column}" for column in _EVENT.split(", "))
_STREAM_PAGE = f"""
SELECT {_EVENT_OF_E}, s.version, s.first_version, s.origin, s.largest
FROM {{streams}} AS s LEFT JOIN LATERAL (
    /*page*/
) AS e ON /*fits*/
WHERE s.type = %(type)s AND s.uuid = %(uuid)s AND s.alive"""
_PAGE = """
    SELECT * FROM {events}
    WHERE stream = s.key AND version BETWEEN %(first)s AND %(last)s
    ORDER BY version /*way*/
    LIMIT least(%(limit)s, greatest(%(page_bytes)s / greatest(s.largest, 1), 1))"""
# Counts the bytes, which the server knows without fetching them: for pages after a first one
# that a single large payload may have made much too short.
_COUNTED_PAGE = """
    SELECT *, sum(octet_length(data)) OVER (ORDER BY version /*way*/ ROWS UNBOUNDED PRECEDING)
        - octet_length(data) AS before FROM {events}
    WHERE stream = s.key AND version BETWEEN %(first)s AND %(last)s
    ORDER BY version /*way*/ LIMIT %(limit)s"""


def _stream_page(*, way: str, counted: bool) -> str:
    page = _COUNTED_PAGE if counted else _PAGE
    fits = "e.before <= %(page_bytes)s" if counted else "true"
    statement = _STREAM_PAGE.replace("/*page*/", page).replace("/*fits*/", fits)
    return statement.replace("/*way*/", way)


STREAM_PAGES = {
    (reverse, counted): _stream_page(way="DESC" if reverse else "ASC", counted=counted)
    for reverse in (False, True)
    for counted in (False, True)
}
"""By whether they go backwards, and whether they count the bytes of the payloads."""

STREAM = f"SELECT version, first_version, origin FROM {{streams}} WHERE {_THIS_STREAM} AND alive"
STANDING = f"""
SELECT {_EVENT_OF_E}, s.version, s.first_version, s.origin, s.largest
FROM {{streams}} AS s LEFT JOIN {{events}} AS e ON e.stream = s.key AND e.id = ANY(%(all_ids)b)
WHERE s.type = %(type)s AND s.uuid = %(uuid)s AND s.alive"""

# The locks are looked at after the sequence was read: for the row that reading it has given.
FRONTIER = f"""
WITH taken AS MATERIALIZED (SELECT ({_TAKEN}) AS position)
SELECT pg_is_in_recovery(), taken.position - coalesce((
    SELECT max(distance) FROM (
        SELECT (taken.position - l.objid::bigint) & 4294967295 AS distance FROM {_STORE_LOCKS}
    ) AS held WHERE distance < 2147483648
), 0) FROM taken"""
LAST = """
SELECT greatest((SELECT max(position) FROM {events} WHERE position <= %(frontier)s),
    (SELECT max(forgotten) FROM {streams} WHERE forgotten <= %(frontier)s), 0)"""

# Told nothing of how many rows pass, the planner goes along the positions, and no other way is
# right for pages: the frontier is applied after the page, a filter is a question for each row.
_ALL = f"""
SELECT {_EVENT}, stream FROM (
    SELECT *, sum(octet_length(data)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING)
        - octet_length(data) AS before
    FROM (
        SELECT * FROM {{events}} AS e WHERE position > %(after)s AND /*filter*/
        ORDER BY position LIMIT %(limit)s
    ) AS page
) AS page WHERE position <= %(frontier)s AND before <= %(page_bytes)s ORDER BY position"""
_OF_STREAM_TYPES = """(
            SELECT s.type = ANY(%(stream_types)b) FROM {streams} AS s WHERE s.key = e.stream)"""
_OF_EVENT_TYPES = "CASE WHEN type = ANY(%(event_types)b) THEN true ELSE false END"
ALL = {
    (False, False): _ALL.replace("/*filter*/", "NOT reserved"),
    (False, True): _ALL.replace("/*filter*/", f"NOT reserved AND {_OF_EVENT_TYPES}"),
    (True, False): _ALL.replace("/*filter*/", _OF_STREAM_TYPES),
    (True, True): _ALL.replace("/*filter*/", f"{_OF_STREAM_TYPES} AND {_OF_EVENT_TYPES}"),
}
"""By whether streams, and whether events, are filtered by type."""

STREAM_IDS = "SELECT key, type, uuid FROM {streams} WHERE key = ANY(%(keys)b)"

LIST = """
SELECT type, uuid, version, first_version, origin FROM {streams}
WHERE alive AND NOT reserved AND (type, uuid) > (%(type)s, %(uuid)s)
ORDER BY type, uuid LIMIT %(limit)s"""
LIST_OF_TYPE = """
SELECT type, uuid, version, first_version, origin FROM {streams}
WHERE alive AND type = %(stream_type)s AND (type, uuid) > (%(type)s, %(uuid)s)
ORDER BY type, uuid LIMIT %(limit)s"""

_FREED = """forgotten = greatest(forgotten, (
        SELECT e.position FROM {events} AS e WHERE e.stream = key AND e.version <= %(to_version)s
        ORDER BY e.version DESC LIMIT 1))"""
# The stream as it was seen before: what was appended since then is invisible to the DELETE.
DELETE_STREAM = f"""
WITH gone AS (
    UPDATE {{streams}} SET alive = false, version = version + 1, {_FREED}
    WHERE {_THIS_STREAM} AND alive AND version = %(to_version)s
    RETURNING key, {_DURABLE} AS durable
), emptied AS (
    DELETE FROM {{events}} WHERE stream = (SELECT key FROM gone)
)
SELECT key FROM gone"""
TRUNCATE_STREAM = f"""
WITH kept AS (
    UPDATE {{streams}} SET {_FREED},
        first_version = greatest(first_version, %(to_version)s + 1)
    WHERE {_THIS_STREAM} AND alive AND origin = %(origin)s
    RETURNING key, {_DURABLE} AS durable
), emptied AS (
    DELETE FROM {{events}} WHERE stream = (SELECT key FROM kept) AND version <= %(to_version)s
)
SELECT key FROM kept"""

READ_SNAPSHOT = f"""
SELECT version, timestamp, data, content_type FROM {{snapshots}}
WHERE {_THIS_STREAM} AND version <= %(max_version)s ORDER BY version DESC LIMIT 1"""
_REPLACE_SNAPSHOT = """ON CONFLICT (type, uuid, version) DO UPDATE SET
    timestamp = excluded.timestamp, data = excluded.data, content_type = excluded.content_type"""
WRITE_SNAPSHOT = f"""
INSERT INTO {{snapshots}} (type, uuid, version, timestamp, content_type, data)
VALUES (%(type)s, %(uuid)s, %(version)s, %(timestamp)s, %(content_type)s, %(data)b)
{_REPLACE_SNAPSHOT}"""
# The new one is invisible to the DELETE of the same statement, which therefore counts it in.
WRITE_AND_PRUNE_SNAPSHOTS = f"""
WITH oldest AS MATERIALIZED (
    SELECT version FROM (
        SELECT version FROM {{snapshots}} WHERE {_THIS_STREAM} UNION SELECT %(version)s
    ) AS stored ORDER BY version DESC LIMIT 1 OFFSET %(keep)s - 1
), pruned AS (
    DELETE FROM {{snapshots}} WHERE {_THIS_STREAM} AND version < (SELECT version FROM oldest)
)
INSERT INTO {{snapshots}} (type, uuid, version, timestamp, content_type, data)
SELECT %(type)s, %(uuid)s, %(version)s, %(timestamp)s, %(content_type)s, %(data)b
WHERE %(version)s >= coalesce((SELECT version FROM oldest), 0)
{_REPLACE_SNAPSHOT}"""
DELETE_SNAPSHOTS = f"DELETE FROM {{snapshots}} WHERE {_THIS_STREAM}"

LOAD_CHECKPOINT = """
SELECT position, updated_at FROM {checkpoints}
WHERE projection = %(projection)s AND version = %(version)s"""
SAVE_CHECKPOINT = """
INSERT INTO {checkpoints} (projection, version, position, updated_at)
VALUES (%(projection)s, %(version)s, %(position)s, %(updated_at)s)
ON CONFLICT (projection, version) DO UPDATE SET
    position = excluded.position, updated_at = excluded.updated_at"""
DELETE_CHECKPOINT = """
DELETE FROM {checkpoints} WHERE projection = %(projection)s AND version = %(version)s"""


class AppendStatements(NamedTuple):
    """The statements for one kind of expectation: for one event, and for any number."""

    one: bytes
    many: bytes


class Statements:
    """All statements for one schema of a database, ready to be sent."""

    def __init__(self, schema: str, generation: int = 0) -> None:
        """A `generation` above 0 makes texts of the same meaning that are prepared anew."""
        self._names = names(schema, with_parameters=True)
        self._mark = f" -- {generation}".encode() if generation else b""
        self.append = {kind: self._append(move, "true", _LOCK) for kind, move in _MOVES.items()}
        """By the kind of expectation: any, new, existing or exact."""
        self.append_inside = {
            kind: self._append(move, _NONE_STANDS, _LOCK_ONCE) for kind, move in _MOVES.items()
        }
        """The same for the caller's own transaction."""
        self.append_more = self._composed(APPEND_MORE)
        self.standing = self._composed(STANDING)
        self.stream = self._composed(STREAM)
        self.pages = {kind: self._composed(page) for kind, page in STREAM_PAGES.items()}
        self.frontier = self._composed(FRONTIER)
        self.last = self._composed(LAST)
        self.all = {filters: self._composed(statement) for filters, statement in ALL.items()}
        self.stream_ids = self._composed(STREAM_IDS)
        self.list = self._composed(LIST)
        self.list_of_type = self._composed(LIST_OF_TYPE)
        self.delete_stream = self._composed(DELETE_STREAM)
        self.truncate_stream = self._composed(TRUNCATE_STREAM)
        self.read_snapshot = self._composed(READ_SNAPSHOT)
        self.write_snapshot = self._composed(WRITE_SNAPSHOT)
        self.write_and_prune_snapshots = self._composed(WRITE_AND_PRUNE_SNAPSHOTS)
        self.delete_snapshots = self._composed(DELETE_SNAPSHOTS)
        self.load_checkpoint = self._composed(LOAD_CHECKPOINT)
        self.save_checkpoint = self._composed(SAVE_CHECKPOINT)
        self.delete_checkpoint = self._composed(DELETE_CHECKPOINT)

    def _composed(self, statement: str) -> bytes:
        return composed(statement, self._names) + self._mark

    def _append(self, move: str, guard: str, lock: str) -> AppendStatements:
        def with_parts(template: str, insert: str) -> bytes:
            parts = {"move": move, "insert": insert, "lock": lock, "guard": guard}
            for name, part in parts.items():
                template = template.replace(f"/*{name}*/", part)
            return self._composed(template)

        return AppendStatements(with_parts(_APPEND_ONE, _ONE), with_parts(_APPEND_MANY, _MANY))


statements = lru_cache(Statements)
"""The statements for the schema of this name, of a generation."""


class Plans:
    """The statements on events, prepared anew whenever the tables have grown eightfold.

    A statement that is prepared while its tables fill a page or two is planned without their
    indexes, and keeps that plan until the server analyzes the tables, be they large by then.
    """

    def __init__(self, schema: str) -> None:
        self.current = statements(schema)
        self._schema = schema
        self._first: int | None = None
        self._next = 0

    def seen(self, position: int) -> None:
        """Tell of a position that was read or written: at most so many rows are in the tables."""
        if self._first is None:
            self._first, self._next = position, position + 8
        elif position >= self._next:
            generation = ((position - self._first).bit_length() + 2) // 3
            self.current = statements(self._schema, generation)
            self._next = self._first + 8**generation
