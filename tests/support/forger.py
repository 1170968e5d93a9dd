"""Hostile clients of Redis, with the rights of the documented ACL.

A ``Forger`` has no secret.  It writes what a server could show to nodes: forged entries, genuine
entries once more, heads that claim what is not there, rows and reports of nodes that do not exist.
A ``Member`` also has the cluster secret, and the identity keys that it is given.
"""

from __future__ import annotations

import os
from typing import Any

import redis

from synaptoroute.core.codec import digest_of, encode_proposal, header_of
from synaptoroute.core.digest import next_chain
from synaptoroute.core.mutation import Ballot, DeleteRoute, Mutation, OpenEpoch, Position, Proposal
from synaptoroute.core.recovery import Report
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.votes import sign_vote
from synaptoroute.sequencer.wire import SigningKeys, parse_stream_entry
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer

SOCKET_SECONDS = 5.0


class Forger:
    """Writes to the keys of one namespace."""

    def __init__(self, url: str, namespace: str = "default") -> None:
        self.keys = Keys(namespace)
        self.redis: Any = redis.Redis.from_url(url, socket_timeout=SOCKET_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self.redis.close()

    def meta(self) -> dict[str, str]:
        """Return the header of the log."""
        return {k.decode(): v.decode() for k, v in self.redis.hgetall(self.keys.meta).items()}

    def append(self, body: bytes, frame: bytes) -> int:
        """Append an entry with a chain that fits, and publish it; return its seq."""
        meta = self.meta()
        epoch, seq = int(meta["epoch"]), int(meta["seq"]) + 1
        chain = next_chain(meta["chain"], epoch, seq, digest_of(frame))
        size_bytes = int(meta["bytes"]) + len(body)
        fields = {"t": 1, "p": meta["chain"], "c": chain, "b": size_bytes, "f": body}
        self.redis.xadd(self.keys.log(epoch), fields, id=f"{epoch}-{seq}")
        self.redis.hset(self.keys.meta, mapping={"seq": seq, "chain": chain, "bytes": size_bytes})
        line = f"SR1 E {epoch} {seq} {meta['chain']} {chain} 1 {len(body)}\n"
        self.redis.publish(self.keys.bus, line.encode() + body)
        return seq

    def forge(self, mutation: Mutation, secret: bytes | None = None) -> int:
        """Append an entry without a seal, or with one of another secret."""
        frame = encode_proposal(Proposal(os.urandom(16), mutation))
        keys = SigningKeys(self.keys.namespace, {"k1": secret} if secret else None)
        return self.append(keys.seal(frame), frame)

    def bodies(self) -> list[bytes]:
        """Return the entries that the log holds, as they were sealed."""
        epoch = int(self.meta()["epoch"])
        return [fields[b"f"] for _, fields in self.redis.xrange(self.keys.log(epoch))]

    def replay(self, body: bytes) -> int:
        """Append a genuine entry once more, with its genuine seal."""
        frame = SigningKeys(self.keys.namespace).open(body).frame
        return self.append(body, frame)

    def rewrite(self) -> None:
        """Replace the last entry by another one, and continue from it."""
        meta = self.meta()
        epoch, seq = int(meta["epoch"]), int(meta["seq"])
        ((_, fields),) = self.redis.xrevrange(self.keys.log(epoch), count=1)
        frame = encode_proposal(Proposal(os.urandom(16), DeleteRoute("kept")))
        before = fields[b"p"].decode()
        chain = next_chain(before, epoch, seq, digest_of(frame))
        self.redis.xtrim(self.keys.log(epoch), maxlen=0)
        mapping = {"seq": seq, "chain": chain, "floor": seq, "floor_chain": before}
        self.redis.hset(self.keys.meta, mapping=mapping)
        for number in range(3):
            self.forge(DeleteRoute(f"forged-{number}"))

    def claim_trimmed(self) -> None:
        """Claim that the log had an entry which was trimmed, as attack A2 does."""
        meta = self.meta()
        frame = encode_proposal(Proposal(os.urandom(16), DeleteRoute("kept")))
        epoch, seq = int(meta["epoch"]), int(meta["seq"]) + 1
        chain = next_chain(meta["chain"], epoch, seq, digest_of(frame))
        self.redis.delete(self.keys.log(epoch))
        mapping = {"seq": seq, "chain": chain, "floor": seq + 1, "floor_chain": chain}
        self.redis.hset(self.keys.meta, mapping=mapping)

    def announce(self, mutation: Mutation) -> None:
        """Publish an entry that is not in the log."""
        meta = self.meta()
        epoch, seq = int(meta["epoch"]), int(meta["seq"]) + 1
        frame = encode_proposal(Proposal(os.urandom(16), mutation))
        chain = next_chain(meta["chain"], epoch, seq, digest_of(frame))
        for kind, body in (("E", frame), ("P", header_of(frame))):
            line = f"SR1 {kind} {epoch} {seq} {meta['chain']} {chain} 1 {len(body)}\n"
            self.redis.publish(self.keys.bus, line.encode() + body)


class Member(Forger):
    """A node that lies: it has the cluster secret, and owns Redis."""

    def __init__(self, url: str, secret: str, namespace: str = "default") -> None:
        super().__init__(url, namespace)
        key_id, _, key = secret.strip().partition(" ")
        self.secret = ClusterSecret(namespace, {key_id: key.encode()})
        self.signing_keys = SigningKeys(namespace, self.secret.keys)

    def signer(self, name: str, identity: NodeIdentity | None = None) -> Signer:
        """Speak as a node; without its key, with a new one that the secret admits."""
        return Signer(name, identity or NodeIdentity.generate(), self.secret)

    def newest(self) -> tuple[Position, OpenEpoch]:
        """Return the newest opening in the log, and the position before it."""
        meta = self.meta()
        for stream_id, fields in self.redis.xrevrange(self.keys.log(int(meta["epoch"]))):
            flat = [part for pair in fields.items() for part in pair]
            entry = parse_stream_entry(stream_id, flat).decode(self.signing_keys)
            if isinstance(entry.proposal.mutation, OpenEpoch):
                base = Position(entry.epoch - 1, entry.seq - 1, entry.prev_chain)
                return base, entry.proposal.mutation
        raise LookupError("the log holds no opening")

    def vote(self, signer: Signer, ballot: Ballot, position: Position | None = None) -> str:
        """Vote at the head of the log."""
        meta = self.meta()
        at = position or Position(int(meta["epoch"]), int(meta["seq"]), meta["chain"])
        report = Report(signer.name, ballot, at, tuple(meta["voters"].split(",")))
        return sign_vote(signer, meta["lineage"], report)

    def append_sealed(self, proposal: Proposal) -> int:
        """Append an entry with a genuine seal, at the head of the log."""
        meta = self.meta()
        frame = encode_proposal(proposal)
        base = Position(int(meta["epoch"]), int(meta["seq"]), meta["chain"])
        return self.append(self.signing_keys.seal(frame, base), frame)

    def open_epoch(self, opened: OpenEpoch, epoch: int = 0) -> str:
        """Append the entry that opens the next epoch, as no script would; return its ballot."""
        meta = self.meta()
        epoch, seq = epoch or int(meta["epoch"]) + 1, opened.base_seq + 1
        base = Position(int(meta["epoch"]), int(meta["seq"]), meta["chain"])
        frame = encode_proposal(Proposal(os.urandom(16), opened))
        body = self.signing_keys.seal(frame, base)
        chain = next_chain(meta["chain"], epoch, seq, digest_of(frame))
        log = self.keys.log(int(meta["epoch"]))
        size_bytes = int(meta["bytes"]) + len(body)
        fields = {"t": 1, "p": meta["chain"], "c": chain, "b": size_bytes, "f": body}
        self.redis.xadd(log, fields, id=f"{epoch}-{seq}")
        self.redis.rename(log, self.keys.log(epoch))
        header = {"epoch": epoch, "epoch_id": opened.epoch_id, "seq": seq, "chain": chain}
        header |= {"bytes": size_bytes, "voters": ",".join(opened.voters), "voters_seq": seq}
        self.redis.hset(self.keys.meta, mapping=header)
        return opened.epoch_id
