"""The sequencer on Redis or Valkey: one order for the writes of many nodes.

Redis numbers the mutations and publishes them.  It is the sequencer and the meeting place, but
never the only copy: every node checks by number and by hash chain that it has the whole history,
and fetches what it lacks.

    keys           every key and channel, documented
    *.lua          the atomic steps; loaded by ``scripts``, which types the answers
    client         connections from a URL: TLS, password files, Sentinel; checks of the server
    wire           the format of the bus and of the stream; optional signatures over entries
    appender       concurrent writes in one call; unknown outcomes are resolved
    append_errors  why a write has no place
    log            ``RedisLog``, the log of a cluster: reads, and the parts below
    pubsub         the bus, and the keepalives that show that it works
    node_rows      the rows of nodes in Redis, verified; addresses: which of them may be asked
    presence       heartbeats, the list of nodes, acknowledgements, audit reports, commands
    lease          leases with fencing tokens
    epochs         founding, trimming and recovering a log
    peers          op log, rows and snapshots from another node

Everything here runs on the event loop and belongs to it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synaptoroute.sequencer.log import RedisLog

__all__ = ["RedisLog"]


def __getattr__(name: str) -> object:
    """Import the log on first use: the reasons of refusals are needed without its client."""
    if name == "RedisLog":
        return import_module("synaptoroute.sequencer.log").RedisLog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
