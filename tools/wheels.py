"""``hatch run wheels [--core REQUIREMENT] [--built] [PACKAGE...]``: what is published, alone.

Builds a wheel and an sdist of each package. Then, for every package: its wheel and core's, alone
in a fresh environment, give that package and no other backend; and the tests from its sdist pass
against the installed wheel, beside what its group ``test`` names. 1 if anything fails.

With ``--core``, such as ``--core estoria-core``, core comes from where that requirement finds it,
and not from here: a released one, say. With ``--built`` nothing is built, and ``dist`` is taken
as it lies: a released backend beside the core that is here, say.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = "estoria-core"
ALONE = """
import importlib, pkgutil, estoria
found = sorted(module.name for module in pkgutil.iter_modules(estoria.__path__))
assert found == {expected}, found
for name in found:
    importlib.import_module(f"estoria.{{name}}")
"""
"""Run by an interpreter that knows of nothing but what is installed."""


def main() -> int:
    """Build and try the packages that were named, or all; 1 if one fails."""
    parser = argparse.ArgumentParser(prog="hatch run wheels", description=__doc__)
    parser.add_argument("package", nargs="*", help="its name; all of them by default")
    parser.add_argument("--core", help="where core comes from; the wheel that is built by default")
    parser.add_argument("--built", action="store_true", help="take what lies in dist")
    arguments = parser.parse_args()
    names = arguments.package or sorted(path.name for path in (ROOT / "packages").iterdir())
    dist = ROOT / "dist"
    if not arguments.built:
        shutil.rmtree(dist, ignore_errors=True)
        run("hatch", "--no-interactive", "build", "--all")
    core = arguments.core or str(wheel(CORE, dist))
    archives = [str(path) for name in names for path in dist.glob(f"{file_name(name)}-*")]
    run("twine", "check", "--strict", *archives)
    failed = []
    for name in names:
        say(name)
        faults = list(check_contents(name, dist))
        with tempfile.TemporaryDirectory() as folder:
            faults += check_alone(name, core, dist, Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            faults += check_tests(name, core, dist, Path(folder))
        for fault in faults:
            say(f"{name}: {fault}")
        if faults:
            failed.append(name)
    say(f"failed: {', '.join(failed)}" if failed else f"each of {', '.join(names)} stands alone")
    return 1 if failed else 0


def check_contents(name: str, dist: Path) -> Iterator[str]:
    """A wheel holds its leaf of the namespace, typed, and nothing else of it."""
    leaf = f"estoria/{name.removeprefix('estoria-')}/"
    with zipfile.ZipFile(wheel(name, dist)) as archive:
        files = archive.namelist()
    if leaf + "py.typed" not in files:
        yield f"the wheel has no {leaf}py.typed"
    for file in files:
        if not file.startswith(leaf) and ".dist-info/" not in file:
            yield f"the wheel holds {file}"
    with tarfile.open(sdist(name, dist)) as archive:
        roots = {Path(*Path(member.name).parts[1:2]).name for member in archive.getmembers()}
    allowed = {"src", "tests", "CHANGELOG.md", "README.md", "LICENSE", "pyproject.toml"}
    allowed |= {"PKG-INFO", ".gitignore"}
    for odd in sorted(roots - allowed):
        yield f"the sdist holds {odd}"


def check_alone(name: str, core: str, dist: Path, folder: Path) -> Iterator[str]:
    """The wheel and core's, and of the repository nothing else."""
    python = environment(folder / "venv", *own_wheels(name, core, dist))
    expected = sorted({"core", name.removeprefix("estoria-")})
    if call(python, "-I", "-c", ALONE.format(expected=expected)):
        yield "its wheel isn't what it says when it is alone"


def check_tests(name: str, core: str, dist: Path, folder: Path) -> Iterator[str]:
    """The sdist's tests, with nothing of its sources in reach, against the wheel."""
    with tarfile.open(sdist(name, dist)) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.glob(f"{file_name(name)}-*")
    shutil.move(unpacked / "tests", folder / "tests")
    group = tomllib.loads((unpacked / "pyproject.toml").read_text())["dependency-groups"]["test"]
    own = own_wheels(name, core, dist)
    if "estoria-testservers" in group:
        own.append(str(wheel("estoria-testservers", dist)))
    python = environment(folder / "venv", *own, "--group", f"{unpacked / 'pyproject.toml'}:test")
    shutil.rmtree(unpacked)
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", str(folder)]
    if call(python, "-m", "pytest", *options, str(folder / "tests"), cwd=folder):
        yield "the tests from its sdist fail against its wheel"


def own_wheels(name: str, core: str, dist: Path) -> list[str]:
    """The package's wheel and core."""
    return [core] if name == CORE else [core, str(wheel(name, dist))]


def wheel(name: str, dist: Path) -> Path:
    """The package's one wheel."""
    (found,) = dist.glob(f"{file_name(name)}-*.whl")
    return found


def sdist(name: str, dist: Path) -> Path:
    """The package's one sdist."""
    (found,) = dist.glob(f"{file_name(name)}-*.tar.gz")
    return found


def file_name(name: str) -> str:
    """The package's name as archives spell it."""
    return name.replace("-", "_")


def environment(folder: Path, *requirements: str) -> str:
    """The interpreter of a new environment that holds these requirements and what they need."""
    run("uv", "venv", "--quiet", "--python", sys.executable, str(folder))
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    run("uv", "pip", "install", "--quiet", "--python", python, *requirements)
    return python


def run(*command: str) -> None:
    """Run a program; `subprocess.CalledProcessError` if it fails."""
    subprocess.run(command, check=True, cwd=ROOT, env=clean_environ())


def call(*command: str, cwd: Path | None = None) -> int:
    """Run a program for its exit status, outside of the repository."""
    return subprocess.run(
        command, check=False, cwd=cwd or tempfile.gettempdir(), env=clean_environ()
    ).returncode


def clean_environ() -> dict[str, str]:
    """This process's environment, without what ties it to the environment that it runs in."""
    tied = ("HATCH_ENV", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(tied)}


def say(text: str) -> None:
    """Print at once, before what the tests print."""
    print(f"== {text}", flush=True)  # noqa: T201 - what the command is for


if __name__ == "__main__":
    sys.exit(main())
