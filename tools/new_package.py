"""``python tools/new_package.py NAME``: the beginning of a backend package.

Makes ``packages/estoria-NAME`` of the shape that all have, passing the layout guard, with an event
store whose acceptance tests run and fail until it is written. Tells mypy and hatch of it.
"""

import re
import shutil
import sys
import tomllib
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[a-z][a-z0-9]*")


def main() -> int:
    """Make the package; 1 if the name won't do."""
    if len(sys.argv) != 2 or NAME.fullmatch(sys.argv[1]) is None:
        print(__doc__ + "\nNAME is lower-case letters and digits.", file=sys.stderr)  # noqa: T201 - a command speaks
        return 1
    leaf = sys.argv[1]
    package = ROOT / "packages" / f"estoria-{leaf}"
    if package.exists():
        print(f"{package} is there already", file=sys.stderr)  # noqa: T201 - a command speaks
        return 1
    make(package, leaf)
    tell_mypy(leaf)
    tell_hatch(leaf)
    print(f"{package}: now hatch env prune, and hatch run test packages/{package.name}")  # noqa: T201 - a command speaks
    return 0


def make(package: Path, leaf: str) -> None:
    """Fill the template's files in."""
    template = ROOT / "tools" / "template"
    words = {"leaf": leaf, "title": leaf.capitalize(), "pin": pin()}
    for source in sorted(template.rglob("*.txt")):
        place = source.relative_to(template).with_suffix("")
        if place.parts[0] == "src":
            place = Path("src", "estoria", leaf, *place.parts[1:])
        target = package / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(source.read_text()).substitute(words))
    shutil.copy(ROOT / "LICENSE", package / "LICENSE")


def pin() -> str:
    """The requirement on the core that is here."""
    project = tomllib.loads((ROOT / "packages/estoria-core/pyproject.toml").read_text())["project"]
    major, minor, _ = map(int, project["version"].split("."))
    after = f"0.{minor + 1}" if major == 0 else f"{major + 1}"
    return f"estoria-core>={major}.{minor},<{after}"


def tell_mypy(leaf: str) -> None:
    """Add the package's sources to what mypy checks."""
    path = ROOT / "tools" / "mypy.ini"
    text = path.read_text()
    core = "    packages/estoria-core/src"
    for end in (":", ","):
        line = f"{core}{end}\n"
        assert text.count(line) == 1, f"{path} has not one line {line!r}"
        text = text.replace(line, line + f"    packages/estoria-{leaf}/src{end}\n")
    path.write_text(text)


def tell_hatch(leaf: str) -> None:
    """Add the package to the members, unless the pattern for all of them matches its name."""
    if not leaf.startswith("c"):
        return
    path = ROOT / "hatch.toml"
    line = '  "packages/estoria-[!c]*",\n'
    text = path.read_text()
    assert text.count(line) == 1, f"{path} has not one line {line!r}"
    path.write_text(text.replace(line, line + f'  "packages/estoria-{leaf}",\n'))


if __name__ == "__main__":
    sys.exit(main())
