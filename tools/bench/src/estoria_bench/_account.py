"""The aggregate that is loaded."""

import msgspec

from estoria.core import NewEvent


class Account(msgspec.Struct, frozen=True):
    """The state: a balance, and how many entries led to it."""

    owner: str = ""
    balance: int = 0
    entries: int = 0


class Opened(msgspec.Struct, frozen=True):
    """The first event."""

    owner: str

    def apply_to(self, account: Account) -> Account:
        """An account of this owner."""
        return Account(self.owner, account.balance, account.entries)


class Deposited(msgspec.Struct, frozen=True):
    """Every other event."""

    amount: int
    note: str

    def apply_to(self, account: Account) -> Account:
        """A higher balance, one more entry."""
        return Account(account.owner, account.balance + self.amount, account.entries + 1)


def account_events(count: int) -> list[NewEvent]:
    """A history of so many events."""
    events = [NewEvent("Opened", msgspec.json.encode(Opened("me")), "application/json")]
    for amount in range(1, count):
        data = msgspec.json.encode(Deposited(amount, "note"))
        events.append(NewEvent("Deposited", data, "application/json"))
    return events


def sample_events(count: int, *, size: int = 100) -> list[NewEvent]:
    """Events to append: payloads of so many bytes, and one key of metadata."""
    data = b'{"note":"%s"}' % (b"x" * (size - 11))
    return [NewEvent("happened", data, "application/json", {"who": "me"}) for _ in range(count)]
