"""Tables, columns and statements: all the SQL of this package.

Versions of the schema are counted for each component (events, snapshots, checkpoints) by
itself, so that a file may hold any of them. The first release has version 1 of each.
"""

import sqlite3
from typing import NamedTuple

from estoria.core import SchemaMissingError, SchemaVersionError

VERSIONS_TABLE = """
CREATE TABLE IF NOT EXISTS estoria_schema (
    component TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID"""

READ_VERSION = "SELECT version FROM estoria_schema WHERE component = ?"
FIND_VERSIONS = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'estoria_schema'"
WRITE_VERSION = "INSERT INTO estoria_schema (component, version) VALUES (?, ?)"


class Component(NamedTuple):
    """One part of the schema: its name, and the statements that lead to each version."""

    name: str
    versions: tuple[tuple[str, ...], ...]


EVENTS = Component(
    "events",
    (
        (
            # A stream's row outlives its deletion: it knows which versions were used.
            """
CREATE TABLE estoria_streams (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    uuid BLOB NOT NULL,
    reserved INTEGER NOT NULL AS (type >= 'estoria.' AND type < 'estoria/') STORED,
    alive INTEGER NOT NULL,
    version INTEGER NOT NULL,
    first_version INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    UNIQUE (type, uuid)
) STRICT""",
            # AUTOINCREMENT: a plain rowid is used again once the newest events are deleted.
            """
CREATE TABLE estoria_events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    stream INTEGER NOT NULL,
    version INTEGER NOT NULL,
    id BLOB NOT NULL,
    type TEXT NOT NULL,
    timestamp INTEGER NOT NULL, -- microseconds since 1970, UTC
    data BLOB NOT NULL,
    content_type TEXT NOT NULL,
    metadata TEXT NOT NULL, -- a JSON object
    UNIQUE (stream, version),
    UNIQUE (stream, id)
) STRICT""",
        ),
    ),
)

SNAPSHOTS = Component(
    "snapshots",
    (
        (
            """
CREATE TABLE estoria_snapshots (
    type TEXT NOT NULL,
    uuid BLOB NOT NULL,
    version INTEGER NOT NULL,
    timestamp INTEGER NOT NULL, -- microseconds since 1970, UTC
    content_type TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (type, uuid, version)
) STRICT""",
        ),
    ),
)

CHECKPOINTS = Component(
    "checkpoints",
    (
        (
            """
CREATE TABLE estoria_checkpoints (
    projection TEXT NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    updated_at INTEGER NOT NULL, -- microseconds since 1970, UTC
    PRIMARY KEY (projection, version)
) STRICT, WITHOUT ROWID""",
        ),
    ),
)

STREAM = """
SELECT key, alive, version, first_version, origin FROM estoria_streams
WHERE type = :type AND uuid = :uuid"""

# An append first moves its stream's tip; no row comes back when the expectation doesn't hold.
_MOVED = "RETURNING key, version, first_version, origin"
_NEW = """
INSERT INTO estoria_streams (type, uuid, alive, version, first_version, origin)
VALUES (:type, :uuid, 1, :count, 1, 0)
ON CONFLICT (type, uuid) DO UPDATE SET"""
MOVE_ANY = f"""{_NEW}
    version = version + :count,
    first_version = CASE WHEN alive THEN first_version ELSE version + 1 END,
    origin = CASE WHEN alive THEN origin ELSE version END,
    alive = 1
{_MOVED}"""
MOVE_NEW = f"""{_NEW}
    version = version + :count, first_version = version + 1, origin = version, alive = 1
    WHERE NOT alive
{_MOVED}"""
MOVE_EXISTING = f"""
UPDATE estoria_streams SET version = version + ?
WHERE type = ? AND uuid = ? AND alive
{_MOVED}"""
MOVE_EXACT = f"""
UPDATE estoria_streams SET version = version + ?
WHERE type = ? AND uuid = ? AND alive AND version = ?
{_MOVED}"""

INSERT_EVENT = """
INSERT INTO estoria_events
    (stream, version, id, type, timestamp, data, content_type, metadata)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
LAST_POSITION = "SELECT last_insert_rowid()"

_EVENT = "version, position, id, type, timestamp, data, content_type, metadata, stream"
EVENT_BY_ID = f"SELECT {_EVENT} FROM estoria_events WHERE stream = ? AND id = ?"
EVENTS_FORWARDS = f"""
SELECT {_EVENT} FROM estoria_events
WHERE stream = ? AND version BETWEEN ? AND ? ORDER BY version LIMIT ?"""
EVENTS_BACKWARDS = f"""
SELECT {_EVENT} FROM estoria_events
WHERE stream = ? AND version BETWEEN ? AND ? ORDER BY version DESC LIMIT ?"""

HEAD = "SELECT seq FROM sqlite_sequence WHERE name = 'estoria_events'"

# CROSS JOIN, in SQLite, keeps the order of the tables: by position, without a sort.
_ALL = """
SELECT e.version, e.position, e.id, e.type, e.timestamp, e.data, e.content_type, e.metadata,
    e.stream
FROM estoria_events AS e CROSS JOIN estoria_streams AS s ON s.key = e.stream
WHERE e.position > :after AND e.position <= :frontier AND"""
_OF_STREAM_TYPES = "s.type IN (SELECT value FROM json_each(:stream_types))"
_OF_EVENT_TYPES = "AND e.type IN (SELECT value FROM json_each(:event_types))"
_IN_ORDER = "ORDER BY e.position LIMIT :limit"
ALL = {
    (False, False): f"{_ALL} NOT s.reserved {_IN_ORDER}",
    (False, True): f"{_ALL} NOT s.reserved {_OF_EVENT_TYPES} {_IN_ORDER}",
    (True, False): f"{_ALL} {_OF_STREAM_TYPES} {_IN_ORDER}",
    (True, True): f"{_ALL} {_OF_STREAM_TYPES} {_OF_EVENT_TYPES} {_IN_ORDER}",
}
"""By whether streams, and whether events, are filtered by type."""

STREAM_ID = "SELECT type, uuid FROM estoria_streams WHERE key = ?"

LIST = """
SELECT type, uuid, version, first_version, origin FROM estoria_streams
WHERE alive AND NOT reserved AND (type, uuid) > (:type, :uuid)
ORDER BY type, uuid LIMIT :limit"""
LIST_OF_TYPE = """
SELECT type, uuid, version, first_version, origin FROM estoria_streams
WHERE alive AND type = :stream_type AND (type, uuid) > (:type, :uuid)
ORDER BY type, uuid LIMIT :limit"""

RETIRE_STREAM = "UPDATE estoria_streams SET alive = 0, version = version + 1 WHERE key = ?"
DELETE_EVENTS = "DELETE FROM estoria_events WHERE stream = ? AND version <= ?"
MOVE_FIRST_VERSION = """
UPDATE estoria_streams SET first_version = :first_version
WHERE key = :key AND first_version < :first_version"""

READ_SNAPSHOT = """
SELECT version, timestamp, data, content_type FROM estoria_snapshots
WHERE type = ? AND uuid = ? AND version <= ? ORDER BY version DESC LIMIT 1"""
WRITE_SNAPSHOT = """
INSERT INTO estoria_snapshots (type, uuid, version, timestamp, data, content_type)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (type, uuid, version) DO UPDATE SET
    timestamp = excluded.timestamp, data = excluded.data, content_type = excluded.content_type"""
PRUNE_SNAPSHOTS = """
DELETE FROM estoria_snapshots
WHERE type = :type AND uuid = :uuid AND version < (
    SELECT version FROM estoria_snapshots WHERE type = :type AND uuid = :uuid
    ORDER BY version DESC LIMIT 1 OFFSET :keep - 1)"""
DELETE_SNAPSHOTS = "DELETE FROM estoria_snapshots WHERE type = ? AND uuid = ?"

LOAD_CHECKPOINT = """
SELECT position, updated_at FROM estoria_checkpoints WHERE projection = ? AND version = ?"""
SAVE_CHECKPOINT = """
INSERT INTO estoria_checkpoints (projection, version, position, updated_at)
VALUES (?, ?, ?, ?)
ON CONFLICT (projection, version) DO UPDATE SET
    position = excluded.position, updated_at = excluded.updated_at"""
DELETE_CHECKPOINT = "DELETE FROM estoria_checkpoints WHERE projection = ? AND version = ?"


def set_up(connection: sqlite3.Connection, component: Component, where: str) -> None:
    """Create or migrate the component, in the transaction that is open.

    Raises `SchemaVersionError` for a schema that a newer release has made.
    """
    connection.execute(VERSIONS_TABLE)
    row = connection.execute(READ_VERSION, (component.name,)).fetchone()
    found, known = row[0] if row else 0, len(component.versions)
    if found > known:
        raise SchemaVersionError(component.name, where, found, known)
    for statements in component.versions[found:]:
        for statement in statements:
            connection.execute(statement)
    if found < known:
        connection.execute("DELETE FROM estoria_schema WHERE component = ?", (component.name,))
        connection.execute(WRITE_VERSION, (component.name, known))


def check(connection: sqlite3.Connection, component: Component, where: str) -> None:
    """Raise `SchemaMissingError` or `SchemaVersionError` unless the component is as known."""
    row = None
    if connection.execute(FIND_VERSIONS).fetchone():
        row = connection.execute(READ_VERSION, (component.name,)).fetchone()
    if row is None:
        raise SchemaMissingError(component.name, where)
    if row[0] != len(component.versions):
        raise SchemaVersionError(component.name, where, row[0], len(component.versions))
