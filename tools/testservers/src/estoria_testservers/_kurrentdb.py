"""KurrentDB, in a container; where none can be had, a test double that speaks its protocol."""

import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import grpc

from estoria_testservers._candidate import Candidate, Rung
from estoria_testservers._certificates import Certificates
from estoria_testservers._docker import ContainerProcess
from estoria_testservers._errors import ServerNotOursError, ServerStartError
from estoria_testservers._ladder import Product, climb
from estoria_testservers._process import LocalProcess, Process
from estoria_testservers._server import Server
from estoria_testservers.kurrentdb._control import Control

TEST_DOUBLE = "test double: estoria_testservers.kurrentdb"
"""The origin of the candidate that is no KurrentDB."""

KURRENTDB = Product(
    name="KurrentDB",
    variable="ESTORIA_KURRENTDB_URL",
    program="kurrentd",
    banner=r"KurrentDB [vV]ersion (\S+)",
    probe=lambda url: _version_at(url),  # noqa: PLW0108 - defined further down
    image="kurrentplatform/kurrentdb:26.1",
)

_MAX_APPEND_BYTES = 16 * 2**20 - 2**14


def kurrentdb_candidate(*, owned: bool = False) -> Candidate:
    """A real KurrentDB by URL or Docker; else the test double, which is always to be had."""
    ladder = climb(KURRENTDB, owned=owned)
    for candidate in ladder.candidates:
        if candidate.rung in (Rung.ENVIRONMENT, Rung.DOCKER):
            return candidate
    return kurrentdb_double()


def kurrentdb_double() -> Candidate:
    """The protocol server, whatever else is there."""
    version = f"protocol of kurrentdbclient {metadata.version('kurrentdbclient')}"
    return Candidate(KURRENTDB.name, Rung.DOUBLE, version, sys.executable, TEST_DOUBLE)


class KurrentServer(Server):
    """A KurrentDB node, or the test double of one; `is_double` tells which."""

    _usual_port = 2113

    def __init__(
        self,
        candidate: Candidate,
        *,
        tls: bool = False,
        login: str | None = None,
        max_append_bytes: int = _MAX_APPEND_BYTES,
    ) -> None:
        super().__init__(candidate)
        self._login = login
        self._tls, self._max_append_bytes = tls, max_append_bytes
        self._certificates: Certificates | None = None

    @property
    def is_double(self) -> bool:
        """Whether this is the test double, which alone has a `control`."""
        return self.rung is Rung.DOUBLE

    @property
    def certificate_authority(self) -> Path | None:
        """The file that clients trust the server by; `None` without TLS."""
        return None if self._certificates is None else self._certificates.authority

    def control(self) -> Control:
        """The switch that injects faults; only the test double has one."""
        if not self.is_double:
            raise ServerNotOursError(self.name, "go wrong")
        return Control(f"{self.host}:{self.port}", self._credentials())

    def _credentials(self) -> grpc.ChannelCredentials | None:
        if self._certificates is None:
            return None
        return grpc.ssl_channel_credentials(self._certificates.authority.read_bytes())

    def _own_url(self) -> str:
        host = "localhost" if self._tls else "127.0.0.1"
        query = f"Tls=true&TlsCaFile={self.certificate_authority}" if self._tls else "Tls=false"
        login = f"{self._login}@" if self._login else ""
        return f"kurrentdb://{login}{host}:{self.port}?{query}"

    def _new_process(self, folder: Path) -> Process:
        if self.rung is Rung.DOCKER:
            if self._tls or self._login:
                text = "only the test double is given TLS and a login"
                raise ServerStartError(str(self.candidate), text)
            environ = {
                "KURRENTDB_INSECURE": "true",
                "KURRENTDB_NODE_PORT": str(self.port),
                "KURRENTDB_MAX_APPEND_SIZE": str(self._max_append_bytes),
            }
            return ContainerProcess(self.candidate.place, [], environ)
        command = [sys.executable, "-m", "estoria_testservers.kurrentdb", "--port", str(self.port)]
        command += ["--file", str(folder / "records")]
        command += ["--max-append-bytes", str(self._max_append_bytes)]
        if self._login:
            command += ["--login", self._login]
        if self._tls:
            self._certificates = Certificates(folder)
            certificate, key = self._certificates.certificate, self._certificates.key
            command += ["--certificate", str(certificate), "--key", str(key)]
        return LocalProcess(command, folder)

    def _ping(self) -> None:
        _ping(f"{self.host}:{self.port}", self._credentials(), tls="Tls=true" in self.url)

    def _not_ready(self) -> tuple[type[Exception], ...]:
        return (grpc.RpcError, grpc.FutureTimeoutError)


def start_kurrentdb(
    candidate: Candidate | None = None,
    *,
    tls: bool = False,
    login: str | None = None,
    max_append_bytes: int = _MAX_APPEND_BYTES,
) -> KurrentServer:
    """Start a KurrentDB node, or where none can be had its test double.

    `login` is ``user:password``, which clients send over TLS only.
    """
    candidate = candidate or kurrentdb_candidate(owned=True)
    return KurrentServer(candidate, tls=tls, login=login, max_append_bytes=max_append_bytes).open()


def _ping(target: str, credentials: grpc.ChannelCredentials | None, *, tls: bool) -> None:
    if tls:
        channel = grpc.secure_channel(target, credentials or grpc.ssl_channel_credentials())
    else:
        channel = grpc.insecure_channel(target)
    with channel:
        grpc.channel_ready_future(channel).result(timeout=2)


def _version_at(url: str) -> str:
    place = urlsplit(url)
    _ping(f"{place.hostname}:{place.port or 2113}", None, tls="tls=false" not in url.lower())
    return "of unknown version"
