"""The acceptance suite itself: it catches what it is meant to catch, and can't be cheated."""

import os
import re
import runpy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from estoria.core.testing import EventStoreAcceptance, StreamTruncatorAcceptance

BROKEN_STORES = Path(__file__).with_name("broken_stores.py")
BROKEN = runpy.run_path(str(BROKEN_STORES))["BROKEN"]

FEW = 18
"""How many clauses a store that breaks one promise may fail at most."""

# Random scripts know no metadata, no timestamps, no filters, no namesakes and no concurrency.
BEYOND_SCRIPTS = {
    "MutatesItsInput",
    "ReturnsWhatItDidNotStore",
    "YieldsPastTheFrontier",
    "EndsShort",
    "IsNotAtomic",
    "PassesAnOpenGap",
    "ForgetsTheFilter",
}


def run(folder, text, *options):
    """Run pytest on a module of this text in a process of its own, without any setting."""
    module = folder / "test_it.py"
    module.write_text(text)
    return pytest_on(folder, module, *options)


def pytest_on(folder, path, *options):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null"]
    command += ["--rootdir", str(folder), str(path), *options]
    # Every test that hangs says where it stands, and ends the run.
    command += ["-o", "faulthandler_timeout=120", "-o", "faulthandler_exit_on_timeout=true"]
    # In CI pytest cuts nothing: a clause must not take for ever to say what differed.
    environ = {**os.environ, "CI": "true"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environ, check=False
    )


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """For each broken store, and for its random scripts, the names of the clauses it fails."""
    folder = tmp_path_factory.mktemp("broken")
    report = folder / "report.xml"
    done = pytest_on(folder, BROKEN_STORES, "-q", "--tb=no", f"--junit-xml={report}")
    assert done.returncode == 1, done.stdout + done.stderr
    found = defaultdict(lambda: defaultdict(set))
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("error") is not None:
            pytest.fail(f"{case.get('name')} has an error")
        if case.find("failure") is not None:
            clause, _, parameters = case.get("name").partition("[")
            store = next(s for s in re.split(r"[-\]]", parameters) if s in NAMES)
            found[case.get("classname").rpartition(".")[2]][store].add(clause)
    return found


NAMES = {store.__name__ for store in BROKEN}


@pytest.mark.parametrize("store", BROKEN, ids=lambda store: store.__name__)
def test_a_broken_store_fails_the_clause_that_is_meant_for_it(store, failures):
    failed = failures["TestBroken"][store.__name__]

    assert store.meant in failed
    assert len(failed) <= FEW, sorted(failed)


def test_random_scripts_catch_what_they_can(failures):
    assert set(failures["TestBrokenInRandomScripts"]) >= NAMES - BEYOND_SCRIPTS


def test_a_clause_can_t_be_replaced():
    with pytest.raises(TypeError, match="waive it"):

        class _(EventStoreAcceptance):
            async def test_no_events_change_nothing(self, store):
                pass


def test_a_clause_that_doesn_t_exist_can_t_be_waived():
    with pytest.raises(TypeError, match="no clause"):

        class _(StreamTruncatorAcceptance):
            waived = {"test_nothing_of_the_kind": "reason"}


def test_a_waiver_needs_a_reason():
    with pytest.raises(TypeError, match="reason"):

        class _(StreamTruncatorAcceptance):
            waived = {"test_later_events_keep_their_versions": ""}


def test_a_waiver_leaves_the_clause_alone_for_others():
    class Waiving(StreamTruncatorAcceptance):
        waived = {"test_later_events_keep_their_versions": "because"}

    name = "test_later_events_keep_their_versions"
    assert getattr(Waiving, name) is not getattr(StreamTruncatorAcceptance, name)
    assert "xfail" not in str(getattr(StreamTruncatorAcceptance, name).__dict__)


SUBCLASS = """
import pytest
from estoria.core.memory import MemoryEventStore
from estoria.core.testing import StreamTruncatorAcceptance

class Undoes(MemoryEventStore):
    async def truncate_stream(self, stream_id, to_version):
        await super().truncate_stream(stream_id, to_version)
        if to_version == 1:
            self._streams[stream_id].version = 77

class TestIt(StreamTruncatorAcceptance):
    {waived}

    @pytest.fixture
    async def store(self):
        return {store}()
"""
UNDONE = 'waived = {"test_an_earlier_truncation_is_never_undone": "it can\'t"}'


def test_nothing_else_is_needed(tmp_path):
    done = run(tmp_path, SUBCLASS.format(waived="", store="MemoryEventStore"))

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_it_works_beside_pytest_asyncio(tmp_path, mode):
    text = SUBCLASS.format(waived="", store="MemoryEventStore")
    own = """
import asyncio

@pytest.mark.asyncio
async def test_of_their_own():
    await asyncio.sleep(0)
"""
    done = run(tmp_path, text + own, "-p", "pytest_asyncio", f"--asyncio-mode={mode}")

    assert done.returncode == 0, done.stdout


def test_a_failure_shows_what_differed(tmp_path):
    done = run(tmp_path, SUBCLASS.format(waived="", store="Undoes"))

    assert done.returncode == 1
    assert "[4, 5] == [" in done.stdout or "== [4, 5]" in done.stdout, done.stdout


def test_a_waived_clause_must_fail(tmp_path):
    done = run(tmp_path, SUBCLASS.format(waived=UNDONE, store="Undoes"), "-rx")
    assert done.returncode == 0, done.stdout
    assert "1 xfailed" in done.stdout
    assert "it can't" in done.stdout

    done = run(tmp_path, SUBCLASS.format(waived=UNDONE, store="MemoryEventStore"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "XPASS(strict)" in done.stdout


def test_a_missing_fixture_is_named(tmp_path):
    text = SUBCLASS.format(waived="pass", store="x").rpartition("    @pytest.fixture")[0]

    done = run(tmp_path, text.replace("StreamTruncatorAcceptance", "EventStoreAcceptance"))

    assert "TestIt has no fixture called store" in done.stdout
