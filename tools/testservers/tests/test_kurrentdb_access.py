"""Who may talk to the test double: TLS, a login, and clients that look for a leader."""

from contextlib import closing

import pytest
from estoria_testservers import kurrentdb_double, start_kurrentdb
from kurrentdbclient import KurrentDBClient, NewEvent, NewEvents, StreamState
from kurrentdbclient.exceptions import (
    AccessDeniedError,
    DiscoveryFailedError,
    FollowerNotFoundError,
    NodeIsNotLeaderError,
    NotFoundError,
    ReadOnlyReplicaNotFoundError,
    SSLError,
    UnauthenticatedError,
)

LOGIN = "admin:changeit"
EVENT = NewEvent("Happened", b"{}")
NEW = {"current_version": StreamState.ANY}


@pytest.fixture(scope="module")
def locked():
    """A test double that speaks TLS and wants a login."""
    with start_kurrentdb(kurrentdb_double(), tls=True, login=LOGIN) as server:
        yield server


@pytest.fixture(scope="module")
def denying():
    """A test double that wants a login, and whose clients send none for want of TLS."""
    with start_kurrentdb(kurrentdb_double(), login=LOGIN) as server:
        yield server


@pytest.fixture
def stranger(connect, denying):
    return connect(denying.url)


CALLS = {
    "append one": lambda client, name, **how: client.append_to_stream(
        name, events=EVENT, **NEW, **how
    ),
    "append": lambda client, name, **how: client.append_to_stream(
        name, events=[EVENT], **NEW, **how
    ),
    "multi-append": lambda client, name, **how: client.multi_append_to_stream(
        NewEvents(name, [EVENT], StreamState.ANY), **how
    ),
    "read": lambda client, name, **how: client.get_current_version(name, **how),
    "read all": lambda client, name, **how: client.get_commit_position(
        filter_include=[name], **how
    ),
    "set metadata": lambda client, name, **how: client.set_stream_metadata(
        name, metadata={}, **how
    ),
    "get metadata": lambda client, name, **how: client.get_stream_metadata(name, **how),
    "subscribe": lambda client, name, **how: client.subscribe_to_all(
        filter_include=[name], **how
    ).stop(),
    "create to all": lambda client, name, **how: client.create_subscription_to_all(name, **how),
    "create to stream": lambda client, name, **how: client.create_subscription_to_stream(
        name, name, **how
    ),
    "list": lambda client, name, **how: client.list_subscriptions_to_stream(name, **how),
    "tombstone": lambda client, name, **how: client.tombstone_stream(name, **NEW, **how),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_call
def test_whoever_brings_the_login_may_call(connect, locked, stream, call):
    call(connect(locked.url), stream)


@each_call
def test_whoever_brings_none_is_denied_access(stranger, stream, call, denied):
    # What a batch is told within its answer is told by name to every client.
    with pytest.raises((denied, AccessDeniedError)):
        call(stranger, stream)


@each_call
@pytest.mark.parametrize("login", ["admin:wrong", "somebody:changeit"])
def test_whoever_brings_another_is_not_known(connect, locked, stream, call, login):
    client = connect(locked.url.replace(LOGIN, login))

    with pytest.raises(UnauthenticatedError):
        call(client, stream)


@each_call
def test_a_single_call_may_bring_the_login(connect, locked, stream, call):
    client = connect(locked.url.replace(LOGIN, "admin:wrong"))
    credentials = client.construct_call_credentials(*LOGIN.split(":"))

    call(client, stream, credentials=credentials)


def test_what_was_denied_was_not_done(connect, locked, stream):
    client = connect(locked.url.replace(LOGIN, "admin:wrong"))
    with pytest.raises(UnauthenticatedError):
        client.append_to_stream(stream, events=[EVENT], **NEW)

    with pytest.raises(NotFoundError):
        connect(locked.url).get_stream(stream)


def test_the_authority_is_given_as_an_argument(connect, locked, stream):
    url = locked.url.partition("?")[0]
    authority = locked.certificate_authority.read_text()

    client = connect(url, root_certificates=authority)

    client.append_to_stream(stream, events=[EVENT], **NEW)
    assert client.get_current_version(stream) == 0


def test_a_server_that_the_client_can_not_trust_is_named(connect, locked, stream):
    # By its address, since the client tells only of the last one that a name has.
    client = connect(locked.url.partition("?")[0].replace("localhost", "127.0.0.1"))

    with pytest.raises(SSLError):
        client.get_stream(stream)


def test_gossip_is_for_everybody(denying):
    """The async client has no such call."""
    with closing(KurrentDBClient(denying.url)) as stranger:
        [member] = stranger.read_gossip()

    assert (member.state, member.port) == ("NODE_STATE_LEADER", denying.port)


@pytest.fixture(scope="module")
def leader():
    with start_kurrentdb(kurrentdb_double()) as server:
        yield server


@pytest.fixture
def lead(leader, shared_double, control):
    """Has one of two doubles lead and the other follow it."""
    other = leader.control()

    def leading(server):
        nodes = {leader: other, shared_double: control}
        states = {node: "Leader" if node is server else "Follower" for node in nodes}
        for node, switch in nodes.items():
            others = [(each.host, each.port, states[each]) for each in nodes if each is not node]
            switch.cluster(states[node], *others)

    leading(leader)
    yield leading
    other.clear()
    other.close()


@pytest.fixture
def follower(lead, shared_double):
    return shared_double


def uri(*servers, preference="leader", scheme="kurrentdb"):
    targets = ",".join(f"{server.host}:{server.port}" for server in servers)
    return f"{scheme}://{targets}?Tls=false&NodePreference={preference}&MaxDiscoverAttempts=1"


@each_call
def test_a_follower_answers_nobody_who_wants_the_leader(connect, follower, stream, call):
    client = connect(uri(follower))

    with pytest.raises(NodeIsNotLeaderError):
        call(client, stream)


def test_a_follower_says_who_leads(connect, follower, leader, stream):
    client = connect(uri(follower))

    for append in [CALLS[name] for name in ("append one", "append", "multi-append")]:
        with pytest.raises(NodeIsNotLeaderError) as caught:
            append(client, stream)
        assert (caught.value.host, caught.value.port) == (leader.host, leader.port)


def test_a_follower_may_be_read_but_not_written(connect, follower, stream):
    client = connect(uri(follower, preference="follower"))

    with pytest.raises(NotFoundError):
        client.get_stream(stream)
    with pytest.raises(NodeIsNotLeaderError):
        client.append_to_stream(stream, events=[EVENT], **NEW)


@pytest.mark.parametrize("scheme", ["kurrentdb", "kdb", "esdb"])
def test_of_several_nodes_the_leader_is_chosen(connect, follower, leader, stream, scheme):
    client = connect(uri(follower, leader, scheme=scheme))

    assert client.connection_target == f"{leader.host}:{leader.port}"
    client.append_to_stream(stream, events=[EVENT], **NEW)


def test_of_several_nodes_a_follower_is_chosen(connect, follower, leader):
    client = connect(uri(leader, follower, preference="follower"))

    assert client.connection_target == f"{follower.host}:{follower.port}"


def test_any_node_will_do(connect, follower, leader):
    client = connect(uri(leader, follower, preference="random"))

    targets = [f"{node.host}:{node.port}" for node in (leader, follower)]
    assert client.connection_target in targets


def test_a_cluster_is_discovered_by_its_name(connect, follower, leader, stream):
    client = connect(uri(follower, scheme="kurrentdb+discover"))

    assert client.connection_target == f"{leader.host}:{leader.port}"
    client.append_to_stream(stream, events=[EVENT], **NEW)


def test_a_node_that_nobody_has_is_not_found(connect, follower, leader):
    with pytest.raises(ReadOnlyReplicaNotFoundError):
        connect(uri(leader, follower, preference="readonlyreplica"))


def test_a_follower_of_nobody_is_not_found(connect, shared_double, control):
    with pytest.raises(FollowerNotFoundError):
        connect(uri(shared_double, shared_double, preference="follower"))


def test_a_cluster_where_nobody_answers_is_not_discovered(connect, fresh_server):
    server = fresh_server(start_kurrentdb, kurrentdb_double())
    server.kill()

    with pytest.raises(DiscoveryFailedError):
        connect(uri(server, server))


def test_a_client_goes_to_the_new_leader(connect, lead, follower, leader, stream):
    client = connect(uri(leader, follower))
    client.append_to_stream(stream, events=[EVENT], **NEW)

    lead(follower)

    client.append_to_stream(stream, events=[EVENT], **NEW)
    assert client.connection_target == f"{follower.host}:{follower.port}"


def test_a_client_is_reconnected_by_hand(connect, lead, follower, leader):
    client = connect(uri(leader, follower, preference="follower"))
    lead(follower)

    client.reconnect()

    assert client.connection_target == f"{leader.host}:{leader.port}"
