"""The examples in the README of `kurrentdbclient`, run as they stand against the test double."""

import re
from importlib import metadata

import pytest
from estoria_testservers import kurrentdb_double, start_kurrentdb

LEFT_OUT = {
    "Run container": "fetches the certificate of a container",
    "Recorded events": "shows a class, and does nothing with it",
    "Projections": "the test double has none",
    "FastAPI example": "a web server is no part of this",
    "Instrumentation": "needs OpenTelemetry, and is the client's own",
}


def examples():
    """Each Python block with its headings, at the line where it stands."""
    described = metadata.metadata("kurrentdbclient")
    text = described.get_payload() or described["Description"]
    headings, block = [], None
    for number, line in enumerate(text.splitlines(), start=1):
        if block is not None and line == "```":
            # Empty lines in front, so that a traceback tells the line of the README.
            yield headings, "\n" * (number - len(block) - 1) + "\n".join(block)
            block = None
        elif block is not None:
            block.append(line)
        elif line == "```python":
            block = []
        elif found := re.match(r"(#+) (.*?)<a id=", line):
            headings = [*headings[: len(found[1]) - 2], found[2]]


@pytest.fixture
def server(fresh_server, monkeypatch):
    """One that nobody else uses, where the examples look for theirs."""
    server = fresh_server(start_kurrentdb, kurrentdb_double())
    monkeypatch.setenv("KDB_URI", server.url)
    monkeypatch.delenv("KDB_ROOT_CERTIFICATES", raising=False)
    return server


def test_the_examples_of_the_readme_run(server):
    names = {"__name__": "readme"}
    ran = set()

    for headings, code in examples():
        if not any(heading in LEFT_OUT for heading in headings):
            placed = code.replace("localhost:2113", f"{server.host}:{server.port}")
            exec(compile(placed, "README.md of kurrentdbclient", "exec"), names)
            ran.add(headings[-1])

    assert ran >= {
        "Synopsis",
        "Append events",
        "Idempotent append operations",
        "Multi-append to stream",
        "Read stream events",
        "Read all events",
        "Set stream metadata",
        "Subscribe to all events",
        "How to write a persistent subscription consumer",
        "Replay parked events",
        "Delete subscription",
        "Construct call credentials",
        "Reconnect",
        "Close",
    }
