import pytest
from estoria_testservers import start_mongodb, start_mongodb_replica_set
from pymongo import MongoClient, WriteConcern
from pymongo.errors import OperationFailure

MAJORITY = WriteConcern("majority", j=True)


def test_it_answers_with_the_version_of_its_binary(mongodb_server):
    with MongoClient(mongodb_server.url) as client:
        assert client.server_info()["version"] == mongodb_server.version


def test_a_replica_set_of_one_node_has_transactions(mongodb_server, mongodb_database):
    with MongoClient(mongodb_server.url) as client, client.start_session() as session:
        collection = client[mongodb_database].things
        with session.start_transaction():
            collection.insert_one({"_id": 1}, session=session)

        assert collection.count_documents({}) == 1


def test_fail_points_are_allowed(mongodb_server):
    point = {"configureFailPoint": "failCommand", "mode": "off"}
    with mongodb_server.client() as client:
        assert client.admin.command(point)["ok"] == 1


def test_a_standalone_server_refuses_transactions(mongodb_standalone):
    with MongoClient(mongodb_standalone.url) as client, client.start_session() as session:
        session.start_transaction()

        with pytest.raises(OperationFailure, match="replica set"):
            client.test.things.insert_one({}, session=session)


@pytest.mark.parametrize("end", ["kill", "stop"])
@pytest.mark.parametrize("replica_set", [True, False])
def test_what_was_journaled_is_there_after_the_server_was_ended_and_started(
    fresh_server, replica_set, end
):
    server = fresh_server(start_mongodb, replica_set=replica_set)
    url = server.url
    with server.client() as client:
        client.test.get_collection("kept", write_concern=MAJORITY).insert_one({"_id": 7})

    getattr(server, end)()

    assert not server.alive
    server.start()
    assert server.url == url
    with MongoClient(url) as client:
        assert client.test.kept.find_one() == {"_id": 7}
        client.test.kept.insert_one({"_id": 8})


def test_a_killed_primary_is_replaced_and_follows_when_it_is_back(fresh_server):
    replica_set = fresh_server(start_mongodb_replica_set)
    first = replica_set.primary()
    with MongoClient(replica_set.url) as client:
        things = client.test.get_collection("things", write_concern=MAJORITY)
        things.insert_one({"_id": 1})
        first.kill()
        second = replica_set.primary()
        things.insert_one({"_id": 2})
        first.start()

        assert second is not first
        assert len(replica_set.nodes) == 3
        assert sorted(each["_id"] for each in things.find()) == [1, 2]


def test_a_primary_that_steps_down_is_replaced(mongodb_replica_set):
    first = mongodb_replica_set.primary()

    first.step_down()

    assert mongodb_replica_set.primary() is not first


@pytest.mark.parametrize("replica_set", [True, False])
def test_a_server_with_a_password_asks_for_it(fresh_server, replica_set):
    server = fresh_server(start_mongodb, replica_set=replica_set, password="p@ss/:")
    with MongoClient(server.url) as client:
        client.test.things.insert_one({})
    wrong = server.url.replace("root:", "root:x")

    with MongoClient(wrong) as client, pytest.raises(OperationFailure, match="[Aa]uthentication"):
        client.test.things.find_one()
    nobody = f"mongodb://{server.host}:{server.port}/?directConnection=true"
    with MongoClient(nobody) as client, pytest.raises(OperationFailure, match="authentication"):
        client.test.things.find_one()
    server.restart()
    assert server.is_primary


def test_a_database_is_dropped_afterwards(mongodb_server):
    with MongoClient(mongodb_server.url) as client:
        with mongodb_server.database() as name:
            client[name].things.insert_one({})
            assert name in client.list_database_names()
        assert name not in client.list_database_names()
