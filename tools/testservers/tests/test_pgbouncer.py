import psycopg
import pytest
from estoria_testservers import start_pgbouncer


def value(connection, statement):
    return connection.execute(statement).fetchone()[0]


def test_it_leads_to_any_database_of_its_server(pgbouncer_server, postgres_server):
    name = postgres_server.create_database()

    with psycopg.connect(pgbouncer_server.url_of(name), prepare_threshold=None) as connection:
        assert value(connection, "SELECT current_database()") == name
    postgres_server.drop_database(name)


def test_clients_share_one_connection_between_transactions(fresh_server, postgres_server):
    pooler = fresh_server(start_pgbouncer, postgres_server, settings={"default_pool_size": 1})
    options = {"autocommit": True, "prepare_threshold": None}
    with (
        psycopg.connect(pooler.url, **options) as one,
        psycopg.connect(pooler.url, **options) as other,
    ):
        backends = {value(each, "SELECT pg_backend_pid()") for each in (one, other, one)}

    assert len(backends) == 1


def test_it_comes_back_at_its_port(fresh_server, postgres_server):
    pooler = fresh_server(start_pgbouncer, postgres_server)

    pooler.kill()

    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(pooler.url)
    pooler.start()
    with psycopg.connect(pooler.url, prepare_threshold=None) as connection:
        assert value(connection, "SELECT 1") == 1
