"""Tables, columns and what makes them; `_statements` holds what works on them.

Everything lives in one schema of the database, ``estoria`` unless another is named. Versions
are counted for each component (events, snapshots, checkpoints) by itself, so that a schema
may hold any of them. The first release has version 1 of each.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from psycopg import sql

DEFAULT_SCHEMA = "estoria"

_MAX_NAME_BYTES = 63


class Component(NamedTuple):
    """One part of the schema: its name, and the statements that lead to each version."""

    name: str
    versions: tuple[tuple[str, ...], ...]


FIND_SCHEMA = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %(schema)s)"
FIND_VERSIONS = "SELECT to_regclass(%(versions)s) IS NOT NULL"
LOCK_SETUP = "SELECT pg_advisory_xact_lock(hashtextextended('estoria setup of ' || %(schema)s, 0))"
CREATE_SCHEMA = "CREATE SCHEMA {schema}"
VERSIONS_TABLE = """
CREATE TABLE IF NOT EXISTS {versions} (
    component text PRIMARY KEY,
    version integer NOT NULL
)"""
READ_VERSION = "SELECT version FROM {versions} WHERE component = %(component)s"
WRITE_VERSION = """
INSERT INTO {versions} (component, version) VALUES ({component}, {version})
ON CONFLICT (component) DO UPDATE SET version = excluded.version"""
READ_SETTINGS = """
SELECT current_setting('server_encoding'),
    (SELECT seqcache = 1 AND seqincrement = 1 AND NOT seqcycle FROM pg_sequence
     WHERE seqrelid = to_regclass(%(positions)s))"""

EVENTS = Component(
    "events",
    (
        (
            # A stream's row outlives its deletion: it knows which versions were used.
            """
CREATE TABLE {streams} (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version bigint NOT NULL,
    first_version bigint NOT NULL,
    origin bigint NOT NULL,
    forgotten bigint, -- the last position that a deletion or a truncation has freed
    largest integer NOT NULL, -- payload so far, in bytes
    alive boolean NOT NULL,
    reserved boolean NOT NULL GENERATED ALWAYS AS (type >= 'estoria.' AND type < 'estoria/') STORED,
    uuid uuid NOT NULL,
    type text COLLATE "C" NOT NULL,
    UNIQUE (type, uuid)
) WITH (fillfactor = 70)""",
            "CREATE INDEX ON {streams} (forgotten) WHERE forgotten IS NOT NULL",
            "CREATE SEQUENCE {positions} AS bigint CACHE 1",
            """
CREATE TABLE {events} (
    position bigint PRIMARY KEY,
    stream bigint NOT NULL,
    version bigint NOT NULL,
    timestamp bigint NOT NULL, -- microseconds since 1970, UTC
    id uuid NOT NULL,
    reserved boolean NOT NULL, -- as that of its stream
    type text COLLATE "C" NOT NULL,
    content_type text NOT NULL,
    metadata text NOT NULL, -- a JSON object
    data bytea NOT NULL,
    UNIQUE (stream, version),
    UNIQUE (stream, id)
)""",
            """
CREATE FUNCTION {decoded}(content_type text, data bytea) RETURNS json
LANGUAGE plpgsql IMMUTABLE PARALLEL RESTRICTED AS $$
BEGIN
    IF content_type !~* '^application/([a-z0-9.-]+[+])?json *(;|$)' THEN
        RETURN NULL;
    END IF;
    RETURN convert_from(data, 'UTF8')::json;
EXCEPTION WHEN data_exception THEN
    RETURN NULL; -- so that one bad payload doesn't hide all others
END $$""",
            """
CREATE VIEW {readable_events} AS
SELECT e.position, s.type || '_' || s.uuid AS stream_id, s.type AS stream_type,
    s.uuid AS stream_uuid, e.version AS stream_version, e.id, e.type,
    timestamptz 'epoch' + e.timestamp * interval '1 microsecond' AS timestamp,
    e.content_type, e.metadata::json AS metadata,
    {decoded}(e.content_type, e.data) AS data
FROM {events} AS e JOIN {streams} AS s ON s.key = e.stream""",
        ),
    ),
)

SNAPSHOTS = Component(
    "snapshots",
    (
        (
            """
CREATE TABLE {snapshots} (
    version bigint NOT NULL,
    timestamp bigint NOT NULL, -- microseconds since 1970, UTC
    uuid uuid NOT NULL,
    type text COLLATE "C" NOT NULL,
    content_type text NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (type, uuid, version)
)""",
        ),
    ),
)

CHECKPOINTS = Component(
    "checkpoints",
    (
        (
            """
CREATE TABLE {checkpoints} (
    version bigint NOT NULL,
    position bigint NOT NULL,
    updated_at bigint NOT NULL, -- microseconds since 1970, UTC
    projection text COLLATE "C" NOT NULL,
    PRIMARY KEY (projection, version)
) WITH (fillfactor = 50)""",
        ),
    ),
)

COMPONENTS = (EVENTS, SNAPSHOTS, CHECKPOINTS)


def check_schema(schema: str) -> str:
    """Raise `ValueError` for what can't be the name of a schema of one's own."""
    if not isinstance(schema, str) or not schema or "\0" in schema:
        raise ValueError(f"schema is {schema!r}, not the name of a schema")
    if len(schema.encode(errors="replace")) > _MAX_NAME_BYTES:
        raise ValueError(f"schema is {schema!r}, longer than {_MAX_NAME_BYTES} bytes")
    if schema.startswith("pg_") or schema == "information_schema":
        raise ValueError(f"schema is {schema!r}, which belongs to PostgreSQL")
    return schema


def names(schema: str, *, with_parameters: bool = False) -> dict[str, sql.Composable]:
    """What stands for the names in a statement, quoted by the driver.

    In a statement `with_parameters` a percent sign is doubled.
    """
    if with_parameters:
        schema = schema.replace("%", "%%")
    tables = "streams events snapshots checkpoints readable_events decoded positions"
    found: dict[str, sql.Composable] = {
        name: sql.Identifier(schema, name) for name in tables.split()
    }
    found["versions"] = sql.Identifier(schema, "schema_versions")
    found["schema"] = sql.Identifier(schema)
    found["positions_oid"] = sql.SQL("{}::regclass").format(
        sql.Literal(found["positions"].as_string(None))
    )
    return found


def composed(statement: str, names: Mapping[str, sql.Composable], **values: str | int) -> bytes:
    """The statement with these names in it, and with values where it can't have parameters."""
    literals = {name: sql.Literal(value) for name, value in values.items()}
    return sql.SQL(statement).format(**names, **literals).as_bytes(None)


def schema_sql(schema: str = DEFAULT_SCHEMA, components: Iterable[Component] = COMPONENTS) -> str:
    """What `setup` runs in an empty database, for those who run their own migrations.

    All of it, or the parts that are given as `components`.
    """
    quoted = names(check_schema(schema))
    lines = [composed(CREATE_SCHEMA, quoted), composed(VERSIONS_TABLE, quoted)]
    for component in components:
        for version, steps in enumerate(component.versions, 1):
            lines += [composed(step, quoted) for step in steps]
            lines.append(composed(WRITE_VERSION, quoted, component=component.name, version=version))
    return "".join(f"{line.decode().strip()};\n\n" for line in lines)
