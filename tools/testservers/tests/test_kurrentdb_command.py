"""The test double by its command, its name, and its place among the other servers."""

import contextlib
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from estoria_testservers import (
    KurrentServer,
    Rung,
    ServerNotOursError,
    kurrentdb_double,
    start_kurrentdb,
)
from estoria_testservers._kurrentdb import TEST_DOUBLE
from estoria_testservers._ports import ReservedPort
from estoria_testservers.kurrentdb import ProtocolServer
from kurrentdbclient import NewEvent, StreamState

COMMAND = [sys.executable, "-m", "estoria_testservers.kurrentdb"]


@contextlib.contextmanager
def running(*options):
    """The command, once it has said that it serves."""
    with subprocess.Popen([*COMMAND, *options], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stderr.readline()
        finally:
            process.terminate()


@pytest.fixture
def port():
    reserved = ReservedPort()
    yield reserved.number
    reserved.release()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_stopped(connect, port, end):
    with running("--port", str(port)) as (process, said):
        assert said.rstrip().endswith(
            f"a test double of KurrentDB at kurrentdb://127.0.0.1:{port}?Tls=false"
        )
        client = connect(f"kurrentdb://127.0.0.1:{port}?Tls=false")
        event = NewEvent("Happened", b"{}")
        client.append_to_stream("stream", current_version=StreamState.NO_STREAM, events=event)
        assert [*client.get_stream("stream")] == [event]

        process.send_signal(end)

        assert process.wait(60) == 0


def test_the_command_keeps_its_log_in_a_file(connect, port, tmp_path):
    event = NewEvent("Happened", b"{}")
    options = ("--port", str(port), "--file", str(tmp_path / "records"))
    url = f"kurrentdb://127.0.0.1:{port}?Tls=false"
    with running(*options) as (process, _):
        connect(url).append_to_stream("kept", current_version=StreamState.ANY, events=event)
        process.kill()

    with running(*options):
        assert [*connect(url).get_stream("kept")] == [event]


def test_the_command_says_where_its_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--port", str(port)], capture_output=True, text=True, check=False
        )

    assert done.returncode != 0
    assert f"127.0.0.1:{port} is in use" in done.stderr


def test_the_help_says_that_it_is_a_test_double():
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)

    assert "test double" in done.stdout


def test_it_is_called_a_test_double_everywhere(shared_double):
    assert shared_double.is_double
    assert "test double" in TEST_DOUBLE
    assert TEST_DOUBLE in str(shared_double.candidate)
    assert "test double" in ProtocolServer.__doc__


def test_only_the_double_can_go_wrong(shared_double):
    elsewhere = replace(
        shared_double.candidate, rung=Rung.ENVIRONMENT, place=shared_double.url, origin="elsewhere"
    )

    with KurrentServer(elsewhere).open() as server, pytest.raises(ServerNotOursError):
        server.control()


def test_a_limit_of_its_own_is_in_force(connect, fresh_server):
    server = fresh_server(start_kurrentdb, kurrentdb_double(), max_append_bytes=1000)
    client = connect(server.url)

    client.append_to_stream(
        "small", current_version=StreamState.ANY, events=[NewEvent("Small", b"x" * 900)]
    )
    with pytest.raises(Exception, match="1000"):
        client.append_to_stream(
            "large", current_version=StreamState.ANY, events=[NewEvent("Large", b"x" * 1100)]
        )
