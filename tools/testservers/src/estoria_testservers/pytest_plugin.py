"""Fixtures for tests that need real servers.

Each server is started at its first use and lives until the session ends; each test takes from
it what is its own: a database, a schema, a key prefix (`fresh_name`). All fixtures are
synchronous, so that they suit every async runner. Whoever wants to kill a server starts one of
their own with `fresh_server`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import NoReturn, ParamSpec, Protocol, TypeVar, cast

import pytest

from estoria_testservers._candidate import Candidate, servers_required
from estoria_testservers._errors import ServerUnavailableError
from estoria_testservers._kurrentdb import (
    KURRENTDB,
    KurrentServer,
    kurrentdb_candidate,
    start_kurrentdb,
)
from estoria_testservers._ladder import climb
from estoria_testservers._mongodb import (
    MONGODB,
    MongoReplicaSet,
    MongoServer,
    start_mongodb,
    start_mongodb_replica_set,
)
from estoria_testservers._pgbouncer import PGBOUNCER, PgBouncerServer, start_pgbouncer
from estoria_testservers._postgres import (
    POSTGRES,
    PostgresServer,
    postgres_candidates,
    start_postgres,
)
from estoria_testservers._resp import (
    REDIS,
    VALKEY,
    RespCluster,
    RespSentinel,
    RespServer,
    start_redis,
    start_redis_cluster,
    start_redis_sentinel,
    start_valkey,
    start_valkey_cluster,
    start_valkey_sentinel,
)

_P = ParamSpec("_P")
_PRODUCTS = (POSTGRES, PGBOUNCER, MONGODB, REDIS, VALKEY)

# A process that is killed loses nothing that it has handed to the system, so tests that share a
# server need not wait for the disk.
_POSTGRES_SETTINGS: dict[str, str | int] = {
    "fsync": "off",
    "max_connections": 200,
    "max_prepared_transactions": 20,
}


class _Closable(Protocol):
    def close(self) -> None: ...


_S = TypeVar("_S", bound=_Closable)


class ServerPool:
    """The servers of one session or one test, closed together."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._kept: dict[object, object] = {}

    def __call__(self, start: Callable[_P, _S], /, *args: _P.args, **options: _P.kwargs) -> _S:
        """Start a server; where there is none, the test skips, or fails where it must not."""
        try:
            server = start(*args, **options)
        except ServerUnavailableError as error:
            optional = any(p.optional for p in _PRODUCTS if p.name == error.name)
            give_up(str(error), optional=optional)
        self._stack.callback(server.close)
        return server

    def keep(self, key: object, start: Callable[[], _S]) -> _S:
        """The server that was started under this key, started now if it was not."""
        if key not in self._kept:
            self._kept[key] = self(start)
        return cast("_S", self._kept[key])

    def close(self) -> None:
        """Close all of them, the last first."""
        self._stack.close()


def give_up(why: str, *, optional: bool = False) -> NoReturn:
    """Skip the test for want of a server, or fail it where the environment asks for servers."""
    if servers_required(optional=optional):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def pytest_report_header() -> list[str]:
    """One line for each product: the servers that tests will use, or what was tried."""
    lines = []
    for product in _PRODUCTS:
        ladder = climb(product)
        used = postgres_candidates() if product is POSTGRES else ladder.candidates[:1]
        found = ", ".join(f"{c.version} ({c.rung.value}: {c.origin})" for c in used)
        lines.append(f"{product.name}: {found or 'none; tried: ' + '; '.join(ladder.tried)}")
    kurrentdb = kurrentdb_candidate()
    lines.append(f"{KURRENTDB.name}: {kurrentdb.version} ({kurrentdb.origin})")
    return lines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses `postgres_server` on every version that is at hand."""
    if "postgres_server" in metafunc.fixturenames:
        candidates: list[Candidate | None] = [*postgres_candidates()] or [None]
        ids = [f"postgres-{each.major}" if each else "no-postgres" for each in candidates]
        metafunc.parametrize("postgres_server", candidates, ids=ids, indirect=True, scope="session")


@pytest.fixture(scope="session")
def _servers() -> Iterator[ServerPool]:
    with contextlib.closing(ServerPool()) as servers:
        yield servers


@pytest.fixture
def fresh_server() -> Iterator[ServerPool]:
    """Starts servers of the test's own: `fresh_server(start_postgres, settings={...})`.

    Such a server may be stopped, killed and paused. It is closed when the test ends.
    """
    with contextlib.closing(ServerPool()) as servers:
        yield servers


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest, _servers: ServerPool) -> PostgresServer:
    """A PostgreSQL server; a test runs once on each of the versions that are at hand."""
    candidate: Candidate | None = getattr(request, "param", None)
    return _postgres(_servers, candidate)


@pytest.fixture(scope="session")
def newest_postgres_server(_servers: ServerPool) -> PostgresServer:
    """The newest PostgreSQL server alone, for tests whose subject is not PostgreSQL."""
    return _postgres(_servers, next(iter(postgres_candidates()[-1:]), None))


def _postgres(servers: ServerPool, candidate: Candidate | None) -> PostgresServer:
    def start() -> PostgresServer:
        return start_postgres(candidate or climb(POSTGRES).best, settings=_POSTGRES_SETTINGS)

    return servers.keep((POSTGRES, candidate), start)


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database on `postgres_server`, of the test's own."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def pgbouncer_server(postgres_server: PostgresServer, _servers: ServerPool) -> PgBouncerServer:
    """PgBouncer in transaction mode, in front of `postgres_server`."""
    return _servers.keep(
        (PGBOUNCER, postgres_server.url),
        lambda: start_pgbouncer(postgres_server, climb(PGBOUNCER).best),
    )


@pytest.fixture(scope="session")
def mongodb_server(_servers: ServerPool) -> MongoServer:
    """A MongoDB server that is a replica set of one node, with fail points allowed."""
    return _servers(lambda: start_mongodb(climb(MONGODB).best, test_commands=True))


@pytest.fixture(scope="session")
def mongodb_standalone(_servers: ServerPool) -> MongoServer:
    """A MongoDB server without a replica set, and so without transactions."""
    return _servers(start_mongodb, replica_set=False)


@pytest.fixture(scope="session")
def mongodb_replica_set(_servers: ServerPool) -> MongoReplicaSet:
    """A MongoDB replica set of three nodes."""
    return _servers(start_mongodb_replica_set, test_commands=True)


@pytest.fixture
def mongodb_database(mongodb_server: MongoServer) -> Iterator[str]:
    """The name of a database on `mongodb_server`, of the test's own."""
    with mongodb_server.database() as name:
        yield name


@pytest.fixture(scope="session")
def redis_server(_servers: ServerPool) -> RespServer:
    """A Redis server."""
    return _servers(lambda: start_redis(climb(REDIS).best))


@pytest.fixture(scope="session")
def redis_cluster(_servers: ServerPool) -> RespCluster:
    """A Redis cluster of one node."""
    return _servers(start_redis_cluster)


@pytest.fixture(scope="session")
def redis_sentinel(_servers: ServerPool) -> RespSentinel:
    """A Redis sentinel with its master."""
    return _servers(start_redis_sentinel)


@pytest.fixture(scope="session")
def valkey_server(_servers: ServerPool) -> RespServer:
    """A Valkey server."""
    return _servers(lambda: start_valkey(climb(VALKEY).best))


@pytest.fixture(scope="session")
def valkey_cluster(_servers: ServerPool) -> RespCluster:
    """A Valkey cluster of one node."""
    return _servers(start_valkey_cluster)


@pytest.fixture(scope="session")
def valkey_sentinel(_servers: ServerPool) -> RespSentinel:
    """A Valkey sentinel with its master."""
    return _servers(start_valkey_sentinel)


@pytest.fixture(scope="session")
def kurrentdb_server(_servers: ServerPool) -> KurrentServer:
    """A KurrentDB server by URL or Docker; else its test double, which the header names."""
    return _servers(lambda: start_kurrentdb(kurrentdb_candidate()))
