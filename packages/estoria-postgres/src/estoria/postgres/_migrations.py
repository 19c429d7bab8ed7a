"""Creating, migrating and checking the schema."""

from typing import Any

import psycopg
from psycopg.rows import tuple_row

from estoria.core import SchemaError, SchemaMissingError, SchemaVersionError
from estoria.postgres import _schema
from estoria.postgres._schema import Component, composed, names

_UTF8 = "utf-8"


async def set_up(
    connection: psycopg.AsyncConnection[Any], component: Component, schema: str, where: str
) -> None:
    """Create or migrate the component in one transaction, one process after the other.

    Needs no right to create anything when there is nothing to do. Raises
    `SchemaVersionError` for a schema that a newer release has made, and `SchemaError` for a
    database that can't hold it.
    """
    _check_encoding(connection, where)
    quoted = names(schema)
    cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
    found = await _version(cursor, component, schema)
    known = len(component.versions)
    if found < known:
        # Each statement must see what the one who held the lock before has committed.
        await cursor.execute(b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        try:
            await cursor.execute(_schema.LOCK_SETUP.encode(), {"schema": schema})
            await _create_schema(cursor, schema)
            found = await _version(cursor, component, schema)
            for version, steps in enumerate(component.versions[found:], found + 1):
                for step in steps:
                    await cursor.execute(composed(step, quoted))
                written = composed(
                    _schema.WRITE_VERSION, quoted, component=component.name, version=version
                )
                await cursor.execute(written)
            await cursor.execute(b"COMMIT")
        except BaseException:
            if not connection.closed:
                await connection.rollback()
            raise
    if found > known:
        raise SchemaVersionError(component.name, where, found, known)
    if component.name == _schema.EVENTS.name:
        await _check_settings(cursor, schema, where)


async def check(
    connection: psycopg.AsyncConnection[Any], component: Component, schema: str, where: str
) -> None:
    """Raise `SchemaMissingError` or `SchemaVersionError` unless the component is as known.

    In a transaction of the caller's it asks for nothing that could end it.
    """
    _check_encoding(connection, where)
    cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
    found, known = await _version(cursor, component, schema), len(component.versions)
    if not found:
        raise SchemaMissingError(component.name, where)
    if found != known:
        raise SchemaVersionError(component.name, where, found, known)


async def _create_schema(cursor: psycopg.AsyncCursor[Any], schema: str) -> None:
    quoted = names(schema)
    # IF NOT EXISTS would ask for the right to create one also when it exists.
    if not await _scalar(cursor, _schema.FIND_SCHEMA, {"schema": schema}):
        await cursor.execute(composed(_schema.CREATE_SCHEMA, quoted))
    table = quoted["versions"].as_string(None)
    if not await _scalar(cursor, _schema.FIND_VERSIONS, {"versions": table}):
        await cursor.execute(composed(_schema.VERSIONS_TABLE, quoted))


async def _version(cursor: psycopg.AsyncCursor[Any], component: Component, schema: str) -> int:
    table = names(schema)["versions"].as_string(None)
    if not await _scalar(cursor, _schema.FIND_VERSIONS, {"versions": table}):
        return 0
    statement = composed(_schema.READ_VERSION, names(schema, with_parameters=True))
    await cursor.execute(statement, {"component": component.name})
    row = await cursor.fetchone()
    return row[0] if row else 0


async def _scalar(
    cursor: psycopg.AsyncCursor[Any], statement: str, parameters: dict[str, str]
) -> bool:
    await cursor.execute(statement.encode(), parameters)
    row = await cursor.fetchone()
    return bool(row and row[0])


async def _check_settings(cursor: psycopg.AsyncCursor[Any], schema: str, where: str) -> None:
    positions = names(schema)["positions"].as_string(None)
    await cursor.execute(_schema.READ_SETTINGS.encode(), {"positions": positions})
    row = await cursor.fetchone()
    encoding, as_made = row or ("", False)
    if encoding != "UTF8":
        raise SchemaError(f"{where}: the database is encoded in {encoding}, it must be UTF8")
    if not as_made:
        raise SchemaError(
            f"{where}: the sequence positions must have CACHE 1, INCREMENT 1 and NO CYCLE, "
            "or readers would skip events"
        )


def _check_encoding(connection: psycopg.AsyncConnection[Any], where: str) -> None:
    if connection.info.encoding != _UTF8:
        raise SchemaError(
            f"{where}: the pool's connections have the client_encoding "
            f"{connection.info.encoding}, it must be UTF8"
        )
