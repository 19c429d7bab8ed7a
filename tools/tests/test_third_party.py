"""A backend of somebody else's, with nothing but what core publishes."""

import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).with_name("third_party")
WHEELS = runpy.run_path(str(ROOT / "tools" / "wheels.py"))


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An interpreter with core's wheel, the suite and their wheel; no file of the repository."""
    folder = tmp_path_factory.mktemp("third_party")
    for source in (ROOT / "packages" / "estoria-core", HERE):
        command = ["uv", "build", "--quiet", "--wheel", "--out-dir", folder, source]
        subprocess.run(command, check=True, env=WHEELS["clean_environ"]())
    (core,) = folder.glob("estoria_core-*.whl")
    (theirs,) = folder.glob("acme_estoria_files-*.whl")
    return WHEELS["environment"](folder / "venv", f"{core}[testing]", str(theirs), "rich")


def run(python, *command, cwd):
    return subprocess.run(
        [python, "-I", *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=WHEELS["clean_environ"](),
    )


def test_it_passes_the_suite_without_any_setting(python, tmp_path):
    (tmp_path / "test_acceptance.py").write_text((HERE / "tests/test_acceptance.py").read_text())

    done = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path), cwd=tmp_path)

    assert done.returncode == 0, done.stdout[-5_000:]
    assert "skipped" not in done.stdout


def test_its_scheme_is_found_and_runs_the_demonstration(python, tmp_path):
    ledger = ROOT / "packages" / "estoria-sqlite" / "examples" / "ledger.py"

    done = run(python, str(ledger), f"acme-files://{tmp_path}/ledger.jsonl", cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "proved" in done.stdout
    assert (tmp_path / "ledger.jsonl").stat().st_size > 100_000


def test_no_backend_of_ours_is_there(python, tmp_path):
    program = "import estoria, os; print(*(os.listdir(path) for path in estoria.__path__))"

    assert run(python, "-c", program, cwd=tmp_path).stdout == "['core']\n"
