import contextlib
import os
import select
import shutil
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from estoria_testservers import POSTGRES, Rung, climb, postgres_candidates, start_postgres


def value(url, statement):
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement).fetchone()[0]


def test_it_answers_with_the_version_of_its_binary(postgres_server):
    version = value(postgres_server.url, "SHOW server_version")

    assert version.split(" ")[0] == postgres_server.version


def test_each_test_has_a_database_of_its_own(postgres_server, postgres_database):
    with postgres_server.database() as other:
        assert value(postgres_database, "SELECT current_database()") != value(
            other, "SELECT current_database()"
        )


def test_a_dropped_database_is_gone(postgres_server):
    with postgres_server.database() as url:
        lingering = psycopg.connect(url)

    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    lingering.close()


def test_the_oldest_and_the_newest_version_are_offered_once_each():
    majors = [candidate.major for candidate in postgres_candidates()]

    assert majors == sorted(set(majors))
    assert len(majors) <= 2
    assert set(majors) <= {candidate.major for candidate in climb(POSTGRES).candidates}


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_what_was_committed_is_there_after_the_server_was_ended_and_started(
    fresh_server, postgres_server, end
):
    server = fresh_server(start_postgres, own(postgres_server))
    url, pid = server.url, server.pid
    server.execute("CREATE TABLE kept (n int)")
    server.execute("INSERT INTO kept VALUES (7)")

    getattr(server, end)()

    assert not server.alive
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    server.start()
    assert server.url == url
    assert server.pid != pid
    assert value(url, "SELECT n FROM kept") == 7


def test_a_transaction_prepared_for_two_phases_survives_a_kill(fresh_server, postgres_server):
    settings = {"max_prepared_transactions": 20, "max_connections": 37}
    server = fresh_server(start_postgres, own(postgres_server), settings=settings)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE later (n int)")
        connection.execute("PREPARE TRANSACTION 'p'")

    server.kill()
    server.start()

    assert value(server.url, "SHOW max_connections") == "37"
    assert value(server.url, "SELECT gid FROM pg_prepared_xacts") == "p"


def test_a_server_with_a_password_asks_for_it(fresh_server, postgres_server):
    server = fresh_server(start_postgres, own(postgres_server), password="p@ss/:")

    assert value(server.url, "SELECT 1") == 1
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.url, password="another")
    server.restart()
    assert server.alive


def test_a_standby_is_read_and_not_written_until_it_is_promoted(fresh_server, postgres_server):
    server = fresh_server(start_postgres, own(postgres_server))
    server.execute("CREATE TABLE kept (n int)")

    server.become_standby()

    assert value(server.url, "SELECT pg_is_in_recovery()")
    assert value(server.url, "SELECT count(*) FROM kept") == 0
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        server.execute("INSERT INTO kept VALUES (1)")
    server.promote()
    server.execute("INSERT INTO kept VALUES (1)")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run it as somebody else")
def test_root_runs_an_installation_that_only_root_can_reach(tmp_path, fresh_server):
    candidate = postgres_candidates(owned=True)[-1]
    if candidate.rung is not Rung.WHEEL:
        pytest.skip("an installation of the distribution is reached by everybody")
    binary = Path(candidate.place)
    package = binary.parents[2]
    for part in package.parent.glob(f"{package.name}*"):
        if part.suffix in {"", ".libs"}:
            shutil.copytree(part, tmp_path / part.name)
    tmp_path.chmod(0o700)
    copy = tmp_path / binary.relative_to(package.parent)

    server = fresh_server(start_postgres, replace(candidate, place=str(copy)))

    assert value(server.url, "SELECT 1") == 1


def test_a_paused_server_answers_once_it_is_resumed(fresh_server, postgres_server):
    server = fresh_server(start_postgres, own(postgres_server))
    with contextlib.closing(psycopg.connect(server.url)) as connection:
        server.pause()
        connection.pgconn.send_query(b"SELECT 1")
        connection.pgconn.flush()
        answered_while_paused = readable(connection, 0.2)
        server.resume()

        assert not answered_while_paused
        assert readable(connection, 10)


def readable(connection, seconds):
    return bool(select.select([connection.fileno()], [], [], seconds)[0])


def own(server):
    """The same version as a server of one's own, where the shared one is somebody else's."""
    return None if server.rung is Rung.ENVIRONMENT else server.candidate
