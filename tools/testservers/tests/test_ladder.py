import os
import stat
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from estoria_testservers import (
    MONGODB,
    PGBOUNCER,
    POSTGRES,
    REDIS,
    VALKEY,
    Rung,
    ServerNotOursError,
    ServerStartError,
    ServerUnavailableError,
    climb,
    servers_required,
    start_postgres,
)

PRODUCTS = [POSTGRES, PGBOUNCER, MONGODB, REDIS, VALKEY]
BARE = [replace(each, folders=(), wheels=()) for each in PRODUCTS]
pytest_plugins = ["pytester"]


def ids(product):
    return product.name


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    for product in PRODUCTS:
        monkeypatch.delenv(product.variable, raising=False)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without binaries on PATH and without Docker."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")


def program(folder, name, says, status=0):
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_url_in_the_environment_wins(monkeypatch, newest_postgres_server):
    monkeypatch.setenv("ESTORIA_POSTGRES_URL", newest_postgres_server.url)

    (found,) = climb(POSTGRES).candidates

    assert found.rung is Rung.ENVIRONMENT
    assert found.place == newest_postgres_server.url
    assert found.version == newest_postgres_server.version
    assert found.origin == "ESTORIA_POSTGRES_URL"


def test_a_server_of_somebody_else_is_left_alone(monkeypatch, newest_postgres_server):
    monkeypatch.setenv("ESTORIA_POSTGRES_URL", newest_postgres_server.url)
    server = start_postgres(climb(POSTGRES).best)

    for operation in ("kill", "stop", "start", "pause"):
        with pytest.raises(ServerNotOursError, match="start one of your own"):
            getattr(server, operation)()
    server.close()

    assert newest_postgres_server.alive
    assert server.alive
    assert climb(POSTGRES, owned=True).best.rung is not Rung.ENVIRONMENT


def test_a_named_server_that_does_not_answer_is_an_error_not_a_skip(monkeypatch):
    monkeypatch.setenv("ESTORIA_POSTGRES_URL", "postgresql://postgres@127.0.0.1:1/postgres")
    monkeypatch.setattr("estoria_testservers._server.NAMED_PATIENCE", 0.1)
    found = climb(POSTGRES).best

    assert "no answer" in found.version
    with pytest.raises(ServerStartError, match="does not answer"):
        start_postgres(found)


def test_a_binary_on_path_comes_before_the_wheel(monkeypatch, tmp_path):
    binary = program(tmp_path, "valkey-server", "Valkey server v=9.9.9 sha=0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    first = climb(VALKEY).best

    assert (first.rung, first.version, first.place) == (Rung.LOCAL, "9.9.9", str(binary))


def test_a_binary_that_does_not_run_is_passed_over_and_named(nowhere, tmp_path):
    program(tmp_path, "mongod", "libcurl is missing", status=127)

    ladder = climb(replace(MONGODB, wheels=()))

    assert ladder.candidates == []
    assert any("libcurl is missing" in each for each in ladder.tried)


def test_another_program_of_the_same_name_is_not_taken(nowhere, tmp_path):
    program(tmp_path, "redis-server", "Valkey server v=8.0.0 sha=0")

    assert all(each.rung is not Rung.LOCAL for each in climb(REDIS).candidates)


def test_a_distribution_has_several_versions_in_its_folders(nowhere, tmp_path):
    for major in (13, 14):
        folder = tmp_path / str(major) / "bin"
        folder.mkdir(parents=True)
        program(folder, "postgres", f"postgres (PostgreSQL) {major}.1")

    product = replace(POSTGRES, folders=(f"{tmp_path}/*/bin",), wheels=())

    assert [each.version for each in climb(product).candidates] == ["14.1", "13.1"]


@pytest.mark.parametrize("product", BARE, ids=ids)
def test_where_nothing_is_found_all_that_was_tried_is_named(nowhere, product):
    ladder = climb(product)

    with pytest.raises(ServerUnavailableError) as caught:
        _ = ladder.best
    message = str(caught.value)
    assert product.name in message
    assert f"{product.variable} is not set" in message
    assert f"no {product.program} on PATH" in message
    assert ("Docker daemon does not answer" in message) == (product.image is not None)


class Daemon(BaseHTTPRequestHandler):
    """As much of a Docker daemon as it takes to be seen."""

    def do_GET(self):
        body = b'{"ApiVersion": "1.44"}' if self.path.endswith("/version") else b"OK"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def log_message(self, *arguments):
        """A test has nothing to print."""


def test_docker_is_the_last_rung_where_its_daemon_answers(nowhere, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Daemon) as daemon:
        threading.Thread(target=daemon.serve_forever).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{daemon.server_port}")
        found = climb(replace(VALKEY, folders=(), wheels=())).candidates
        daemon.shutdown()

    assert [(each.rung, each.place, each.version) for each in found] == [
        (Rung.DOCKER, "valkey/valkey:9.1", "9.1")
    ]


@pytest.mark.parametrize(
    ("environ", "optional", "required"),
    [
        ({}, False, False),
        ({"CI": "true"}, False, True),
        ({"CI": "false"}, False, False),
        ({"CI": "true"}, True, False),
        ({"ESTORIA_REQUIRE_SERVERS": "1"}, False, True),
        ({"ESTORIA_REQUIRE_SERVERS": "1"}, True, True),
        ({"ESTORIA_REQUIRE_SERVERS": "0"}, False, False),
    ],
)
def test_the_environment_says_whether_servers_are_required(environ, optional, required):
    assert servers_required(environ, optional=optional) is required


@pytest.mark.parametrize(
    ("environ", "outcome"), [({}, "skipped"), ({"ESTORIA_REQUIRE_SERVERS": "1"}, "errors")]
)
def test_a_test_without_its_server_skips_or_fails(pytester, monkeypatch, nowhere, environ, outcome):
    for name in ("CI", "ESTORIA_REQUIRE_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    pytester.makeconftest(
        """
        from dataclasses import replace
        from estoria_testservers import _mongodb, pytest_plugin
        bare = replace(_mongodb.MONGODB, folders=(), wheels=())
        pytest_plugin.MONGODB = bare
        """
    )
    pytester.makepyfile("def test_it(mongodb_server): raise AssertionError")

    result = pytester.runpytest_subprocess("-rsE")

    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["*ESTORIA_MONGODB_URL is not set*Docker daemon does not answer*"])


def test_the_header_names_each_server_with_its_version_and_rung(pytester):
    result = pytester.runpytest_subprocess()

    lines = "\n".join(result.outlines)
    for product in PRODUCTS:
        ladder = climb(product)
        if ladder.candidates:
            best = ladder.best
            assert f"{product.name}: {best.version} ({best.rung.value}: " in lines
        else:
            assert f"{product.name}: none; tried: " in lines
