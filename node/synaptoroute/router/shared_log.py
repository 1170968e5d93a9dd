"""The log of a cluster, for a router that may have one.

A router on its own, such as a library that answers queries, loads neither the client of Redis nor
the replication: a third of the time that it takes to start.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from synaptoroute.config import ClusterConfig
from synaptoroute.log import LocalLog, Log
from synaptoroute.ports import EnginePort

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower
    from synaptoroute.sequencer import RedisLog


def shared_log(log: Log) -> RedisLog | None:
    """The log as that of a cluster; None for a router on its own."""
    if isinstance(log, LocalLog):
        return None
    from synaptoroute.sequencer import RedisLog

    return log if isinstance(log, RedisLog) else None


async def follower_of(engine: EnginePort, log: RedisLog, cluster: ClusterConfig) -> Follower:
    """Make what follows the log; reads the identity of the node and its certificates."""
    from synaptoroute.replication.follower import Follower
    from synaptoroute.replication.incarnation import open_identity
    from synaptoroute.web.tls import TlsFiles, client_tls

    identity = await asyncio.to_thread(open_identity, cluster, str(engine.database.path))
    files = TlsFiles(cluster.peer_cert_file, cluster.peer_key_file, cluster.peer_ca_file)
    tls = await asyncio.to_thread(client_tls, files)
    return Follower(engine, log, cluster, identity, tls)
