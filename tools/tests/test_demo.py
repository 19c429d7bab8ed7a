"""The demonstration runs as a newcomer runs it, and its proof can fail."""

import runpy
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from estoria.core import connect, uuid7

LEDGER = Path(__file__).resolve().parents[2] / "packages" / "estoria-sqlite/examples/ledger.py"
QUIET = Console(quiet=True)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def ledger():
    return runpy.run_path(str(LEDGER))


def demo(*arguments):
    command = [sys.executable, str(LEDGER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_proves_its_own_result():
    done = demo()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3397 transactions booked, 591 refused" in done.stdout
    assert done.stdout.count("skipped") == 12
    assert "line 2021 skipped: 'withdrawl' is no kind of transaction" in done.stdout
    assert "3 attempts" in done.stdout
    assert "proved" in done.stdout


def test_it_runs_twice_on_one_file(tmp_path):
    for _ in range(2):
        done = demo(f"sqlite:///{tmp_path}/ledger.db")
        assert done.returncode == 0, done.stdout


def test_it_says_what_is_wrong_with_a_url():
    assert "can't be opened again" in demo("memory://").stdout
    done = demo("oracle://me:secret@host")
    assert done.returncode == 1
    assert "UnknownSchemeError" in done.stdout
    assert "secret" not in done.stdout


@pytest.mark.anyio
async def test_the_proof_finds_an_event_too_many(ledger):
    async with connect("memory://") as store:
        bank = ledger["Bank"](store, uuid7())
        booked, refused, malformed = await ledger["book_all"](bank, QUIET)
        assert (booked + refused + len(malformed)) == 4_000
        expected = ledger["balances_from_the_file"]()
        assert await ledger["differences"](bank, expected, QUIET) == []

        deposit = ledger["deposit"](Decimal("0.01"), "too much", ledger["date"](2024, 1, 1))
        await bank.accounts.execute(bank.id_of("ACC-0001"), deposit)

        (difference,) = await ledger["differences"](bank, expected, QUIET)
        assert difference.startswith("ACC-0001")
