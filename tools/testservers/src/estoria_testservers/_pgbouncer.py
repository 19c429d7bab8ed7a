"""PgBouncer, in front of a PostgreSQL server."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from estoria_testservers._candidate import Candidate
from estoria_testservers._ladder import Product, climb
from estoria_testservers._postgres import PostgresServer, ask_postgres, postgres_errors
from estoria_testservers._process import LocalProcess, Process
from estoria_testservers._server import Server
from estoria_testservers._users import give, unprivileged_user

PGBOUNCER = Product(
    name="PgBouncer",
    variable="ESTORIA_PGBOUNCER_URL",
    program="pgbouncer",
    banner=r"PgBouncer (\S+)",
    probe=lambda _: "of an unknown version",
    folders=("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/opt/pgbouncer/bin"),
    optional=True,
)


class PgBouncerServer(Server):
    """PgBouncer in transaction mode: any database of its PostgreSQL server, at another port."""

    refuses_root = True
    _usual_port = 6432

    def __init__(
        self, candidate: Candidate, postgres: PostgresServer, settings: Mapping[str, str | int]
    ) -> None:
        super().__init__(candidate)
        self.postgres = postgres
        self._settings = dict(settings)

    @property
    def prepares_statements(self) -> bool:
        """Whether this version can carry prepared statements in transaction mode: 1.21 can."""
        number = re.match(r"(\d+)\.(\d+)", self.version)
        return number is not None and (int(number[1]), int(number[2])) >= (1, 21)

    def url_of(self, database: str) -> str:
        """The URL of a database of the PostgreSQL server, through PgBouncer."""
        return urlsplit(self.url)._replace(path=f"/{quote(database)}").geturl()

    def _own_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _new_process(self, folder: Path) -> Process:
        behind = urlsplit(self.postgres.url)
        target = {
            "host": self.postgres.host,
            "port": self.postgres.port,
            "user": unquote(behind.username or "postgres"),
        }
        if behind.password:
            target["password"] = unquote(behind.password)
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            # Whoever comes is let in as the user of the line above.
            "auth_type": "any",
            "pool_mode": "transaction",
            "max_client_conn": 200,
            "default_pool_size": 10,
            "ignore_startup_parameters": "extra_float_digits,options",
            **self._settings,
        }
        lines = ["[databases]", "* = " + " ".join(f"{k}={_quoted(v)}" for k, v in target.items())]
        lines += ["[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
        file = folder / "pgbouncer.ini"
        file.write_text("\n".join(lines) + "\n")
        user = unprivileged_user()
        give(folder, user)
        return LocalProcess([self.candidate.place, str(file)], folder, user=user)

    def _ping(self) -> None:
        ask_postgres(self.url, "SELECT 1")

    def _not_ready(self) -> tuple[type[Exception], ...]:
        return postgres_errors()


def start_pgbouncer(
    postgres: PostgresServer,
    candidate: Candidate | None = None,
    *,
    settings: Mapping[str, str | int] | None = None,
) -> PgBouncerServer:
    """Start PgBouncer in transaction mode in front of a PostgreSQL server.

    `settings` are those of its section `[pgbouncer]`.
    """
    candidate = candidate or climb(PGBOUNCER, owned=True).best
    return PgBouncerServer(candidate, postgres, settings or {}).open()


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"
