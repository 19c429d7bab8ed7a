"""``python tools/release.py PACKAGE (patch|minor|major) [--dry-run]``: release one package.

Bumps the package's static version, builds its changelog from its ``changes/`` fragments, commits
both and tags the commit ``estoria-PACKAGE-vX.Y.Z``; pushing the tag publishes it. Everything is
checked before anything is written: the tree is clean, the tag is new, there are fragments, and a
backend's pin admits a core that was released. `--dry-run` shows it all and writes nothing.

``python tools/release.py --verify TAG`` prints the package that a tag releases, 1 if the tag is
none or the package at this commit has another version.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
CORE = "estoria-core"
PARTS = ("patch", "minor", "major")
TAG = re.compile(r"(estoria-[a-z0-9-]+)-v(\d+\.\d+\.\d+)")


class Refused(Exception):  # noqa: N818 - it is no error of the program
    """Why nothing is released; nothing was written."""


def main() -> int:
    """Release, or verify a tag; 1 with the reason if that can't be done."""
    parser = argparse.ArgumentParser(prog="python tools/release.py", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("package", nargs="?", help="its name, with or without 'estoria-'")
    parser.add_argument("part", nargs="?", choices=PARTS, help="which number goes up")
    parser.add_argument("--dry-run", action="store_true", help="show it all, write nothing")
    parser.add_argument("--verify", metavar="TAG", help="print the package that the tag releases")
    arguments = parser.parse_args()
    try:
        if arguments.verify:
            say(verify(ROOT, arguments.verify))
        elif arguments.package and arguments.part:
            release(ROOT, arguments.package, arguments.part, dry_run=arguments.dry_run)
        else:
            parser.error("name a package and a part, or --verify a tag")
    except Refused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)  # noqa: T201 - a command speaks
        return 1
    return 0


def release(root: Path, name: str, part: str, *, dry_run: bool) -> None:
    """Bump, build the changelog, commit and tag; raises `Refused` before anything is written."""
    name = f"estoria-{name.removeprefix('estoria-')}"
    package = find(root, name)
    old = version_of(package)
    new = bumped(old, part)
    tag = f"{name}-v{new}"
    if git(root, "status", "--porcelain"):
        raise Refused("the tree isn't clean: commit or stash what is there")
    if git(root, "tag", "--list", tag):
        raise Refused(f"{tag} exists already")
    if not any(path for path in (package / "changes").glob("*.md")):
        raise Refused(f"{name} has nothing in changes/: there is nothing to release")
    notes = check_pins(root, name, new)
    changelog = towncrier(root, package, new, "--draft")
    say(f"{name} {old} -> {new}", changelog.strip(), *notes, f"commit '{name} {new}', tag {tag}")
    if dry_run:
        say("nothing was written")
        return
    try:
        write_version(package, old, new)
        towncrier(root, package, new, "--yes")
        git(root, "add", "--all", str(package))
        git(root, "commit", "--quiet", "-m", f"{name} {new}")
    except BaseException:
        git(root, "reset", "--quiet", "--hard", "HEAD")
        raise
    git(root, "tag", "--annotate", "-m", f"{name} {new}", tag)
    say(f"now: git push origin HEAD {tag}")


def verify(root: Path, tag: str) -> str:
    """The package that this tag releases; raises `Refused` if it has another version here."""
    match = TAG.fullmatch(tag)
    if match is None:
        raise Refused(f"{tag} is no tag of a release: they read estoria-PACKAGE-vX.Y.Z")
    name, version = match.groups()
    found = version_of(find(root, name))
    if str(found) != version:
        raise Refused(f"{tag}, but {name} has version {found} at this commit")
    return name


def find(root: Path, name: str) -> Path:
    """The folder of a published package."""
    package = root / "packages" / name
    if not (package / "pyproject.toml").exists():
        known = sorted(path.name for path in (root / "packages").iterdir())
        raise Refused(f"there is no package {name}: there are {', '.join(known)}")
    return package


def project_of(package: Path) -> dict[str, object]:
    """The table ``project`` of its pyproject.toml."""
    project: dict[str, object] = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    return project


def version_of(package: Path) -> Version:
    """Its static version."""
    return Version(str(project_of(package)["version"]))


def bumped(version: Version, part: str) -> Version:
    """The next version; the numbers below the part start again."""
    numbers = [version.major, version.minor, version.micro]
    place = 2 - PARTS.index(part)
    numbers[place] += 1
    return Version(".".join(map(str, [*numbers[: place + 1], 0, 0][:3])))


def check_pins(root: Path, name: str, new: Version) -> list[str]:
    """What is to be said of the pins on core; raises `Refused` for one that won't do."""
    if name == CORE:
        behind = [
            package.name
            for package in sorted((root / "packages").iterdir())
            if package.name != CORE and new not in pin_of(package).specifier
        ]
        return [f"released against an older core, until their pins move: {', '.join(behind)}"] * (
            len(behind) > 0
        )
    pin = pin_of(root / "packages" / name)
    if version_of(root / "packages" / CORE) not in pin.specifier:
        raise Refused(f"{name} pins {pin}, which core at this commit doesn't satisfy")
    released = [
        Version(tag.removeprefix(f"{CORE}-v"))
        for tag in git(root, "tag", "--list", f"{CORE}-v*").split()
    ]
    if not any(version in pin.specifier for version in released):
        raise Refused(f"{name} pins {pin}, and no such core is released: release core first")
    return [f"{pin} is satisfied by core {max(v for v in released if v in pin.specifier)}"]


def pin_of(package: Path) -> Requirement:
    """The requirement on core: bounded below and above."""
    dependencies = project_of(package)["dependencies"]
    assert isinstance(dependencies, list)
    for text in dependencies:
        requirement = Requirement(text)
        if requirement.name == CORE:
            operators = {specifier.operator for specifier in requirement.specifier}
            if operators != {">=", "<"}:
                raise Refused(f"{package.name} pins {requirement}: write >= and < bounds")
            return requirement
    raise Refused(f"{package.name} doesn't depend on {CORE}")


def write_version(package: Path, old: Version, new: Version) -> None:
    """Put the new version in the place of the old one."""
    path = package / "pyproject.toml"
    line = f'version = "{old}"\n'
    text = path.read_text()
    assert text.count(line) == 1, f"{path} has not one line {line!r}"
    path.write_text(text.replace(line, f'version = "{new}"\n'))


def towncrier(root: Path, package: Path, version: Version, option: str) -> str:
    """Build the changelog of the package, or draft it."""
    config = root / "tools" / "towncrier.toml"
    command = [sys.executable, "-m", "towncrier", "build", option, "--version", str(version)]
    command += ["--name", package.name, "--config", str(config), "--dir", str(package)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"the changelog can't be built: {done.stderr.strip()}")
    return done.stdout


def git(root: Path, *arguments: str) -> str:
    """What git answers."""
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def say(*lines: str) -> None:
    """Print the lines."""
    print(*lines, sep="\n", flush=True)  # noqa: T201 - a command speaks


if __name__ == "__main__":
    sys.exit(main())
