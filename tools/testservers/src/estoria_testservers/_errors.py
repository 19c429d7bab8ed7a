"""What can go wrong with a server for tests.

TestServerError
├── ServerUnavailableError    no rung of the ladder has the server
├── ServerStartError          it was started, or named by its URL, and does not answer
│   └── AddressInUseError     another process has its port
└── ServerNotOursError        it belongs to somebody else, who alone may stop it
"""

from collections.abc import Sequence


class TestServerError(Exception):
    """The root of this package's errors."""

    __test__ = False  # pytest takes what is called Test for a test


class ServerUnavailableError(TestServerError):
    """No rung of the ladder has this server."""

    def __init__(self, name: str, tried: Sequence[str]) -> None:
        super().__init__(f"no {name} to be had here; tried: {'; '.join(tried)}")
        self.name, self.tried = name, tuple(tried)


class ServerStartError(TestServerError):
    """A server does not answer."""

    def __init__(self, name: str, reason: str, output: str = "") -> None:
        said = f"; it said:\n{output}" if output else ""
        super().__init__(f"{name} does not answer: {reason}{said}")
        self.name, self.reason, self.output = name, reason, output


class AddressInUseError(ServerStartError):
    """Another process has the port, or the leftovers of a killed server still hold it."""


class ServerNotOursError(TestServerError):
    """A server that somebody else runs is asked to do what only its owner may do."""

    def __init__(self, name: str, operation: str) -> None:
        super().__init__(
            f"{name} is run by somebody else and not to be told to {operation}; "
            "start one of your own for such a test"
        )
        self.name, self.operation = name, operation
