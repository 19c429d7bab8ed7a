"""Starts the real servers that tests need, and stops them afterwards."""

from estoria_testservers._candidate import Candidate, Rung, servers_required
from estoria_testservers._errors import (
    AddressInUseError,
    ServerNotOursError,
    ServerStartError,
    ServerUnavailableError,
    TestServerError,
)
from estoria_testservers._fault import Fault
from estoria_testservers._kurrentdb import (
    KURRENTDB,
    KurrentServer,
    kurrentdb_candidate,
    kurrentdb_double,
    start_kurrentdb,
)
from estoria_testservers._ladder import Ladder, Product, Wheel, climb
from estoria_testservers._mongodb import (
    MONGODB,
    MongoReplicaSet,
    MongoServer,
    start_mongodb,
    start_mongodb_replica_set,
)
from estoria_testservers._names import fresh_name
from estoria_testservers._pgbouncer import PGBOUNCER, PgBouncerServer, start_pgbouncer
from estoria_testservers._postgres import (
    POSTGRES,
    PostgresServer,
    postgres_candidates,
    start_postgres,
)
from estoria_testservers._proxy import Proxy
from estoria_testservers._resp import (
    REDIS,
    VALKEY,
    RespCluster,
    RespSentinel,
    RespServer,
    start_redis,
    start_redis_cluster,
    start_redis_sentinel,
    start_valkey,
    start_valkey_cluster,
    start_valkey_sentinel,
)
from estoria_testservers._server import Server
from estoria_testservers._switchboard import Traffic
from estoria_testservers._tls import tls_in_front

__all__ = [
    "KURRENTDB",
    "MONGODB",
    "PGBOUNCER",
    "POSTGRES",
    "REDIS",
    "VALKEY",
    "AddressInUseError",
    "Candidate",
    "Fault",
    "KurrentServer",
    "Ladder",
    "MongoReplicaSet",
    "MongoServer",
    "PgBouncerServer",
    "PostgresServer",
    "Product",
    "Proxy",
    "RespCluster",
    "RespSentinel",
    "RespServer",
    "Rung",
    "Server",
    "ServerNotOursError",
    "ServerStartError",
    "ServerUnavailableError",
    "TestServerError",
    "Traffic",
    "Wheel",
    "climb",
    "fresh_name",
    "kurrentdb_candidate",
    "kurrentdb_double",
    "postgres_candidates",
    "servers_required",
    "start_kurrentdb",
    "start_mongodb",
    "start_mongodb_replica_set",
    "start_pgbouncer",
    "start_postgres",
    "start_redis",
    "start_redis_cluster",
    "start_redis_sentinel",
    "start_valkey",
    "start_valkey_cluster",
    "start_valkey_sentinel",
    "tls_in_front",
]
