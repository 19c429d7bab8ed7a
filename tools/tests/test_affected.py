"""What a change touches."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
affected = runpy.run_path(str(ROOT / "tools" / "affected.py"))["affected"]
PACKAGES = ["estoria-core", "estoria-postgres", "estoria-sqlite"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["packages/estoria-sqlite/src/estoria/sqlite/_schema.py"], ["estoria-sqlite"]),
        (["packages/estoria-sqlite-x/y.py", "README.md"], []),
        (["packages/estoria-core/README.md"], PACKAGES),
        (["tools/pytest.toml"], PACKAGES),
        (["hatch.toml"], PACKAGES),
        ([".github/workflows/ci.yml"], PACKAGES),
        ([], []),
    ],
)
def test_what_all_stand_on_touches_all(files, expected):
    assert affected(files, PACKAGES) == expected
