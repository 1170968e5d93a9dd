"""Every key and channel of one namespace.

The namespace is in braces, the hash tag of Redis Cluster: all its keys are on one shard, so one
script may use them.  Clusters that share a server have different namespaces.  Pub/Sub ignores
database numbers, so the channel carries the namespace, too.  All times are Redis' own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from synaptoroute.errors import ConfigError

NAMESPACE_PATTERN: Final = re.compile(r"[A-Za-z0-9_\-]{1,64}")
META_FIELDS: Final = {
    "lineage": "identity of the cluster, made at its founding",
    "epoch": "number of the epoch, from 1",
    "epoch_id": "ballot that opened the epoch",
    "seq": "place of the newest entry",
    "chain": "hash chain at that entry",
    "state": "open, recovering or frozen; writes are taken only while it is open",
    "replid": "replication id of the server that the log was opened on",
    "rec_id": "ballot of the current recovery, ``epoch.id``, or empty",
    "rec_replid": "replication id of the server that the ballot belongs to, or empty",
    "rec_cause": "why that ballot was started, or empty",
    "fingerprint": "fingerprint of the encoder whose vectors the log carries",
    "dim": "dimension of those vectors",
    "level": "highest feature level that every node understands",
    "floor": "place of the oldest entry that is kept; seq + 1 if none is",
    "floor_chain": "hash chain before the floor",
    "floor_bytes": "bytes appended in this epoch before the floor",
    "bytes": "bytes appended in this epoch; minus floor_bytes is what is kept",
    "voters": "identities of the voters, sorted, separated by commas",
    "voters_seq": "place of the entry that made them the voters",
}
"""Fields of the hash ``meta``."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of the keys of one namespace."""

    namespace: str

    def __post_init__(self) -> None:
        if not NAMESPACE_PATTERN.fullmatch(self.namespace):
            raise ConfigError(
                f"namespace {self.namespace!r}: 1 to 64 letters, digits, '_' or '-'",
                namespace=self.namespace,
            )

    @property
    def prefix(self) -> str:
        """Start of every key and channel; ``~{prefix}*`` and ``&{prefix}*`` in an ACL."""
        return f"sr:{{{self.namespace}}}:"

    @property
    def meta(self) -> str:
        """Hash: the header of the log, see ``META_FIELDS``."""
        return f"{self.prefix}meta"

    def log(self, epoch: int) -> str:
        """Stream: the entries, id ``epoch-seq`` of the entry.

        Fields: ``t`` Redis time in microseconds, ``p`` hash chain before, ``c`` hash
        chain at the entry, ``b`` bytes appended in this epoch up to and with the
        entry, ``f`` frame, with its signature where entries are signed.
        One stream per epoch, so that an abandoned recovery leaves nothing that a reader
        could take for the log.
        """
        return f"{self.prefix}log:{epoch}"

    @property
    def bus(self) -> str:
        """Channel: entries and keepalives, see ``wire``."""
        return f"{self.prefix}bus"

    def positions(self, epoch: int) -> str:
        """Sorted set: node id -> seq that the node has made durable in the epoch."""
        return f"{self.prefix}pos:{epoch}"

    @property
    def signed_positions(self) -> str:
        """Hash: node id -> the voter's signed durable position, see ``votes``."""
        return f"{self.prefix}pos:signed"

    @property
    def nodes(self) -> str:
        """Hash: node id -> the node's report, JSON."""
        return f"{self.prefix}nodes"

    @property
    def heartbeats(self) -> str:
        """Sorted set: node id -> Redis time of its last heartbeat, milliseconds."""
        return f"{self.prefix}hb"

    @property
    def content_wanted(self) -> str:
        """String with expiry: the position that a node wants to have certified."""
        return f"{self.prefix}content:wanted"

    def content(self, seq: int) -> str:
        """Hash with expiry: node id -> a voter's signed statement about its content there."""
        return f"{self.prefix}content:{seq}"

    @property
    def claims(self) -> str:
        """Hash with expiry: node id -> what a second process with that identity says, JSON."""
        return f"{self.prefix}claims"

    @property
    def reports(self) -> str:
        """Hash: node id -> ``rec_id|epoch|seq|chain|voters``, answers to a ballot."""
        return f"{self.prefix}rec"

    @property
    def signed_reports(self) -> str:
        """Hash: node id -> the node's signed report to the ballot, see ``votes``."""
        return f"{self.prefix}rec:signed"

    def audit(self, seq: int) -> str:
        """Hash with expiry: node id -> the node's report to an audit, JSON."""
        return f"{self.prefix}audit:{seq}"

    @property
    def node_commands(self) -> str:
        """Hash: node id -> the command that waits for the node, JSON."""
        return f"{self.prefix}orders"

    @property
    def refill(self) -> str:
        """Stream: the next epoch's log while it is being made; fields as in ``log``."""
        return f"{self.prefix}refill"

    @property
    def coordinator(self) -> str:
        """String: what the active coordinator saved, see ``SavedState``."""
        return f"{self.prefix}coordinator"

    def lease(self, name: str) -> str:
        """String with expiry: ``token:owner`` of the holder of the lease."""
        return f"{self.prefix}lease:{name}"

    @property
    def fence(self) -> str:
        """String: the newest fencing token of all leases."""
        return f"{self.prefix}fence"
