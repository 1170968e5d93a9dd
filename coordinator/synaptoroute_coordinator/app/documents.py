"""Values of the coordinator as JSON documents."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from synaptoroute.core.imports import encoder_of
from synaptoroute.core.mutation import (
    Audit,
    Calibrate,
    Entry,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    OpenEpoch,
    PutSettings,
    SwitchEncoder,
)
from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.fleet import FleetView, NodeView, Verdict
from synaptoroute_coordinator.reconciler import Happened, Reconciler


def cluster_document(reconciler: Reconciler, policy: Policy) -> dict[str, Any]:
    """The whole fleet."""
    view = reconciler.view
    log = view.log
    names = {node.node: node.name for node in view.nodes}
    return {
        "log_state": log.state,
        "detail": reconciler.alarms[0].message if reconciler.alarms else "",
        "head": f"{log.epoch}.{log.seq}" if log.epoch else "",
        "log": {
            "epoch": log.epoch,
            "seq": log.seq,
            "floor": log.floor,
            "entries": max(0, log.seq - log.floor + 1) if log.epoch else 0,
            "kept_bytes": log.kept_bytes,
            "bytes_max": policy.log_bytes_max,
            "level": log.level,
            "level_possible": view.level_possible,
            "encoder": log.encoder,
            "dim": log.dim,
            "voters": list(log.voters),
            "missing_voters": list(view.missing_voters),
            "lineage": log.lineage,
        },
        "coordinator": {
            "owner": reconciler.tenure.owner,
            "holder": view.holder,
            "is_active": reconciler.tenure.is_active,
        },
        "digest": digest_of(view),
        "audit": _verdict(view.verdict, names),
        "scrub": _verdict(view.deep_verdict, names),
        "alarms": [asdict(alarm) for alarm in reconciler.alarms],
        "nodes": [_node(node) for node in view.nodes],
    }


def digest_of(view: FleetView) -> dict[str, Any]:
    """One line about agreement."""
    live = view.live
    agreeing = [node for node in live if node.digest_state in ("agrees", "alone")]
    newest = max(live, key=lambda node: (node.epoch, node.seq), default=None)
    return {
        "value": newest.digest if newest else "",
        "agreeing": len(agreeing),
        "live": len(live),
        "nodes": len(view.nodes),
    }


def _verdict(verdict: Verdict | None, names: dict[str, str]) -> dict[str, Any] | None:
    if verdict is None:
        return None
    document = asdict(verdict)
    for group in ("agreeing", "differing", "unsound", "silent"):
        document[group] = [names.get(node, node) for node in document[group]]
    document["is_sound"] = verdict.is_sound
    return document


def _node(node: NodeView) -> dict[str, Any]:
    """One node, with the names that a node's own list has, and more."""
    figures = node.telemetry
    return {
        "node": node.node,
        "name": node.name,
        "url": node.url,
        "role": node.role,
        "release": node.release,
        "level": node.level,
        "encoder": node.encoder,
        "encoders": list(node.encoders),
        "version": node.version,
        "digest": node.digest,
        "digest_state": node.digest_state,
        "state": node.state,
        "health": node.health,
        "lag_entries": node.lag_entries,
        "queue_requests": node.queue_requests,
        "age_ms": node.age_ms,
        "is_live": node.is_live,
        "is_repairing": node.is_repairing,
        "is_ready": bool(figures and figures.is_ready),
        "queries_per_second": figures.queries_per_second if figures else None,
        "p50_ms": figures.p50_ms if figures else None,
        "p99_ms": figures.p99_ms if figures else None,
        "routes": figures.routes if figures else None,
        "slots_used": figures.slots_used if figures else None,
        "capacity_slots": figures.capacity_slots if figures else None,
    }


def happened_document(happened: Happened) -> dict[str, Any]:
    """An event."""
    return {"number": happened.number, "at_ms": happened.at_ms, **asdict(happened.event)}


def entry_document(entry: Entry) -> dict[str, Any]:
    """What an entry of the log is about; no utterance, no vector."""
    mutation = entry.proposal.mutation
    words = "".join(c if c.islower() else f" {c.lower()}" for c in type(mutation).__name__).strip()
    return {
        "epoch": entry.epoch,
        "seq": entry.seq,
        "at_ms": entry.time_us // 1_000,
        "kind": words,
        "subject": _subject(entry),
        "bytes": len(entry.frame),
        "op_id": entry.proposal.op_id.hex(),
    }


def _subject(entry: Entry) -> str:
    match entry.proposal.mutation:
        case (
            ImportBegin() | ImportChunk() | ImportCommit() | ImportAbort() | SwitchEncoder()
        ) as mutation:
            encoder = encoder_of(mutation.import_id)
            return f"encoder {encoder[0][:10]}" if encoder else mutation.import_id
        case OpenEpoch(epoch_id):
            return epoch_id[:12]
        case Audit(is_deep=is_deep):
            return "memory and disk" if is_deep else "digest"
        case PutSettings():
            return "settings"
        case Calibrate():
            return "cascade"
        case mutation:
            return str(getattr(mutation, "name", ""))
