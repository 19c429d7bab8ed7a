"""The beginning of a backend: of the right shape, and with tests that fail."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path):
    """A copy of the repository, as far as it matters here."""
    for name in ("tools", "packages/estoria-core"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("LICENSE", "hatch.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(root, *command):
    environ = {**os.environ, "PYTHONPATH": str(root / "packages/estoria-oracle/src")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )


def test_it_keeps_the_rules_and_waits_to_be_written(root):
    done = run(root, "tools/new_package.py", "oracle")
    assert done.returncode == 0, done.stderr

    guard = "import runpy, pathlib; layout = runpy.run_path('tools/layout.py'); "
    guard += "print(*layout['check'](pathlib.Path('packages/estoria-oracle').resolve()))"
    assert run(root, "-c", guard).stdout == "\n"
    mypy = ["-m", "mypy", "--config-file", "tools/mypy.ini", "packages/estoria-oracle/src"]
    types = run(root, *mypy)
    assert types.returncode == 0, types.stdout
    lint = ["-m", "ruff", "check", "--config", "tools/ruff.toml", "packages/estoria-oracle"]
    assert run(root, *lint).returncode == 0, run(root, *lint).stdout
    form = ["-m", "ruff", "format", "--check", "--config", "tools/ruff.toml"]
    assert run(root, *form, "packages/estoria-oracle").returncode == 0


def test_its_tests_run_and_fail_for_lack_of_an_implementation(root):
    run(root, "tools/new_package.py", "oracle")

    options = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "-k", "not random_scripts"]
    done = run(root, "-m", "pytest", *options, "packages/estoria-oracle/tests")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "NotImplementedError" in done.stdout
    assert "error" not in done.stdout.splitlines()[-1]
    assert "no tests ran" not in done.stdout


@pytest.mark.parametrize("name", ["oracle", "cassandra"])
def test_hatch_knows_of_it_once(root, name):
    run(root, "tools/new_package.py", name)

    members = tomllib.loads((root / "hatch.toml").read_text())["envs"]["default"]["workspace"]
    found = [
        path.name
        for member in members["members"]
        for path in root.glob(member if isinstance(member, str) else member["path"])
    ]
    assert found.count(f"estoria-{name}") == 1


@pytest.mark.parametrize("name", ["", "Oracle", "my-db", "../x", "1st"])
def test_a_name_that_can_be_no_package_is_refused(root, name):
    done = run(root, "tools/new_package.py", name)

    assert done.returncode == 1
    assert [path.name for path in (root / "packages").iterdir()] == ["estoria-core"]


def test_what_is_there_is_left_alone(root):
    done = run(root, "tools/new_package.py", "core")

    assert done.returncode == 1
    assert "already" in done.stderr
