"""Responses of the fleet API: JSON documents, errors, and their OpenAPI descriptions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from synaptoroute.core.imports import encoder_of
from synaptoroute.core.mutation import (
    Audit,
    Calibrate,
    CalibrateDecision,
    CommitPlan,
    Entry,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    OpenEpoch,
    PutSettings,
    SwitchEncoder,
)
from synaptoroute.errors import RouteError
from synaptoroute.web.problems import PROBLEM_JSON, status_phrase
from synaptoroute_coordinator.actions.executor import ActionResult
from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.events import FeedEvent, is_log_full
from synaptoroute_coordinator.fleet import AuditVerdict, FleetView, NodeView
from synaptoroute_coordinator.reconciler import Reconciler
from synaptoroute_coordinator.traffic import (
    OTHERS,
    Figures,
    RouteTraffic,
    SetTraffic,
    TrafficHistory,
)

SETS_SHOWN: Final = 100


class RequestModel(BaseModel):
    # Strict: a number is no boolean and no text.
    model_config = ConfigDict(extra="forbid", strict=True)


class ActionFailed(RouteError):
    """The action is not possible in the current state."""

    code = "action_failed"


class NodeNotFound(RouteError):
    code = "node_not_found"


ANY_JSON: Final[dict[str, Any]] = {
    "description": "The response",
    "content": {"application/json": {"schema": {"type": "object"}}},
}
PROBLEM_SCHEMA: Final = {
    "type": "object",
    "title": "ProblemDocument",
    "description": "RFC 9457 problem details; `code` is stable, `detail` is for people.",
    "additionalProperties": True,
    "required": ["type", "title", "status", "detail", "code", "instance"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "instance": {"type": "string"},
    },
}


_PROBLEM: Final = {"$ref": "#/components/schemas/ProblemDocument"}
TAGS: Final = [
    {"name": "session", "description": "Sessions of the dashboard."},
    {"name": "probes", "description": "Probes and metrics."},
    {"name": "fleet", "description": "The state of every node, and what happened."},
    {"name": "actions", "description": "What an operator may do; scope `admin`, recorded."},
    {"name": "encoders", "description": "Encoders of the fleet, and changing them."},
    {"name": "routes", "description": "Answered by a node, which `node` may name."},
    {"name": "sets", "description": "Route sets: create, copy, limit and delete them."},
    {"name": "promotions", "description": "Tests, comparisons, aliases, reverts and erasures."},
    {"name": "learning", "description": "Unmatched queries, and changes of several routes."},
]


def _problem_response(status: int) -> dict[str, Any]:
    return {"description": status_phrase(status), "content": {PROBLEM_JSON: {"schema": _PROBLEM}}}


PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: _problem_response(status)
    for status in (400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 429, 500, 503, 504)
}
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {200: ANY_JSON, **PROBLEMS}
FORWARDED_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: ANY_JSON,
    201: {**ANY_JSON, "description": "Created"},
    202: {**ANY_JSON, "description": "Not decided yet"},
    304: {"description": "Unchanged"},
    **PROBLEMS,
}


def json_response(document: Any, status: int = 200) -> Response:
    body = json.dumps(document, separators=(",", ":"))
    headers = {"Cache-Control": "no-store"}
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def result_response(result: ActionResult) -> Response:
    if result.outcome != "done":
        raise ActionFailed(f"{result.outcome}: {result.detail}")
    return json_response({"outcome": result.outcome, "detail": result.detail, "seq": result.seq})


def cluster_document(reconciler: Reconciler, policy: Policy) -> dict[str, Any]:
    view = reconciler.view
    log = view.log
    names = {node.node: node.name for node in view.nodes}
    return {
        "log_state": "full" if is_log_full(log, policy) else log.state,
        "detail": next((each.message for each in reconciler.alarms if not each.is_over), ""),
        "head": f"{log.epoch}.{log.seq}" if log.epoch else "",
        "trust_mode": reconciler.log.trust_mode,
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
            "lineage": log.cluster_id,
        },
        "coordinator": {
            "owner": reconciler.lease.owner,
            "holder": view.holder,
            "is_active": reconciler.lease.is_active,
        },
        "digest": digest_document(view),
        "audit": _verdict(view.verdict, names),
        "scrub": _verdict(view.deep_verdict, names),
        "alarms": [asdict(alarm) for alarm in reconciler.alarms],
        "nodes": [_node(node) for node in view.nodes],
    }


def digest_document(view: FleetView) -> dict[str, Any]:
    """Summarize how many nodes agree."""
    live = view.live
    agreeing = [node for node in live if node.digest_state in ("agrees", "alone")]
    newest = max(live, key=lambda node: (node.epoch, node.seq), default=None)
    return {
        "value": newest.digest if newest else "",
        "agreeing": len(agreeing),
        "live": len(live),
        "nodes": len(view.nodes),
    }


def _verdict(verdict: AuditVerdict | None, names: dict[str, str]) -> dict[str, Any] | None:
    if verdict is None:
        return None
    document = asdict(verdict)
    for group in ("agreeing", "differing", "unsound", "silent"):
        document[group] = [names.get(node, node) for node in document[group]]
    document["is_sound"] = verdict.is_sound
    return document


def _node(node: NodeView) -> dict[str, Any]:
    """Make the document of one node: the fields of a node's own list, and more."""
    telemetry = node.telemetry
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
        "lag_entries": node.lag_entries if node.is_known else None,
        "queue_requests": node.queue_requests,
        "age_ms": node.age_ms,
        "is_live": node.is_live,
        "is_repairing": node.is_repairing,
        "is_ready": bool(telemetry and telemetry.is_ready),
        "queries_per_second": telemetry.queries_per_second if telemetry else None,
        "p50_ms": telemetry.p50_ms if telemetry else None,
        "p99_ms": telemetry.p99_ms if telemetry else None,
        "routes": telemetry.routes if telemetry else None,
        "slots_used": telemetry.slots_used if telemetry else None,
        "capacity_slots": telemetry.capacity_slots if telemetry else None,
    }


def event_document(event: FeedEvent) -> dict[str, Any]:
    return {"number": event.number, "at_ms": event.at_ms, **asdict(event.event)}


def traffic_document(
    route_set: str,
    traffic: SetTraffic,
    sets: Mapping[str, Figures],
    history: TrafficHistory,
    limit: int,
) -> dict[str, Any]:
    """Describe the answers of a route set over time.

    Args:
        sets: Figures by route set in the same range.
        limit: Most routes to show one by one; the others are shown together.
    """
    buckets = range(len(traffic.routes[0].answers) if traffic.routes else 0)
    total = sum(sum(each.answers) for each in traffic.routes)

    def shown(parts: Sequence[RouteTraffic]) -> dict[str, Any]:
        answers = [sum(each.answers[n] for each in parts) for n in buckets]
        sums = [sum(each.confidence_sums[n] for each in parts) for n in buckets]
        own = sum(answers)
        return {
            "answers": round(own),
            "share": own / total if total else 0.0,
            "confidence": _mean(sum(sums), own),
            "series": [round(n) for n in answers],
            "confidence_series": [_mean(s, n) for s, n in zip(sums, answers, strict=True)],
        }

    routes = [each for each in traffic.routes if each.route not in (None, OTHERS)]
    rest = routes[limit:] + [each for each in traffic.routes if each.route == OTHERS]
    whole = shown(traffic.routes)
    unmatched = shown([each for each in traffic.routes if each.route is None])
    matched = shown([each for each in traffic.routes if each.route is not None])
    return {
        "set": route_set,
        "since_ms": int(history.began_at_seconds * 1_000),
        "from_ms": traffic.from_seconds * 1_000,
        "bucket_seconds": traffic.bucket_seconds,
        "answers": whole["answers"],
        "confidence": whole["confidence"],
        "confidence_series": whole["confidence_series"],
        "routes": [{"route": each.route, **shown([each])} for each in routes[:limit]],
        "others": shown(rest),
        "matched": matched,
        "unmatched": unmatched,
        "sets": [
            {
                "set": name,
                "answers": round(each.answers),
                "matched": round(each.answers - each.unmatched),
                "unmatched": round(each.unmatched),
                "mean_confidence": _mean(each.confidence_sum, each.answers),
            }
            for name, each in list(sets.items())[:SETS_SHOWN]
        ],
    }


def _mean(total: float, count: float) -> float | None:
    return round(total / count, 4) if count else None


def entry_document(entry: Entry) -> dict[str, Any]:
    """Describe an entry of the log, without utterances and vectors."""
    mutation = entry.proposal.mutation
    words = "".join(c if c.islower() else f" {c.lower()}" for c in type(mutation).__name__).strip()
    return {
        "epoch": entry.epoch,
        "seq": entry.seq,
        "at_ms": entry.time_us // 1_000,
        "kind": words,
        "subject": _subject(entry),
        "author": entry.proposal.author or None,
        "bytes": len(entry.frame),
        "op_id": entry.proposal.op_id.hex(),
    }


def _subject(entry: Entry) -> str:
    match entry.proposal.mutation:
        case (
            ImportBegin()
            | ImportChunk()
            | ImportCommit()
            | CommitPlan()
            | ImportAbort()
            | SwitchEncoder()
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
        case CalibrateDecision():
            return "confidence"
        case mutation:
            return str(getattr(mutation, "name", ""))
