"""A ledger of bank accounts: `ledger.py [URL]`.

Reads the transactions in ledger.csv, runs each as a command on event-sourced accounts, shows
one account's history, lets two writers collide, and at last opens the store again and holds
its balances against sums taken straight from the file. Without a URL, in a SQLite file of its
own; with one, in whatever store is there, beside whatever that holds.
"""

import asyncio
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from uuid import UUID, uuid5

from rich.console import Console
from rich.progress import track
from rich.table import Table

from estoria.core import (
    Aggregate,
    EstoriaError,
    EventSourcedStore,
    EventStore,
    TypeID,
    connect,
    uuid7,
)

LEDGER = Path(__file__).with_name("ledger.csv")
CENT = Decimal("0.01")


@dataclass(frozen=True)
class Account:
    """The state of an account."""

    balance: Decimal = Decimal("0.00")
    entries: int = 0


@dataclass(frozen=True)
class Deposited:
    """Money came in."""

    amount: Decimal
    note: str
    booked: date

    def apply_to(self, account: Account) -> Account:
        """A higher balance."""
        return Account(account.balance + self.amount, account.entries + 1)


@dataclass(frozen=True)
class Withdrawn:
    """Money went out."""

    amount: Decimal
    note: str
    booked: date

    def apply_to(self, account: Account) -> Account:
        """A lower balance."""
        return Account(account.balance - self.amount, account.entries + 1)


class InsufficientFundsError(Exception):
    """The account doesn't hold what should be taken from it."""


class Transaction(NamedTuple):
    """One line of the ledger."""

    line: int
    booked: date
    kind: str
    account: str
    to: str
    amount: Decimal
    note: str


class Malformed(NamedTuple):
    """A line that can't be read, and why."""

    line: int
    fault: str


def read_ledger(path: Path) -> Iterator[Transaction | Malformed]:
    """Every line after the heading."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        for row in rows:
            try:
                yield parse(rows.line_num, row)
            except ValueError as error:
                yield Malformed(rows.line_num, str(error))


def parse(line: int, row: list[str]) -> Transaction:
    """The transaction in this row; `ValueError` says what is wrong with it."""
    if len(row) != 6:
        raise ValueError(f"it has {len(row)} columns, not 6")
    booked, kind, account, to, amount, note = row
    if kind not in ("deposit", "withdrawal", "transfer"):
        raise ValueError(f"{kind!r} is no kind of transaction")
    if not account:
        raise ValueError("it names no account")
    if kind == "transfer" and to in ("", account):
        raise ValueError("a transfer goes to another account")
    whole, point, cents = amount.partition(".")
    if not (whole.isdecimal() and cents.isdecimal() and point and len(cents) == 2):
        raise ValueError(f"{amount!r} is no amount like 12.50")
    if not Decimal(amount):
        raise ValueError("it moves nothing")
    return Transaction(line, date.fromisoformat(booked), kind, account, to, Decimal(amount), note)


def deposit(amount: Decimal, note: str, booked: date) -> Callable[[Aggregate[Account]], None]:
    """The command that books money in."""
    return lambda account: account.append(Deposited(amount, note, booked))


def withdraw(amount: Decimal, note: str, booked: date) -> Callable[[Aggregate[Account]], None]:
    """The command that books money out, if there is enough."""

    def command(account: Aggregate[Account]) -> None:
        if account.state.balance < amount:
            raise InsufficientFundsError
        account.append(Withdrawn(amount, note, booked))

    return command


class Bank:
    """The accounts of one run, so that a store may be used for many."""

    def __init__(self, store: EventStore, run: UUID) -> None:
        self.accounts = EventSourcedStore(store, "account", Account, events=[Deposited, Withdrawn])
        self._run = run

    def id_of(self, name: str) -> TypeID:
        """The identity that an account of this name has in this run."""
        return TypeID("account", uuid5(self._run, name))

    async def book(self, transaction: Transaction) -> None:
        """Run the transaction; raises `InsufficientFundsError` when it must be refused."""
        _, booked, kind, account, to, amount, note = transaction
        if kind == "deposit":
            await self.accounts.execute(self.id_of(account), deposit(amount, note, booked))
            return
        await self.accounts.execute(self.id_of(account), withdraw(amount, note, booked))
        if kind == "transfer":
            await self.accounts.execute(self.id_of(to), deposit(amount, note, booked))


async def book_all(bank: Bank, console: Console) -> tuple[int, int, list[Malformed]]:
    """Book the whole ledger; how many were booked and refused, and what couldn't be read."""
    booked = refused = 0
    malformed = []
    for entry in track(list(read_ledger(LEDGER)), "booking", console=console):
        if isinstance(entry, Malformed):
            malformed.append(entry)
            continue
        try:
            await bank.book(entry)
            booked += 1
        except InsufficientFundsError:
            refused += 1
    return booked, refused, malformed


async def show_history(store: EventStore, bank: Bank, name: str, console: Console) -> None:
    """One account: its last events as they are stored, and its state half-way."""
    table = Table("version", "event", "data", "written", title=f"the last events of {name}")
    async for event in store.read_stream(bank.id_of(name), reverse=True, count=6):
        moment = f"{event.timestamp:%H:%M:%S.%f}"
        table.add_row(str(event.stream_version), event.type, event.data.decode(), moment)
    console.print(table)
    now = await bank.accounts.load(bank.id_of(name))
    then = await bank.accounts.load(now.id, to_version=now.version // 2)
    for account in (then, now):
        console.print(f"at version {account.version}, {name} held {account.state.balance}")


async def collide(bank: Bank, name: str, console: Console) -> None:
    """Two writers decide on the same state; one is refused, decides again, and both succeed."""
    attempts = 0
    both_have_loaded = asyncio.Event()

    async def pay_in(account: Aggregate[Account]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            both_have_loaded.set()
        await both_have_loaded.wait()
        account.append(Deposited(CENT, "collision", date(2024, 12, 31)))

    id = bank.id_of(name)
    before = (await bank.accounts.load(id)).version
    await asyncio.gather(bank.accounts.execute(id, pay_in), bank.accounts.execute(id, pay_in))
    after = (await bank.accounts.load(id)).version
    console.print(
        f"two writers collided on {name}: {attempts} attempts, version {before} -> {after}"
    )


def balances_from_the_file() -> dict[str, Decimal]:
    """What the accounts must hold, without any event."""
    balances: dict[str, Decimal] = {}
    for entry in read_ledger(LEDGER):
        if isinstance(entry, Malformed):
            continue
        if entry.kind != "deposit":
            if balances.get(entry.account, Decimal(0)) < entry.amount:
                continue
            balances[entry.account] -= entry.amount
        if entry.kind != "withdrawal":
            account = entry.to if entry.kind == "transfer" else entry.account
            balances[account] = balances.get(account, Decimal(0)) + entry.amount
    return balances


async def differences(bank: Bank, expected: dict[str, Decimal], console: Console) -> list[str]:
    """The accounts whose replayed events say something else than the file."""
    different = []
    for name, balance in track(expected.items(), "checking", console=console):
        account = await bank.accounts.load(bank.id_of(name))
        if account.state.balance != balance:
            different.append(f"{name} holds {account.state.balance}, the file says {balance}")
    return different


async def run(url: str, console: Console) -> int:
    """The whole demonstration; 1 when the store doesn't agree with the file."""
    this_run = uuid7()
    async with connect(url) as store:
        await store.setup()
        bank = Bank(store, this_run)
        booked, refused, malformed = await book_all(bank, console)
        console.print(f"{booked} transactions booked, {refused} refused for lack of funds")
        for line, fault in malformed:
            console.print(f"line {line} skipped: {fault}", highlight=False)
        expected = balances_from_the_file()
        busiest = max(expected, key=lambda name: (expected[name], name))
        await collide(bank, busiest, console)
        expected[busiest] += 2 * CENT
        await show_history(store, bank, busiest, console)
    async with connect(url) as store:
        different = await differences(Bank(store, this_run), expected, console)
    for difference in different:
        console.print(f"[red]{difference}[/]")
    if not different:
        total = sum(expected.values())
        console.print(
            f"[green]proved:[/] {len(expected)} accounts, {total} in all, "
            "replayed from the reopened store, agree with the file to the cent"
        )
    return 1 if different else 0


def main() -> int:
    """Run on the URL that was given, or on a file that goes away afterwards."""
    console = Console()
    if len(sys.argv) > 2:
        console.print("usage: ledger.py [URL]")
        return 2
    if sys.argv[1:] and sys.argv[1].startswith("memory:"):
        console.print("a store in memory can't be opened again: name one that keeps its events")
        return 2
    try:
        if sys.argv[1:]:
            return asyncio.run(run(sys.argv[1], console))
        with TemporaryDirectory() as folder:
            file = Path(folder) / "ledger.db"
            console.print(f"events go to {file}, and away with it afterwards")
            return asyncio.run(run(f"sqlite:///{file}", console))
    except EstoriaError as error:
        console.print(f"[red]{type(error).__name__}:[/] {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
