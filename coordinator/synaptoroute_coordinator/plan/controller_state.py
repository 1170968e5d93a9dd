"""What the coordinator did, and when; times are seconds of its monotonic clock.

A coordinator that takes over starts with an empty memory: everything that follows from
it is then done a little later, never wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from synaptoroute_coordinator.fleet.verdict import Verdict
from synaptoroute_coordinator.fleet.view import FleetView


@dataclass(frozen=True, slots=True)
class OpenImport:
    """An import that is neither committed nor aborted.

    Attributes:
        import_id: Its identity.
        touched_seq: Place of its newest entry.
    """

    import_id: str
    touched_seq: int


@dataclass(frozen=True, slots=True)
class PendingAudit:
    """An audit whose reports are coming in.

    Attributes:
        seq: Its place in the log.
        is_deep: Whether memory and disk are compared.
        at_seconds: When it was logged.
        live: Nodes that are expected to report.
    """

    seq: int
    is_deep: bool
    at_seconds: float
    live: tuple[str, ...]


@dataclass(slots=True)
class Memory:
    """What was done, and when.

    Attributes:
        began_seconds: When this coordinator became active.
        audit_seconds: When the newest audit was logged; None for never.
        scrub_seconds: The same of the newest deep one.
        backup_seconds: When the newest backup was tried.
        pending: The audit whose reports are coming in.
        verdict: The newest audit's outcome.
        deep_verdict: The newest deep audit's outcome.
        reported: How many nodes have reported to the pending audit.
        repairing: Nodes that were told to resync and have not yet.
        repairs: Which audit each repair was ordered for: its place and the node.
        repair_counts: Repairs of a node since it was last found sound.
        imports: When each open import was first seen as it stands.
        voters_seen: When each voter was last live.
        wanted: Actions that an operator asked for.
    """

    began_seconds: float
    audit_seconds: float | None = None
    scrub_seconds: float | None = None
    backup_seconds: float | None = None
    pending: PendingAudit | None = None
    verdict: Verdict | None = None
    deep_verdict: Verdict | None = None
    reported: int = 0
    repairing: frozenset[str] = frozenset()
    repairs: set[tuple[int, str]] = field(default_factory=set)
    repair_counts: dict[str, int] = field(default_factory=dict)
    imports: dict[OpenImport, float] = field(default_factory=dict)
    voters_seen: dict[str, float] = field(default_factory=dict)

    def note_imports(self, found: Iterable[OpenImport], now_seconds: float) -> None:
        """Remember since when each import stands as it does."""
        self.imports = {each: self.imports.get(each, now_seconds) for each in found}

    def note_voters(self, view: FleetView, now_seconds: float) -> None:
        """Remember when each voter was last live."""
        live = {node.node for node in view.live}
        self.voters_seen = {
            voter: now_seconds if voter in live else self.voters_seen.get(voter, now_seconds)
            for voter in view.log.voters
        }

    def missing_voters(self, now_seconds: float, silent_seconds: float) -> tuple[str, ...]:
        """Voters that have been silent for so long."""
        seen: Mapping[str, float] = self.voters_seen
        return tuple(v for v, at in sorted(seen.items()) if now_seconds - at >= silent_seconds)

    def note_verdict(self, verdict: Verdict) -> None:
        """Keep the outcome of the pending audit."""
        self.pending = None
        self.repairs = {each for each in self.repairs if each[0] == verdict.seq}
        if verdict.is_deep or self.deep_verdict is None:
            for node in verdict.agreeing:
                self.repair_counts.pop(node, None)
        self.verdict = verdict
        if verdict.is_deep or self._is_mended(verdict):
            self.deep_verdict = verdict if verdict.is_deep else None

    def note_repair(self, seq: int, node: str) -> None:
        """Remember a repair, so that one finding gives one order."""
        self.repairs.add((seq, node))
        self.repairing |= {node}
        self.repair_counts[node] = self.repair_counts.get(node, 0) + 1

    @property
    def recheck(self) -> Verdict | None:
        """The finding whose repairs are all done, so that somebody should look again."""
        if self.repairing or self.pending is not None:
            return None
        for verdict in (self.deep_verdict, self.verdict):
            if verdict is not None and any((verdict.seq, n) in self.repairs for n in verdict.wrong):
                return verdict
        return None

    def _is_mended(self, verdict: Verdict) -> bool:
        """Whether those who were found damaged have since resynced and agree."""
        deep = self.deep_verdict
        return (
            deep is not None
            and bool(deep.unsound)
            and set(deep.unsound) <= set(verdict.agreeing) - set(self.repairing)
        )
