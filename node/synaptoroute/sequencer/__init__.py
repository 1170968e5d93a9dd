"""The room that knows Redis: one order for the writes of many nodes.

Redis numbers mutations and repeats them to whoever listens.  It is the sequencer
and the meeting place, never the only copy: every node proves by number and by
hash chain that it has the whole history, and fetches what it lacks.

    keys         every key and channel, documented
    *.lua        what must be atomic; loaded by ``scripts``, which types the answers
    connection   clients from a URL: TLS, password files, Sentinel, no retries
    signing      optional HMAC over entries, with keys that rotate
    wire         bytes on the bus and in the stream, verified before they are believed
    reader       catch-up from the stream
    writer       concurrent writes in one call; unknown outcomes resolved
    redis_log    the ``Log`` of a cluster, made of the two
    bus          the subscription, with its own deadline
    beats        somebody always beats, so that silence means a broken bus
    presence     heartbeats, the list of nodes, acknowledgements
    audits       what nodes found at the place of an audit
    orders       what a node is asked to do about itself
    lease        the right to act, with a fencing token
    epochs       founding a log, and reopening it after a restart of Redis
    tasks        ending a task for certain
    checks       settings of the server that would lose writes

Everything here runs on the event loop and belongs to it.
"""

from synaptoroute.sequencer.log import RedisLog

__all__ = ["RedisLog"]
