import socket

import pytest
from estoria_testservers import (
    MONGODB,
    POSTGRES,
    REDIS,
    VALKEY,
    ServerStartError,
    climb,
    fresh_name,
    start_mongodb,
    start_postgres,
    start_redis,
    start_valkey,
)
from estoria_testservers._ports import ReservedPort

START = {
    "PostgreSQL": start_postgres,
    "MongoDB": start_mongodb,
    "Redis": start_redis,
    "Valkey": start_valkey,
}
PRODUCTS = [POSTGRES, MONGODB, REDIS, VALKEY]


def test_a_reserved_port_is_free_and_given_once():
    ports = [ReservedPort() for _ in range(50)]

    numbers = [port.number for port in ports]
    assert len(set(numbers)) == 50
    for port in ports:
        with socket.create_server(("127.0.0.1", port.number)):
            port.release()


def test_a_port_comes_with_a_second_one_above_it():
    pairs = [ReservedPort(10_000) for _ in range(20)]
    numbers = [number for pair in pairs for number in (pair.number, pair.number + 10_000)]

    assert len(set(numbers)) == 40
    with socket.create_server(("127.0.0.1", pairs[0].number + 10_000)):
        others = [ReservedPort(10_000) for _ in range(20)]
        assert pairs[0].number not in {other.number for other in others}
    for pair in (*pairs, *others):
        pair.release()


def test_a_port_that_somebody_takes_meanwhile_is_replaced_by_another(monkeypatch, fresh_server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        numbers = [taken.getsockname()[1]]
        original = ReservedPort.__init__

        def steal_the_first(self, second=0):
            original(self, second)
            if numbers:
                self.number = numbers.pop()

        monkeypatch.setattr(ReservedPort, "__init__", steal_the_first)
        server = fresh_server(start_valkey)

        assert server.alive
        assert server.port != taken.getsockname()[1]


@pytest.mark.parametrize(
    ("start", "settings"),
    [(start_postgres, {"no_such_setting": 1}), (start_valkey, {"no-such-setting": "1"})],
)
def test_a_server_that_refuses_its_settings_says_why(start, settings):
    with pytest.raises(ServerStartError, match="it has ended") as caught:
        start(settings=settings)

    assert "setting" in caught.value.output


def test_a_server_is_closed_when_its_context_ends():
    with start_valkey() as server:
        folder = server._folder
        assert folder.is_dir()
        assert server.alive

    assert not folder.exists()
    assert server.pid is None


def test_names_are_never_given_twice():
    names = {fresh_name("t") for _ in range(100)}

    assert len(names) == 100
    assert all(name.startswith("t_") and name.replace("_", "").isalnum() for name in names)


OWNED = [each for product in PRODUCTS for each in climb(product, owned=True).candidates]


@pytest.mark.parametrize("candidate", OWNED, ids=lambda each: f"{each.name}-{each.version}")
def test_every_server_that_is_found_starts(candidate, fresh_server):
    """Not only those that come first: another machine may have no other."""
    server = fresh_server(START[candidate.name], candidate)

    assert server.alive
    assert server.rung is candidate.rung
