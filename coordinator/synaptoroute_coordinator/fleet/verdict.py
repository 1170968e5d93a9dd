"""What an audit says of each node.

Equal histories have equal digests at one place, so who differs there is wrong, or those
are from whom it differs: more than half of those that reported decide.  A node whose
memory or disk does not match its own digest is wrong whatever the others say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from synaptoroute.sequencer.presence import AuditReport


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one audit.

    Attributes:
        seq: Its place in the log.
        is_deep: Whether memory and disk were compared as well.
        digest: Digest of the majority; empty without one.
        agreeing: Nodes that have it and are sound.
        differing: Nodes that have another one.
        unsound: Nodes whose memory or disk does not match their own digest.
        silent: Live nodes that did not report.
    """

    seq: int
    is_deep: bool
    digest: str
    agreeing: tuple[str, ...]
    differing: tuple[str, ...]
    unsound: tuple[str, ...]
    silent: tuple[str, ...]

    @property
    def has_majority(self) -> bool:
        """Whether more than half of the reports say the same."""
        return bool(self.digest)

    @property
    def is_sound(self) -> bool:
        """Whether every node that reported agrees and is sound."""
        return not (self.differing or self.unsound) and self.has_majority

    @property
    def wrong(self) -> tuple[str, ...]:
        """Nodes that should take another's state, where it is known whose."""
        if not (self.has_majority and self.agreeing):
            return ()
        return tuple(sorted({*self.differing, *self.unsound}))


def judge_audit(
    seq: int, reports: Mapping[str, AuditReport], live: Iterable[str], *, is_deep: bool = False
) -> Verdict:
    """Compare what nodes reported at one place.

    Args:
        seq: The place.
        reports: Node id -> report.
        live: Nodes that were expected to report.
        is_deep: Whether the audit asked for memory and disk.
    """
    counts = Counter((report.epoch, report.digest) for report in reports.values())
    (majority, count) = counts.most_common(1)[0] if counts else ((0, ""), 0)
    has_majority = count * 2 > len(reports)
    unsound = tuple(sorted(node for node, report in reports.items() if not report.is_sound))
    differing = tuple(
        sorted(
            node
            for node, report in reports.items()
            if not has_majority or (report.epoch, report.digest) != majority
        )
    )
    agreeing = tuple(sorted(reports.keys() - set(differing) - set(unsound)))
    silent = tuple(sorted(set(live) - reports.keys()))
    digest = majority[1] if has_majority else ""
    return Verdict(seq, is_deep, digest, agreeing, differing, unsound, silent)
