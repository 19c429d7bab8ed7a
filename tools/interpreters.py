"""``hatch run all``: the tests on every interpreter from 3.11 to 3.14 that is installed.

Looks on PATH and in pyenv's folder; an interpreter that isn't there is named, never
downloaded. Arguments go to pytest.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")


def main() -> int:
    """Run the tests on each interpreter; 1 if they fail on one of them."""
    failed = []
    for version in VERSIONS:
        interpreter = find(version)
        if interpreter is None:
            say(f"Python {version}: not installed, left out")
            continue
        say(f"Python {version}: {interpreter}")
        path = os.pathsep.join([str(interpreter.parent), os.environ["PATH"]])
        command = ["hatch", "--no-interactive", "run", f"matrix.py{version}:test", *sys.argv[1:]]
        environment = {name: value for name, value in os.environ.items() if "HATCH_ENV" not in name}
        if subprocess.run(command, env={**environment, "PATH": path}, check=False).returncode:
            failed.append(version)
    say(f"failed on {', '.join(failed)}" if failed else "passed on each of them")
    return 1 if failed else 0


def find(version: str) -> Path | None:
    """The real interpreter of this version, or None."""
    candidates = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += sorted(map(str, pyenv.glob(f"{version}.*/bin/python{version}")))
    for candidate in filter(None, candidates):
        # A shim of pyenv's is there for versions that can't be run.
        program = [candidate, "-c", "import sys; print(sys.base_prefix)"]
        answer = subprocess.run(program, capture_output=True, text=True, check=False)
        interpreter = Path(answer.stdout.strip()) / "bin" / f"python{version}"
        if answer.returncode == 0 and interpreter.exists():
            return interpreter
    return None


def say(text: str) -> None:
    """Print at once, before what the tests print."""
    print(f"== {text}", flush=True)  # noqa: T201 - what the command is for


if __name__ == "__main__":
    sys.exit(main())
