"""Releasing, in clones that are thrown away."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Clone:
    """A repository of these tools and of the packages, with one commit."""

    def __init__(self, folder):
        self.root = folder
        ignore = shutil.ignore_patterns("__pycache__", "tests", "*.csv")
        for name in ("packages", "tools"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("config", "user.name", "someone")
        self.git("config", "user.email", "someone@example.org")
        self.commit("all of it")

    def git(self, *arguments):
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, message):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)

    def release(self, *arguments):
        command = [sys.executable, str(self.root / "tools" / "release.py"), *arguments]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)

    def path(self, name, file):
        return self.root / "packages" / f"estoria-{name}" / file

    def version(self, name):
        project = tomllib.loads(self.path(name, "pyproject.toml").read_text())["project"]
        return project["version"]

    def change(self, name, file, old, new):
        path = self.path(name, file)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        self.commit(f"change {file}")

    def note(self, name, text="Something new."):
        self.path(name, "changes/+news.added.md").write_text(text + "\n")
        self.commit("a fragment")


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path / "clone")


@pytest.mark.parametrize(
    ("part", "expected"), [("patch", "0.1.1"), ("minor", "0.2.0"), ("major", "1.0.0")]
)
def test_core_is_bumped_and_tagged_with_its_changelog(clone, part, expected):
    clone.note("core")

    done = clone.release("core", part)

    assert done.returncode == 0, done.stderr
    assert clone.version("core") == expected
    changelog = clone.path("core", "CHANGELOG.md").read_text()
    assert f"## {expected} (" in changelog
    assert "- Something new." in changelog
    assert not list(clone.path("core", "changes").glob("*.md"))
    assert clone.git("log", "-1", "--format=%s") == f"estoria-core {expected}"
    assert clone.git("tag", "--points-at", "HEAD") == f"estoria-core-v{expected}"
    assert clone.git("status", "--porcelain") == ""
    assert clone.version("sqlite") == "0.1.0"


def test_a_second_release_stands_above_the_first(clone):
    clone.release("estoria-core", "patch")
    clone.note("core", "Newer still.")

    assert clone.release("estoria-core", "patch").returncode == 0

    changelog = clone.path("core", "CHANGELOG.md").read_text()
    places = [changelog.index(part) for part in ("## 0.1.2", "Newer still", "## 0.1.1", "First")]
    assert places == sorted(places)


def test_a_dry_run_shows_it_all_and_writes_nothing(clone):
    before = clone.git("rev-parse", "HEAD")

    done = clone.release("core", "minor", "--dry-run")

    assert done.returncode == 0, done.stderr
    for part in ("0.1.0 -> 0.2.0", "## 0.2.0 (", "First release.", "estoria-core-v0.2.0"):
        assert part in done.stdout
    assert "until their pins move: estoria-" in done.stdout
    assert clone.git("rev-parse", "HEAD") == before
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("tag") == ""


def test_a_backend_waits_for_the_core_that_it_pins(clone):
    refused = clone.release("sqlite", "patch")
    assert refused.returncode == 1
    assert "release core first" in refused.stderr

    clone.release("core", "patch")
    done = clone.release("sqlite", "patch")

    assert done.returncode == 0, done.stderr
    assert "satisfied by core 0.1.1" in done.stdout
    assert clone.git("tag", "--points-at", "HEAD") == "estoria-sqlite-v0.1.1"


def test_a_pin_that_this_core_doesn_t_satisfy_is_refused(clone):
    clone.release("core", "minor")

    done = clone.release("sqlite", "patch")

    assert done.returncode == 1
    assert "core at this commit doesn't satisfy" in done.stderr


def test_a_pin_without_an_upper_bound_is_refused(clone):
    clone.release("core", "patch")
    clone.change("sqlite", "pyproject.toml", "estoria-core>=0.1,<0.2", "estoria-core>=0.1")

    done = clone.release("sqlite", "patch")

    assert done.returncode == 1
    assert "bounds" in done.stderr


def test_nothing_is_written_when_it_is_refused(clone):
    clone.release("core", "patch")
    tagged = clone.git("rev-parse", "HEAD")
    clone.path("core", "README.md").write_text("unfinished")
    assert "isn't clean" in clone.release("sqlite", "patch").stderr
    clone.git("checkout", "--quiet", ".")
    assert "nothing in changes" in clone.release("core", "patch").stderr
    assert "no package" in clone.release("oracle", "patch").stderr
    clone.note("core")
    clone.git("tag", "estoria-core-v0.1.2")
    assert "exists already" in clone.release("core", "patch").stderr

    assert clone.version("core") == "0.1.1"
    assert clone.git("rev-parse", "HEAD~1") == tagged


def test_a_commit_that_fails_leaves_the_tree_as_it_was(clone):
    hook = clone.root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)

    assert clone.release("core", "patch").returncode == 1

    assert clone.version("core") == "0.1.0"
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("tag") == ""


def test_a_tag_is_verified_against_the_version(clone):
    clone.release("core", "patch")

    done = clone.release("--verify", "estoria-core-v0.1.1")
    assert (done.returncode, done.stdout) == (0, "estoria-core\n")
    for tag, reason in (
        ("estoria-core-v0.2.0", "has version 0.1.1"),
        ("v0.1.1", "no tag"),
        ("estoria-oracle-v0.1.1", "no package"),
    ):
        done = clone.release("--verify", tag)
        assert done.returncode == 1
        assert reason in done.stderr
