import contextlib
import importlib
import threading
import time

import psycopg
import pytest
from estoria_testservers import Proxy
from pymongo import MongoClient

INSERT = "INSERT INTO things VALUES (1) RETURNING n"


@pytest.fixture
def proxy(newest_postgres_server):
    with Proxy(newest_postgres_server.host, newest_postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
def direct(newest_postgres_server):
    with newest_postgres_server.database() as url:
        with contextlib.closing(psycopg.connect(url, autocommit=True)) as connection:
            connection.execute("CREATE TABLE things (n int)")
            yield connection


@pytest.fixture
def through(proxy, direct, newest_postgres_server):
    url = proxy.url(newest_postgres_server.url_of(direct.info.dbname))
    with contextlib.closing(psycopg.connect(url, autocommit=True)) as connection:
        yield connection


def stored(direct):
    return direct.execute("SELECT count(*) FROM things").fetchone()[0]


def eventually_stored(direct, count):
    deadline = time.monotonic() + 10
    while stored(direct) != count and time.monotonic() < deadline:
        time.sleep(0.01)
    return stored(direct) == count


def test_it_carries_requests_and_answers(through):
    assert through.execute("SELECT repeat('x', 3000000)").fetchone() == ("x" * 3_000_000,)


@pytest.mark.parametrize("reset", [False, True])
def test_a_request_that_is_cut_off_before_never_reaches_the_server(proxy, through, direct, reset):
    fault = proxy.cut_before_request(b"INSERT", reset=reset)

    with pytest.raises(psycopg.OperationalError):
        through.execute(INSERT)

    assert fault.happened
    assert stored(direct) == 0


@pytest.mark.parametrize("reset", [False, True])
def test_a_request_that_is_cut_off_after_it_is_carried_out(proxy, through, direct, reset):
    proxy.cut_after_request(b"INSERT", reset=reset)

    with pytest.raises(psycopg.OperationalError):
        through.execute(INSERT)

    assert eventually_stored(direct, 1)


def test_a_request_cut_off_while_it_waits_for_a_lock_is_still_carried_out(proxy, through, direct):
    direct.execute("BEGIN")
    direct.execute("LOCK TABLE things")
    proxy.cut_after_request(b"INSERT")

    with pytest.raises(psycopg.OperationalError):
        through.execute(INSERT)

    direct.execute("COMMIT")
    assert eventually_stored(direct, 1)


@pytest.mark.parametrize("reset", [False, True])
def test_when_cut_before_the_answer_the_request_is_done(proxy, through, direct, reset):
    proxy.cut_before_answer(b"INSERT", reset=reset)

    with pytest.raises(psycopg.OperationalError):
        through.execute(INSERT)

    assert stored(direct) == 1


@pytest.mark.parametrize("after_bytes", [1, 7, 100_000])
def test_an_answer_ends_after_so_many_bytes(proxy, through, after_bytes):
    proxy.cut_in_answer(after_bytes, b"repeat")

    with proxy.counting() as traffic, pytest.raises(psycopg.OperationalError):
        through.execute("SELECT repeat('x', 300000)")

    assert traffic.bytes_to_client == after_bytes


def test_a_fault_hits_one_request_and_is_used_up(proxy, through, direct, newest_postgres_server):
    proxy.cut_before_request(b"INSERT", skip=1)
    through.execute(INSERT)
    with pytest.raises(psycopg.OperationalError):
        through.execute(INSERT)

    again = proxy.url(newest_postgres_server.url_of(direct.info.dbname))
    with contextlib.closing(psycopg.connect(again, autocommit=True)) as connection:
        connection.execute(INSERT)

    assert stored(direct) == 2


def test_a_fault_that_is_disarmed_never_happens(proxy, through, direct):
    fault = proxy.cut_before_request(lambda request: b"INSERT" in request)
    proxy.disarm()

    through.execute(INSERT)

    assert not fault.happened
    with pytest.raises(TimeoutError, match="before the request"):
        fault.wait(0.01)


@pytest.mark.parametrize(("hold", "meanwhile"), [("hold_request", 0), ("hold_answer", 1)])
def test_what_is_held_back_goes_on_when_it_is_released(proxy, through, direct, hold, meanwhile):
    fault = getattr(proxy, hold)(b"INSERT")
    thread = threading.Thread(target=through.execute, args=[INSERT])
    thread.start()
    fault.wait()

    count, waiting = stored(direct), thread.is_alive()
    fault.release()
    thread.join(10)

    assert (count, waiting) == (meanwhile, True)
    assert stored(direct) == 1
    assert not through.closed


def test_a_stall_holds_everything_until_it_flows(proxy, through, direct):
    proxy.stall()
    thread = threading.Thread(target=through.execute, args=[INSERT])
    thread.start()
    time.sleep(0.1)

    count = stored(direct)
    proxy.flow()
    thread.join(10)

    assert count == 0
    assert stored(direct) == 1


def test_it_refuses_new_connections_and_keeps_the_old(proxy, through, newest_postgres_server):
    url = proxy.url(newest_postgres_server.url)
    proxy.refuse()

    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(url)

    assert through.execute("SELECT 1").fetchone() == (1,)
    proxy.accept()
    psycopg.connect(url).close()


def test_all_connections_can_be_cut_at_once(proxy, through):
    assert proxy.open_connections == 1

    proxy.cut_all()

    with pytest.raises(psycopg.OperationalError):
        through.execute("SELECT 1")


def test_a_server_that_is_gone_is_gone_for_the_client(fresh_server):
    with Proxy("127.0.0.1", 1) as proxy, pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.url("postgresql://postgres@127.0.0.1:1/postgres"))


def test_round_trips_are_counted(proxy, through):
    with proxy.counting() as one:
        through.execute("SELECT 1")
    with proxy.counting() as three:
        with through.transaction():
            through.execute("SELECT repeat('x', 1000000)")

    assert one.round_trips == 1
    assert three.round_trips == 3
    assert three.bytes_to_client > 1_000_000


def test_a_pipeline_is_one_round_trip(proxy, through):
    with proxy.counting() as traffic, through.pipeline():
        for _ in range(5):
            through.execute(INSERT)

    assert traffic.round_trips == 1
    assert traffic.connections == 0


@pytest.mark.parametrize("product", ["redis", "valkey"])
def test_it_stands_before_redis_and_valkey(request, product):
    server = request.getfixturevalue(f"{product}_server")
    driver = importlib.import_module(product)
    with Proxy(server.host, server.port) as proxy:
        options = {"retry": None, "single_connection_client": True}
        with driver.from_url(proxy.url(server.url), **options) as client:
            client.ping()
            with proxy.counting() as traffic:
                client.set("key", "value")
            proxy.cut_before_answer(b"key")
            with pytest.raises(driver.exceptions.ConnectionError):
                client.incr("key-of-proxy")

    assert traffic.round_trips == 1
    with driver.from_url(server.url) as client:
        assert client.getdel("key-of-proxy") == b"1"


def test_it_stands_before_mongodb_whose_heartbeats_it_can_ignore(mongodb_server, mongodb_database):
    def is_heartbeat(request):
        return b"hello" in request or b"ismaster" in request

    with Proxy(mongodb_server.host, mongodb_server.port, ignore=is_heartbeat) as proxy:
        with MongoClient(proxy.url(mongodb_server.url), heartbeatFrequencyMS=500) as client:
            things = client[mongodb_database].things
            things.insert_one({"_id": 0})
            with proxy.counting() as traffic:
                things.insert_one({"_id": 1})
                time.sleep(1.2)
            fault = proxy.cut_before_answer(b"insert")
            things.insert_one({"_id": 2})

            assert fault.happened
            assert traffic.round_trips == 1
            assert things.count_documents({}) == 3
