"""A model of the log's server: what the Lua scripts of good days do, as Python on one value.

Each method is one script and happens whole or not at all, like a script.  Answers are
of the types that the room ``cluster`` gives, so that a differential test can put the
same questions to a real server.  What replication copies is a ``Store``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from sim.model_store import DIM, FINGERPRINT, Store, header_of
from synaptoroute.core.codec import LEVEL, digest_of, encode_proposal
from synaptoroute.core.digest import next_chain
from synaptoroute.core.mutation import Ballot, Entry, OpenEpoch, Position, Proposal
from synaptoroute.core.recovery import Report
from synaptoroute.sequencer.append_errors import NotPlaced, Reason
from synaptoroute.sequencer.epochs import epoch_op_id
from synaptoroute.sequencer.log_reads import ReadResult, coverage_of
from synaptoroute.sequencer.scripts import Head, NoLog, Placed, Range, ballot_of

_SEALS = count()
"""Each seal is unique, as by its nonce."""


class ModelLog:
    """One life of one server, as long as nothing goes wrong.

    Attributes:
        replid: Its replication id: another one in each life.
        store: What it holds.
        is_alive: Whether it answers.
        sent: Entries that were published and not yet carried to the subscribers.
    """

    def __init__(self, replid: str, store: Store | None = None) -> None:
        self.replid = replid
        self.store = store or Store()
        self.is_alive = True
        self.sent: list[Entry] = []
        self.now_ms = 0
        self.tokens = 0
        self.log_bytes_max = 0  # Limit of the log; 0 for none
        self.lineage: dict[str, str] = {}  # The chain before each chain, on all servers of a world

    # --- what the ablations switch off ----------------------------------------------------

    def is_here(self, replid: str) -> bool:
        """Whether a replication id is this life's."""
        return replid == self.replid

    def is_ballot_here(self, replid: str) -> bool:
        """Whether a ballot was begun in this life."""
        return replid == self.replid

    def is_past(self, position: Position, meta: dict[str, Any]) -> bool:
        """Whether a writer holds what the log has lost."""
        seq = meta["seq"]
        return position.seq > seq or (position.seq == seq and position.chain != meta["chain"])

    def is_full(self, added_bytes: int) -> bool:
        """Whether entries of this size do not fit."""
        return 0 < self.log_bytes_max < self.kept_bytes() + added_bytes

    def is_named(self, entry: Entry, name: str) -> bool:
        """Whether an entry contradicts a write that was decided before it."""
        return name.encode() in entry.frame

    # --- head.lua, heartbeat.lua ----------------------------------------------------------

    def head(self) -> Head | NoLog:
        """The header."""
        m = self.store.meta
        if m is None:
            return NoLog(self.now_ms * 1_000, "master")
        return Head(
            epoch=m["epoch"],
            seq=m["seq"],
            chain=m["chain"],
            state=m["state"],
            is_same_server=self.is_here(m["replid"]),
            role="master",
            time_us=self.now_ms * 1_000,
            floor=m["floor"],
            floor_chain=m["floor_chain"],
            kept_bytes=0,
            cluster_id=m["lineage"],
            epoch_id=m["epoch_id"],
            ballot=ballot_of(m["rec_id"]),
            is_ballot_here=self.is_ballot_here(m["rec_replid"]),
            cause=m["rec_cause"],
            fingerprint=m["fingerprint"],
            dim=m["dim"],
            level=m["level"],
            voters=m["voters"],
        )

    def heartbeat(
        self,
        node_id: str,
        position: Position,
        promise: Ballot | None = None,
        voters: tuple[str, ...] = (),
    ) -> Head | NoLog:
        """A node says where it stands; with a promise it answers the ballot."""
        m = self.store.meta
        self.store.beats[node_id] = self.now_ms
        if m is not None and m["epoch"] == position.epoch and position.seq <= m["seq"]:
            self.report_position(node_id, position)
        if (
            m is not None
            and m["state"] == "recovering"
            and self.is_ballot_here(m["rec_replid"])
            and promise is not None
            and m["rec_id"] == str(promise)
        ):
            report = Report(node_id, promise, position, voters)
            self.store.reports[node_id] = self.store.votes[node_id] = report
        return self.head()

    def report_position(self, node_id: str, position: Position) -> None:
        """A voter says what it made durable; whatever the log is doing."""
        held = self.store.positions.setdefault(position.epoch, {})
        held[node_id] = max(position.seq, held.get(node_id, 0))
        signed = self.store.signed.setdefault(position.epoch, {})
        # Who owns the server shows the statement that suits him: the one that claims most.
        if node_id not in signed or signed[node_id].seq <= position.seq:
            signed[node_id] = position

    # --- open.lua, append.lua, switch.lua, read.lua, trim.lua -----------------------------

    def found(self, voters: Sequence[str], epoch_id: str, level: int = LEVEL) -> bool:
        """Found the log of an empty server."""
        if self.store.meta is not None:
            return False
        opened = OpenEpoch(epoch_id, 0, tuple(voters), FINGERPRINT, DIM, level)
        self.store.meta = header_of(tuple(voters), level)
        proposal = Proposal(epoch_op_id(opened), opened)
        entry = self._number(Position(), 1, proposal, stood=Position())
        self.store.logs[1] = [entry]
        self.store.meta |= {
            "epoch": 1,
            "epoch_id": epoch_id,
            "seq": 1,
            "chain": entry.chain,
            "state": "open",
            "replid": self.replid,
        }
        self.sent.append(entry)
        return True

    def _number(
        self,
        at: Position,
        epoch: int,
        proposal: Proposal,
        frame: bytes = b"",
        stood: Position | None = None,
        seal: bytes = b"",
    ) -> Entry:
        """Make the entry after a position; ``stood`` is where its author sealed it."""
        frame = frame or encode_proposal(proposal)
        chain = next_chain(at.chain, epoch, at.seq + 1, digest_of(frame))
        self.lineage[chain] = at.chain
        time_us = self.now_ms * 1_000
        if stood is not None:
            seal = seal or b"seal %d" % next(_SEALS)
        return Entry(epoch, at.seq + 1, at.chain, chain, time_us, frame, proposal, seal, stood)

    def append(
        self,
        position: Position,
        proposals: Iterable[tuple[bytes, Proposal]],
        change: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
        epoch_id: str = "",
        fingerprint: str = FINGERPRINT,
        level: int = 1,
    ) -> Placed | NotPlaced:
        """Give proposals consecutive places; ``change`` is the voters before and after."""
        m = self.store.meta
        if m is None:
            return NotPlaced(Reason.LOST, "")
        if (refused := self._refuse_write(m, position, epoch_id)) is not None:
            return refused
        if self.is_past(position, m):
            return NotPlaced(Reason.REGRESSED, str(m["seq"]))
        if m["fingerprint"] != fingerprint:
            return NotPlaced(Reason.MODEL, m["fingerprint"])
        if m["level"] != level:
            reason = Reason.LEVEL if m["level"] < level else Reason.BEHIND
            return NotPlaced(reason, str(m["level"]))
        if change is not None and (refused := self._refuse_change(m, change[0])):
            return refused
        asked = list(proposals)
        if self.is_full(sum(len(frame) for frame, _ in asked)):
            return NotPlaced(Reason.FULL, "")
        first_seq = m["seq"] + 1
        for frame, proposal in asked:
            self._place(m, frame, proposal, position)
        if change is not None:
            m["voters"], m["voters_seq"] = change[1], m["seq"]
        return Placed(m["epoch"], first_seq, m["seq"])

    def _refuse_write(
        self, m: dict[str, Any], position: Position, epoch_id: str = ""
    ) -> NotPlaced | None:
        if not self.is_here(m["replid"]):
            return NotPlaced(Reason.NEW_HISTORY, "")
        if m["state"] != "open":
            return NotPlaced(Reason.CLOSED, m["state"])
        if m["epoch"] != position.epoch or epoch_id not in ("", m["epoch_id"]):
            return NotPlaced(Reason.STALE, str(m["epoch"]))
        return None

    def hijack(
        self, frame: bytes, proposal: Proposal, stood: Position | None, seal: bytes = b""
    ) -> None:
        """Append as somebody does who owns the server and has no key."""
        if self.store.meta is not None and self.store.meta["epoch"]:
            self._place(self.store.meta, frame, proposal, stood, seal)

    def open_alone(self, op_id: bytes, name: str) -> None:
        """Open the next epoch as a member does who owns the server, without a vote."""
        m = self.store.meta
        if m is None or not m["epoch"] or m["state"] != "open":
            return
        base = Position(m["epoch"], m["seq"], m["chain"])
        opened = OpenEpoch(name, base.seq, m["voters"], m["fingerprint"], m["dim"])
        entry = self._number(base, base.epoch + 1, Proposal(op_id, opened), stood=base)
        log = self.store.logs.pop(base.epoch, [])
        self.store.logs[entry.epoch] = [*log, entry]
        m |= {"epoch": entry.epoch, "epoch_id": name, "seq": entry.seq, "chain": entry.chain}
        self.sent.append(entry)

    def hijack_sealed(self, frame: bytes, proposal: Proposal) -> None:
        """Append as a member does who owns the server."""
        m = self.store.meta
        if m is not None and m["epoch"]:
            self._place(m, frame, proposal, Position(m["epoch"], m["seq"], m["chain"]))

    def claim_trimmed(self) -> None:
        """Claim an entry that was trimmed, as somebody does who owns the server."""
        m = self.store.meta
        if m is None or not m["epoch"]:
            return
        chain = next_chain(m["chain"], m["epoch"], m["seq"] + 1, "0" * 64)
        seq = m["seq"] + 1
        m |= {"seq": seq, "chain": chain, "floor": seq + 1, "floor_chain": chain}
        self.store.logs[m["epoch"]] = []

    def _place(
        self,
        m: dict[str, Any],
        frame: bytes,
        proposal: Proposal,
        stood: Position | None,
        seal: bytes = b"",
    ) -> None:
        at = Position(m["epoch"], m["seq"], m["chain"])
        entry = self._number(at, m["epoch"], proposal, frame, stood, seal)
        self.store.logs.setdefault(m["epoch"], []).append(entry)
        m["seq"], m["chain"] = entry.seq, entry.chain
        self.sent.append(entry)

    def switch(
        self,
        position: Position,
        asked: tuple[bytes, Proposal],
        before: str,
        after: tuple[str, int],
    ) -> int | NotPlaced:
        """Place the entry that changes the encoder, right behind a position."""
        m = self.store.meta
        if m is None:
            return NotPlaced(Reason.LOST, "")
        if (refused := self._refuse_write(m, position)) is not None:
            return refused
        if m["fingerprint"] != before:
            return NotPlaced(Reason.MODEL, m["fingerprint"])
        if self.is_past(position, m):
            return NotPlaced(Reason.REGRESSED, str(m["seq"]))
        if position.seq < m["seq"]:
            return NotPlaced(Reason.MOVED, str(m["seq"]))
        self._place(m, *asked, position)
        m["fingerprint"], m["dim"] = after
        return int(m["seq"])

    def append_unless_named(
        self, position: Position, asked: tuple[bytes, Proposal], name: str, fingerprint: str
    ) -> int | NotPlaced:
        """Place an entry if no entry behind a position contains a name."""
        m = self.store.meta
        if m is None:
            return NotPlaced(Reason.LOST, "")
        if (refused := self._refuse_write(m, position)) is not None:
            return refused
        if m["fingerprint"] != fingerprint:
            return NotPlaced(Reason.MODEL, m["fingerprint"])
        if self.is_past(position, m):
            return NotPlaced(Reason.REGRESSED, str(m["seq"]))
        later = [e for e in self.store.logs.get(m["epoch"], []) if e.seq > position.seq]
        is_whole = len(later) == m["seq"] - position.seq
        if not is_whole or any(self.is_named(entry, name) for entry in later):
            return NotPlaced(Reason.MOVED, str(m["seq"]))
        self._place(m, *asked, position)
        return int(m["seq"])

    def kept_bytes(self) -> int:
        """Bytes of the entries that the log keeps."""
        m = self.store.meta
        log = self.store.logs.get(m["epoch"], []) if m is not None else []
        return sum(len(entry.frame) for entry in log)

    def _refuse_change(self, m: dict[str, Any], before: tuple[str, ...]) -> NotPlaced | None:
        if before != m["voters"]:
            return NotPlaced(Reason.NO_QUORUM, "the voters are others")
        held = self.store.positions.get(m["epoch"], {})
        holding = sum(held.get(voter, 0) >= m["voters_seq"] for voter in m["voters"])
        if 2 * holding <= len(m["voters"]):
            return NotPlaced(Reason.NO_QUORUM, f"{holding} of {len(m['voters'])}")
        return None

    def quorum_seq(self) -> int:
        """The newest place that a majority of the voters has reported in the epoch."""
        m = self.store.meta
        if m is None or not m["voters"]:
            return 0
        held = self.store.positions.get(m["epoch"], {})
        seqs = sorted((held.get(voter, 0) for voter in m["voters"]), reverse=True)
        return int(seqs[len(seqs) // 2])

    def is_proved(self, at: Position) -> bool:
        """Whether a majority of the voters has signed that it holds an entry."""
        m = self.store.meta
        if m is None or m["epoch"] != at.epoch:
            return False
        signed = self.store.signed.get(at.epoch, {})
        held = [
            voter for voter in m["voters"] if voter in signed and self.is_held(at, signed[voter])
        ]
        return 2 * len(held) > len(m["voters"])

    def is_held(self, entry: Position, position: Position) -> bool:
        """Whether a history holds an entry: ablations compare numbers alone."""
        chain, seq = position.chain, position.seq
        while seq > entry.seq:
            chain, seq = self.lineage.get(chain, ""), seq - 1
        return (seq, chain) == (entry.seq, entry.chain)

    def forge_votes(self) -> None:
        """Whoever owns the server writes positions and reports of all voters."""
        m = self.store.meta
        if m is None:
            return
        claims = dict.fromkeys(m["voters"], m["seq"])
        self.store.positions.setdefault(m["epoch"], {}).update(claims)
        if m["state"] == "recovering":
            ballot = Ballot.parse(m["rec_id"])
            for voter in m["voters"]:
                empty = Report(voter, ballot, Position(), m["voters"])
                self.store.reports.setdefault(voter, empty)

    def read(self, after: Position, entries_max: int = 64) -> ReadResult | None:
        """Entries after a position, judged as the reader does; None without a log."""
        m = self.store.meta
        if m is None:
            return None
        log = self.store.logs.get(m["epoch"], [])
        entries = [e for e in log if (e.epoch, e.seq) > (after.epoch, after.seq)][:entries_max]
        head = Position(m["epoch"], m["seq"], m["chain"])
        held: Any = tuple(entries)
        found = Range(head, m["floor"], m["state"], held, m["epoch_id"])
        coverage = coverage_of(after, found)
        kept: list[Entry] = []
        if coverage.value == "whole":
            for seq, entry in enumerate(entries, after.seq + 1):
                if entry.seq != seq:
                    break
                kept.append(entry)
        return ReadResult(
            epoch=head.epoch,
            head=head,
            floor=m["floor"],
            state=m["state"],
            entries=tuple(kept),
            coverage=coverage,
            epoch_id=m["epoch_id"],
        )

    def may_trim(self, floor: int) -> bool:
        """Whether a majority of the voters holds everything before a place."""
        return self.quorum_seq() >= floor - 1

    def trim(self, floor: int) -> int:
        """Drop what comes before a place; give how many entries went."""
        m = self.store.meta
        if m is None or m["state"] != "open" or not m["floor"] < floor <= m["seq"]:
            return 0
        if not self.may_trim(floor):
            return 0
        log = self.store.logs.get(m["epoch"], [])
        if not log or log[-1].seq != m["seq"]:
            return 0  # the stream is damaged
        stays = [entry for entry in log if entry.seq >= floor]
        if not stays or stays[0].seq != floor:
            return 0
        m["floor"], m["floor_chain"] = floor, stays[0].prev_chain
        self.store.logs[m["epoch"]] = stays
        return len(log) - len(stays)

    # --- lease.lua ---------------------------------------------------------------------------

    def acquire(self, owner: str, lease_ms: int = 5_000) -> tuple[str, int] | None:
        """Take the lease; give its proof, or None where somebody holds it."""
        held = self.store.lease
        if held is not None and held[2] > self.now_ms:
            return None
        self.tokens = max(self.tokens + 1, self.now_ms, (held[1] + 1) if held else 0)
        self.store.lease = (owner, self.tokens, self.now_ms + lease_ms)
        return owner, self.tokens

    def renew(self, proof: tuple[str, int], lease_ms: int = 5_000) -> bool:
        """Keep the lease; False where it is lost."""
        if not self.holds(proof):
            return False
        self.store.lease = (*proof, self.now_ms + lease_ms)
        return True

    def release(self, proof: tuple[str, int]) -> None:
        """Give the lease back."""
        if self.holds(proof):
            self.store.lease = None

    def holds(self, proof: tuple[str, int]) -> bool:
        """Whether a proof is that of the lease."""
        held = self.store.lease
        return held is not None and held[:2] == proof and held[2] > self.now_ms
