"""``python tools/affected.py [BASE]``: the packages to test, as a JSON array.

Those that changed since the commit BASE; all of them when something changed that all stand on
(core, the tools, the environments), or without a BASE.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ("packages/estoria-core/", "tools/", ".github/", "hatch.toml")


def main() -> int:
    """Print them."""
    packages = sorted(path.name for path in (ROOT / "packages").iterdir())
    base = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = affected(changed(base), packages) if base.strip("0") else packages
    print(json.dumps(chosen))  # noqa: T201 - what the command is for
    return 0


def changed(base: str) -> list[str]:
    """The files that differ from the commit where this branch left BASE."""
    command = ["git", "diff", "--name-only", f"{base}...HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def affected(files: Iterable[str], packages: list[str]) -> list[str]:
    """The packages that a change of these files touches."""
    files = list(files)
    if any(file.startswith(SHARED) for file in files):
        return packages
    return [name for name in packages if any(f.startswith(f"packages/{name}/") for f in files)]


if __name__ == "__main__":
    sys.exit(main())
