"""A model of the log's server on bad days: ballots, reports, and the opening of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sim.model_log import ModelLog
from sim.model_store import header_of
from synaptoroute.core.codec import LEVEL
from synaptoroute.core.mutation import Ballot, Entry, Position, Proposal
from synaptoroute.core.recovery import Cause, Decision, Report, ServerHistory
from synaptoroute.sequencer.epochs import LogCheck, RecoveryOutcome, RecoveryResult, epoch_op_id
from synaptoroute.sequencer.scripts import ballot_of

ALIVE_MS = 5_000
PROOFS = frozenset({Cause.REGRESSED, Cause.PROMISED, Cause.DAMAGED, Cause.FORCED})


class ModelServer(ModelLog):
    """One life of one server."""

    # --- ballot.lua, log_check.lua, refill.lua, reopen.lua ----------------------------------------

    def begin(
        self,
        cause: Cause,
        above: int,
        seen: str,
        name: str,
        voters: tuple[str, ...],
        encoder: tuple[str, int],
        level: int = LEVEL,
    ) -> Ballot | RecoveryResult:
        """Close the log with a ballot, or join the one that goes on.

        Voters, encoder and level are for a header that was lost: as the caller knows them.
        """
        m = self.store.meta
        if m is not None:
            if m["state"] == "frozen":
                return RecoveryResult(RecoveryOutcome.FROZEN)
            going = ballot_of(m["rec_id"])
            is_here = self.is_ballot_here(m["rec_replid"])
            if m["state"] == "recovering" and is_here and going and m["rec_id"] != seen:
                return going
            needs_proof = m["state"] == "open" and self.is_here(m["replid"])
            if needs_proof and (cause not in PROOFS or seen != m["epoch_id"]):
                return RecoveryResult(RecoveryOutcome.OPEN)
        else:
            m = self.store.meta = header_of(voters, level, encoder)
        old = ballot_of(m["rec_id"])
        ballot = Ballot(max(m["epoch"], old.epoch if old else 0, above) + 1, name)
        m |= {
            "state": "recovering",
            "rec_id": str(ballot),
            "rec_replid": self.replid,
            "rec_cause": cause.value,
        }
        self.store.reports.clear()
        return ballot

    def check_log(self, epoch: int, ballot: Ballot) -> LogCheck | RecoveryResult:
        """The reports to a ballot, and whether the own stream is whole."""
        m = self.store.meta
        if m is None:
            return RecoveryResult(RecoveryOutcome.LOST)
        if m["epoch"] != epoch or m["state"] != "recovering" or m["rec_id"] != str(ballot):
            return RecoveryResult(RecoveryOutcome.SUPERSEDED, m["state"])
        if not self.is_ballot_here(m["rec_replid"]):
            return RecoveryResult(RecoveryOutcome.RESTARTED)
        reports = tuple(r for r in self.store.reports.values() if r.ballot == ballot)
        why = self._torn(m) or self._forked(m, reports)
        followers = frozenset(
            report.node_id
            for report in reports
            if report.position.epoch <= m["epoch"]
            and self.chain_at(report.position) == report.position.chain
        )
        live = [n for n, at in self.store.beats.items() if at >= self.now_ms - ALIVE_MS]
        names = {report.node_id for report in reports}
        position = Position(m["epoch"], m["seq"], m["chain"])
        return LogCheck(
            reports=reports,
            kept=None if why else ServerHistory(position, m["voters"], followers),
            damage=why,
            silent=tuple(name for name in live if name not in names),
        )

    def _torn(self, m: dict[str, Any]) -> str:
        log = self.store.logs.get(m["epoch"], [])
        if m["epoch"] == 0:
            return "there is no log"
        if len(log) != m["seq"] - m["floor"] + 1:
            return "entries are missing"
        if not log:
            same = m["floor_chain"] == m["chain"]
            return "" if same else "the floor does not match the head"
        if log[-1].seq != m["seq"] or log[-1].chain != m["chain"]:
            return "the last entry does not match the head"
        if log[0].prev_chain != m["floor_chain"] or log[0].seq != m["floor"]:
            return "the first entry does not match the floor"
        return ""

    def is_forked(self, report: Report, chain: str) -> bool:
        """Whether a report shows another history than the own stream."""
        return report.position.chain != chain

    def chain_at(self, at: Position) -> str | None:
        """Chain of the own stream at a place; None before its floor and after its head."""
        m = self.store.meta
        assert m is not None
        if at.seq == m["seq"]:
            return str(m["chain"])
        if at.seq == m["floor"] - 1:
            return str(m["floor_chain"])
        if not m["floor"] <= at.seq <= m["seq"]:
            return None
        log = self.store.logs.get(m["epoch"], [])
        return next((e.chain for e in log if (e.epoch, e.seq) == (at.epoch, at.seq)), "")

    def _forked(self, m: dict[str, Any], reports: Iterable[Report]) -> str:
        for report in reports:
            chain = self.chain_at(report.position)
            is_here = report.position.epoch == m["epoch"] and chain is not None
            if is_here and self.is_forked(report, str(chain)):
                return f"node {report.node_id} holds other entries"
        return ""

    def _refuse_act(self, proof: tuple[str, int], ballot: Ballot) -> RecoveryResult | None:
        m = self.store.meta
        if m is None:
            return RecoveryResult(RecoveryOutcome.LOST)
        if not self.holds(proof):
            return RecoveryResult(RecoveryOutcome.FENCED)
        if m["state"] != "recovering" or m["rec_id"] != str(ballot):
            return RecoveryResult(RecoveryOutcome.SUPERSEDED, m["state"])
        if not self.is_ballot_here(m["rec_replid"]):
            return RecoveryResult(RecoveryOutcome.RESTARTED)
        return None

    def refill_with(
        self, proof: tuple[str, int], ballot: Ballot, entries: Sequence[Entry], is_first: bool
    ) -> RecoveryResult:
        """Add entries to what becomes the next epoch's log."""
        if (refused := self._refuse_act(proof, ballot)) is not None:
            return refused
        if is_first:
            self.store.refill = []
        self.store.refill += entries
        return RecoveryResult(RecoveryOutcome.OK)

    def reopen(
        self,
        proof: tuple[str, int],
        ballot: Ballot,
        decision: Decision,
        encoder: tuple[str, int],
        floor: int,
        floor_chain: str,
        votes: tuple[str, ...] = (),
        level: int = LEVEL,
    ) -> RecoveryResult:
        """Open the next epoch upon a decision; ``encoder`` and ``level`` are those of its base."""
        m, base = self.store.meta, decision.base
        if m is not None and m["state"] == "open" and m["epoch_id"] == ballot.id:
            return RecoveryResult(RecoveryOutcome.OK, m["chain"])
        if (refused := self._refuse_act(proof, ballot)) is not None:
            return refused
        assert m is not None
        source = self.store.logs.get(m["epoch"], []) if decision.is_kept else self.store.refill
        if decision.is_kept:
            if (m["seq"], m["chain"]) != (base.seq, base.chain):
                return RecoveryResult(RecoveryOutcome.TORN, "the head is not the base")
            floor, floor_chain = m["floor"], m["floor_chain"]
        if len(source) != base.seq - floor + 1:
            return RecoveryResult(RecoveryOutcome.TORN, "entries are missing")
        ends = (source[-1].chain, source[0].prev_chain) if source else (base.chain, base.chain)
        if ends != (base.chain, floor_chain):
            return RecoveryResult(RecoveryOutcome.TORN, "the stream does not end in the base")
        opened = replace(decision.opening(ballot, *encoder), votes=votes)
        proposal = Proposal(epoch_op_id(opened), opened)
        entry = self._number(base, ballot.epoch, proposal, stood=base)
        self.store.logs = {ballot.epoch: [*source, entry]}
        self.store.positions = {
            epoch: held
            for epoch, held in self.store.positions.items()
            if epoch not in (m["epoch"], base.epoch, ballot.epoch)
        }
        self.store.refill, self.store.reports = [], {}
        m |= {
            "epoch": ballot.epoch,
            "epoch_id": ballot.id,
            "seq": entry.seq,
            "chain": entry.chain,
            "state": "open",
            "replid": self.replid,
            "rec_id": "",
            "rec_replid": "",
            "rec_cause": "",
            "fingerprint": encoder[0],
            "dim": encoder[1],
            "level": level,
            "floor": floor,
            "floor_chain": floor_chain,
            "voters": decision.voters,
            "voters_seq": entry.seq,
        }
        self.sent.append(entry)
        return RecoveryResult(RecoveryOutcome.OK, entry.chain)
