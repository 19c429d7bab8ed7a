"""The layout guard finds each breach, and nothing in the repository as it is."""

import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LAYOUT = runpy.run_path(str(ROOT / "tools" / "layout.py"))
PACKAGES = LAYOUT["packages"](ROOT)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_repository_keeps_the_rules(package):
    assert list(LAYOUT["check"](package)) == []


@pytest.fixture
def package(tmp_path):
    """A copy of the SQLite package, to be broken."""
    target = tmp_path / "estoria-sqlite"
    ignore = shutil.ignore_patterns("__pycache__", "examples")
    shutil.copytree(ROOT / "packages" / "estoria-sqlite", target, ignore=ignore)
    return target


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def add_init(package):
    (package / "src" / "estoria" / "__init__.py").touch()


def lose_py_typed(package):
    (package / "src" / "estoria" / "sqlite" / "py.typed").unlink()


def own_another_leaf(package):
    (package / "src" / "estoria" / "helpers").mkdir()


def lose_changelog(package):
    (package / "CHANGELOG.md").unlink()


def swap_keys(package):
    path = package / "pyproject.toml"
    replace(path, 'readme = "README.md"\n', "")
    replace(path, 'license = "MIT"\n', 'license = "MIT"\nreadme = "README.md"\n')


def add_a_key(package):
    replace(package / "pyproject.toml", 'license = "MIT"\n', 'license = "MIT"\nauthors = []\n')


def import_a_backend(package):
    path = package / "src" / "estoria" / "sqlite" / "_errors.py"
    path.write_text(path.read_text() + "\nfrom estoria.postgres import PostgresEventStore\n")


def import_the_namespace(package):
    path = package / "src" / "estoria" / "sqlite" / "_errors.py"
    path.write_text(path.read_text() + "\nfrom estoria import redis\n")


def import_what_is_private(package):
    path = package / "src" / "estoria" / "sqlite" / "_errors.py"
    path.write_text(path.read_text() + "\nfrom estoria.core._checks import check_count\n")


def skip_a_suite(package):
    replace(package / "tests" / "test_acceptance.py", "    StreamListerAcceptance,\n", "")


def skip_the_suite_of_one_store(package):
    replace(
        package / "tests" / "test_acceptance.py", "(CheckpointStoreAcceptance)", "(SnapshotStore)"
    )


def waive_silently(package):
    replace(
        package / "tests" / "test_acceptance.py",
        "class TestSQLiteSnapshotStore(SnapshotStoreAcceptance):\n",
        "class TestSQLiteSnapshotStore(SnapshotStoreAcceptance):\n"
        '    waived = {"test_the_newest_comes_first": "because"}\n\n',
    )


@pytest.mark.parametrize(
    ("breach", "said"),
    [
        (add_init, "breaks every other package"),
        (lose_py_typed, "py.typed"),
        (own_another_leaf, "not estoria-sqlite's to own"),
        (lose_changelog, "CHANGELOG"),
        (swap_keys, "order"),
        (add_a_key, "authors"),
        (import_a_backend, "only core may be imported"),
        (import_the_namespace, "only core may be imported"),
        (import_what_is_private, "private to core"),
        (skip_a_suite, "SQLiteEventStore is a StreamLister without StreamListerAcceptance"),
        (skip_the_suite_of_one_store, "SQLiteCheckpointStore is a CheckpointStore without"),
        (waive_silently, "test_the_newest_comes_first"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_breach_is_found(package, breach, said):
    assert list(LAYOUT["check"](package)) == []

    breach(package)

    (found,) = LAYOUT["check"](package)
    assert said in found
