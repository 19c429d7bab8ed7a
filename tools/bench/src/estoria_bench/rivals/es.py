"""The PyPI package ``eventsourcing``, on its own stores, in its default mode."""

from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event


class Account(Aggregate):
    """The same account, in that library's own style."""

    @event("Opened")
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.balance = 0
        self.entries = 0

    @event("Deposited")
    def deposit(self, amount: int, note: str) -> None:  # noqa: ARG002 - part of the event
        """Add an entry."""
        self.balance += amount
        self.entries += 1


def open_application(settings: dict[str, str]) -> "Application[UUID]":
    """An application on the store that these settings name."""
    return Application(env=settings)


def write_account(application: "Application[UUID]", events: int) -> UUID:
    """An account with so many events."""
    account = Account("me")
    for amount in range(1, events):
        account.deposit(amount, "note")
    application.save(account)
    return account.id
