"""Whatever happens to the process that started servers, nothing of theirs is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from estoria_testservers import _guard
from estoria_testservers._guard import descendants, started_at

PROGRAM = """
import json, sys, time
from estoria_testservers import *
from estoria_testservers._lifeline import lifeline

postgres, valkey = start_postgres(), start_valkey()
mongodb = start_mongodb(replica_set=False)
servers = [postgres, valkey, mongodb]
folders = [str(server._folder) for server in servers]
pids = [server.pid for server in servers] + [lifeline().guard_pid]
print(json.dumps([pids, folders]), flush=True)
time.sleep(60)
"""

SUITE = """
import json, os, time
from estoria_testservers._lifeline import lifeline

def test_it(newest_postgres_server, valkey_server):
    servers = [newest_postgres_server, valkey_server]
    pids = [server.pid for server in servers] + [lifeline().guard_pid]
    with open("started", "w") as file:
        json.dump([pids, [str(server._folder) for server in servers]], file)
    os.rename("started", "ready")
    time.sleep(60)
"""


def gone(pids, folders):
    folders = [*folders]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        left = [pid for pid in pids if started_at(pid)] + [f for f in folders if Path(f).exists()]
        if not left:
            return True
        time.sleep(0.02)
    return left


def with_descendants(pids):
    return [*pids, *(below for pid in pids for below in descendants(pid))]


def test_nothing_is_left_of_a_program_that_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        pids, folders = json.loads(program.stdout.readline())
        everything = with_descendants(pids)
        program.kill()
        program.wait(20)

    assert len(everything) > len(pids) + 3
    assert gone(everything, folders) is True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_test_run_that_is_ended_by(tmp_path, number):
    (tmp_path / "test_suite.py").write_text(SUITE)
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_suite.py"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    ) as run:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        pids, folders = json.loads((tmp_path / "ready").read_text())
        everything = with_descendants(pids)
        run.send_signal(number)
        run.wait(30)

    assert gone(everything, folders) is True


def test_the_last_words_of_a_parent_are_heard_after_its_end(tmp_path):
    folder = tmp_path / "left"
    folder.mkdir()
    nobody = "1" if os.getpid() != 1 else "2"

    subprocess.run(
        [sys.executable, "-I", "-S", _guard.__file__, nobody],
        input=json.dumps(["folder", str(folder)]) + "\n",
        text=True,
        timeout=20,
        check=True,
    )

    assert not folder.exists()


def test_a_server_does_not_begin_before_the_guard_knows_of_it(tmp_path):
    """Its starter may be killed at the very moment when it has started it."""
    patch = """
import os
from estoria_testservers._lifeline import Lifeline

def watch(self, pid):
    print(pid, flush=True)
    os._exit(9)

Lifeline.watch = watch
from estoria_testservers import start_valkey
start_valkey()
"""
    done = subprocess.run(
        [sys.executable, "-c", patch],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 9
    assert gone([int(done.stdout)], tmp_path.glob("*")) is True


def test_a_program_that_forgets_its_servers_ends_them_with_itself():
    program = PROGRAM.replace("time.sleep(60)", "")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    pids, folders = json.loads(done.stdout)
    assert done.stderr == ""
    assert [pid for pid in pids if started_at(pid)] == []
    assert [folder for folder in folders if Path(folder).exists()] == []


def test_an_interrupt_at_the_terminal_does_not_reach_the_servers(newest_postgres_server):
    pid = newest_postgres_server.pid
    if pid is None:
        pytest.skip("the server is somebody else's")

    assert os.getsid(pid) != os.getsid(0)


def test_processes_side_by_side_get_servers_of_their_own():
    program = "from estoria_testservers import *; s = start_valkey(); print(s.url); input()"
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    programs = [subprocess.Popen(command, **pipes) for _ in range(4)]
    urls = [program.stdout.readline() for program in programs]
    for each in programs:
        each.communicate("\n", timeout=30)

    assert len(set(urls)) == 4
    assert [each.returncode for each in programs] == [0, 0, 0, 0]
