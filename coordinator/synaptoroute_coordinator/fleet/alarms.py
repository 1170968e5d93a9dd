"""What an operator should be woken for.  Each condition is a metric as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.fleet.view import FleetView

Severity = Literal["critical", "warning"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One condition that holds now.

    Attributes:
        code: Stable name.
        severity: ``critical`` where answers or writes are at risk.
        message: One sentence.
        nodes: The nodes it is about.
    """

    code: str
    severity: Severity
    message: str
    nodes: tuple[str, ...] = ()


CODES: Final = (
    "divergence",
    "damage",
    "lag",
    "node_gone",
    "no_coordinator",
    "log_closed",
    "log_near_full",
    "voters_missing",
    "backup_failed",
    "mixed_encoders",
)


def alarms_of(
    view: FleetView, policy: Policy, *, missing_voters: tuple[str, ...] = (), backup_error: str = ""
) -> tuple[Alarm, ...]:
    """Find every condition that holds.

    Args:
        view: The fleet now.
        policy: Its limits.
        missing_voters: Voters that have been silent for longer than the policy allows.
        backup_error: Why the newest backup failed; empty if it did not.
    """
    found = [*_about_state(view), *_about_nodes(view, policy), *_about_log(view, policy)]
    if not view.holder and view.log.state != "away":
        found.append(Alarm("no_coordinator", "warning", "no coordinator holds the lease"))
    if missing_voters:
        is_majority_gone = len(missing_voters) * 2 >= len(view.log.voters)
        found.append(
            Alarm(
                "voters_missing",
                "critical" if is_majority_gone else "warning",
                f"{len(missing_voters)} of {len(view.log.voters)} voters are away",
                missing_voters,
            )
        )
    if backup_error:
        found.append(Alarm("backup_failed", "warning", f"the backup failed: {backup_error}"))
    return tuple(found)


def _about_state(view: FleetView) -> list[Alarm]:
    differing = tuple(node.node for node in view.nodes if node.digest_state == "differs")
    unsound = tuple(node.node for node in view.nodes if node.digest_state == "unsound")
    found = []
    if differing:
        message = f"{len(differing)} nodes hold another state than the others at one position"
        if view.verdict is not None and not view.verdict.has_majority:
            message = "nodes hold different states and none is in the majority: choose by hand"
        found.append(Alarm("divergence", "critical", message, differing))
    if unsound:
        message = "memory or disk does not match the digest"
        found.append(Alarm("damage", "critical", message, unsound))
    return found


def _about_nodes(view: FleetView, policy: Policy) -> list[Alarm]:
    found = []
    behind = tuple(node.node for node in view.live if node.lag_entries > policy.lag_entries_max)
    if behind:
        message = f"{len(behind)} nodes are more than {policy.lag_entries_max} entries behind"
        found.append(Alarm("lag", "warning", message, behind))
    gone = tuple(node.node for node in view.nodes if not node.is_live)
    if gone:
        message = f"{len(gone)} of {len(view.nodes)} nodes are silent"
        found.append(Alarm("node_gone", "warning", message, gone))
    foreign = tuple(
        node.node
        for node in view.live
        if view.log.encoder and view.log.encoder not in (node.encoder, *node.encoders)
    )
    if foreign:
        message = "nodes do not have the encoder of the log's vectors"
        found.append(Alarm("mixed_encoders", "critical", message, foreign))
    return found


def _about_log(view: FleetView, policy: Policy) -> list[Alarm]:
    found = []
    if view.log.state != "open":
        message = f"the log is {view.log.state}: no writes are taken, queries go on"
        found.append(Alarm("log_closed", "critical", message))
    percent = 100 * view.log.kept_bytes / policy.log_bytes_max
    if percent >= policy.log_full_percent:
        message = f"the log keeps {percent:.0f} % of what it may; when full, writes are refused"
        found.append(Alarm("log_near_full", "warning", message))
    return found
