"""The fleet, its events, its log and the actions of operators."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from synaptoroute.core.mutation import DEFAULT_SET, Position
from synaptoroute.errors import ClusterError, Overloaded
from synaptoroute.models import NAME_CHARACTERS_MAX
from synaptoroute.sequencer.presence import CommandKind
from synaptoroute.web.api_keys import ApiKey
from synaptoroute.web.middleware import context_of
from synaptoroute_coordinator.actions.backups import Backup
from synaptoroute_coordinator.app.responses import (
    PROBLEMS,
    RESPONSES,
    ActionFailed,
    NodeNotFound,
    RequestModel,
    cluster_document,
    entry_document,
    event_document,
    json_response,
    result_response,
    traffic_document,
)
from synaptoroute_coordinator.app.runtime import Runtime, actor_of, path_at_node, runtime_of
from synaptoroute_coordinator.events import EventFeed, FeedEvent
from synaptoroute_coordinator.fleet import NodeView
from synaptoroute_coordinator.plan import (
    AbortImport,
    Action,
    StartAudit,
    TakeBackup,
    Trim,
    choose_backup_source,
)
from synaptoroute_coordinator.traffic import RANGE_NAMES

KEEPALIVE_SECONDS: Final = 10.0
"""A silent stream sends a comment this often, so that both sides know it is open."""
KEY_CHECK_SECONDS: Final = 0.5
"""Seconds between two checks that the API key of a stream is still valid."""
LOG_ENTRIES_MAX: Final = 200
DIAGNOSTICS: Final = {
    "state": "/-/state",
    "settings": "/-/settings",
    "cascade": "/v1/settings/cascade",
    "calibration": "/v1/settings/calibration",
    "traffic": "/-/traffic",
}
"""Documents of each node by their names in a support bundle."""
UNMATCHED_MAX: Final = 1_000
TRAFFIC_ROUTES_MAX: Final = 500

endpoints = APIRouter()


class NodeAction(RequestModel):
    """An action on one node."""

    node: str = Field(min_length=1, max_length=128, description="Identity or name of the node.")
    reason: str = Field(default="an operator asked for it", max_length=500)


class ImportAction(RequestModel):
    """An action on one import."""

    import_id: str = Field(min_length=1, max_length=128)


class TrimAction(RequestModel):
    """Number of entries to keep."""

    retain_entries: int = Field(default=10_000, ge=0, le=10_000_000)


# --- reading ---------------------------------------------------------------------------


@endpoints.get("/v1/cluster", tags=["fleet"], summary="Show the fleet", responses=RESPONSES)
async def show_cluster(request: Request) -> Response:
    """Every node with its position, lag, digest, load and encoder; the log; the alarms."""
    runtime = runtime_of(request)
    return json_response(cluster_document(runtime.reconciler, runtime.config))


@endpoints.get(
    "/v1/events",
    tags=["fleet"],
    summary="Follow the fleet",
    responses={
        200: {
            "description": "Server-sent events `view` and `event`",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **PROBLEMS,
    },
)
async def follow(
    request: Request,
    last_event_id: Annotated[str, Header(alias="Last-Event-ID", max_length=20)] = "",
    once: Annotated[bool, Query(description="End after what is there now.")] = False,
) -> Response:
    """A `view` whenever it changed (the document of `/v1/cluster`), an `event` for what
    happened. A client that returns names the last event it saw.
    """
    runtime = runtime_of(request)
    if runtime.reconciler.feed.is_full:
        raise Overloaded("too many event streams are open", retry_after_seconds=5.0)
    after = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else 0
    return StreamingResponse(
        _stream(runtime, context_of(request.scope).key, after, once),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(
    runtime: Runtime, key: ApiKey | None, after: int, once: bool
) -> AsyncIterator[str]:
    feed = runtime.reconciler.feed
    with feed.subscribe() as queue:
        # A number from before a restart is larger than any that is kept: give all.
        newest = feed.newest[-1].number if feed.newest else 0
        for event in feed.after(after if after <= newest else 0):
            yield _event(event)
        shown = ""
        while True:
            view = json.dumps(cluster_document(runtime.reconciler, runtime.config))
            if view != shown:
                yield f"event: view\ndata: {view}\n\n"
                shown = view
            if once:
                return
            async for part in _next(runtime, key, feed, queue):
                if part is None:
                    return
                yield part


async def _next(
    runtime: Runtime,
    key: ApiKey | None,
    feed: EventFeed,
    queue: asyncio.Queue[FeedEvent | None],
) -> AsyncIterator[str | None]:
    """Wait for the next item and yield its event, if it is one; None ends the stream."""
    stopping = asyncio.ensure_future(runtime.is_stopping.wait())
    next_item = asyncio.ensure_future(queue.get())
    try:
        waited_seconds, is_allowed = 0.0, True
        while waited_seconds < KEEPALIVE_SECONDS:
            done, _ = await asyncio.wait(
                (stopping, next_item),
                timeout=KEY_CHECK_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            # A stream ends with its key, though nothing happens that it would show.
            if done or not (is_allowed := runtime.is_in_force(key)):
                break
            waited_seconds += KEY_CHECK_SECONDS
        if stopping.done() or not is_allowed or not feed.is_subscribed(queue):
            yield None
        elif not next_item.done():
            yield ": nothing new\n\n"
        else:
            event = next_item.result()
            if event is not None:
                yield _event(event)
    finally:
        stopping.cancel()
        next_item.cancel()


def _event(event: FeedEvent) -> str:
    document = json.dumps(event_document(event))
    return f"id: {event.number}\nevent: event\ndata: {document}\n\n"


@endpoints.get("/v1/log", tags=["fleet"], summary="Show the newest entries", responses=RESPONSES)
async def show_log(
    request: Request, limit: Annotated[int, Query(ge=1, le=LOG_ENTRIES_MAX)] = 40
) -> Response:
    """Newest entries of the log: kind and subject, never the utterances."""
    reconciler = runtime_of(request).reconciler
    log = reconciler.view.log
    if not log.epoch:
        return json_response({"entries": []})
    start = max(log.floor - 1, log.seq - limit)
    found = await reconciler.log.read(Position(log.epoch, start), entries_max=limit + 1)
    entries = [entry_document(entry) for entry in found.entries]
    return json_response({"entries": list(reversed(entries))[:limit]})


@endpoints.get(
    "/v1/propagation", tags=["fleet"], summary="Show how entries spread", responses=RESPONSES
)
async def show_propagation(
    request: Request, limit: Annotated[int, Query(ge=1, le=LOG_ENTRIES_MAX)] = 40
) -> Response:
    """Milliseconds from the log to each node's tensor, for the newest entries."""
    runtime = runtime_of(request)
    found = await runtime.ask_live("/-/propagation")
    head = runtime.reconciler.view.log.seq
    shown = [
        {
            "node": node.node,
            "name": node.name,
            "entries": [pair for pair in document.get("entries", []) if pair[0] > head - limit],
        }
        for node, document in found
    ]
    return json_response({"head": head, "nodes": shown})


@endpoints.get(
    "/v1/cluster/history", tags=["fleet"], summary="Show the fleet over time", responses=RESPONSES
)
async def show_fleet_history(
    request: Request,
    range_: Annotated[
        Literal["1h", "24h", "7d"], Query(alias="range", description="Until now.")
    ] = "1h",
) -> Response:
    """Position of the log, largest lag and its node, live nodes, queries a second and the
    slowest p99, one value a bucket. Kept in memory since this coordinator started.
    """
    history = runtime_of(request).reconciler.history
    return json_response(history.document(range_, time.time()))


@endpoints.get(
    "/v1/diagnostics",
    tags=["fleet"],
    summary="Show state and settings of every node",
    responses=RESPONSES,
)
async def show_diagnostics(request: Request) -> Response:
    """For a support bundle. Needs the scope `admin`; secrets are masked, names are not."""
    nodes: dict[str, dict[str, Any]] = {}
    for name, path in DIAGNOSTICS.items():
        for node, document in await runtime_of(request).ask_live(path):
            nodes.setdefault(node.node, {"node": node.node})[name] = document
    return json_response({"nodes": list(nodes.values())})


@endpoints.get(
    "/v1/unmatched", tags=["fleet"], summary="Show queries that no route took", responses=RESPONSES
)
async def show_unmatched(
    request: Request, limit: Annotated[int, Query(ge=1, le=UNMATCHED_MAX)] = 200
) -> Response:
    """The newest of all nodes; empty unless the nodes' setting `unmatched_kept` is above 0."""
    path = path_at_node(request, "/-/unmatched")
    documents = await runtime_of(request).ask_live(path)
    found = [
        {"node": node.name, **each}
        for node, document in documents
        for each in document.get("queries", [])
    ]
    found.sort(key=lambda each: -each["at_ms"])
    is_on = any(document.get("is_on") for _, document in documents)
    return json_response({"is_on": is_on, "queries": found[:limit]})


@endpoints.get(
    "/v1/traffic", tags=["fleet"], summary="Show the answers of each route", responses=RESPONSES
)
async def show_traffic(
    request: Request,
    route_set: Annotated[
        str, Query(alias="set", description="The route set.", max_length=NAME_CHARACTERS_MAX)
    ] = DEFAULT_SET,
    range_: Annotated[
        Literal["1h", "24h", "7d", "hour", "day", "week"],
        Query(alias="range", description="Until now; `hour` is `1h`, `day` `24h`, `week` `7d`."),
    ] = "1h",
    limit: Annotated[int, Query(ge=1, le=TRAFFIC_ROUTES_MAX)] = 50,
) -> Response:
    """Answers of all nodes over time: of each route, and without one, with the mean confidence.
    Counts only; they are kept over restarts of the coordinator.
    """
    history, now_seconds = runtime_of(request).reconciler.traffic, time.time()
    name = RANGE_NAMES.get(range_, range_)
    found = history.traffic_of(route_set, name, now_seconds)
    sets = history.sets(name, now_seconds)
    return json_response(traffic_document(route_set, found, sets, history, limit))


@endpoints.get("/v1/backups", tags=["actions"], summary="List backups", responses=RESPONSES)
async def list_backups(request: Request) -> Response:
    """Newest first; empty if no backup store is configured."""
    backups = runtime_of(request).reconciler.backups
    try:
        found = await backups.list_backups()
    except OSError as error:
        raise ClusterError(f"the backups cannot be read: {error.strerror}") from error
    config = runtime_of(request).config
    shown = [_shown_backup(each) for each in found]
    expiries = expiries_of(found, config.backups_kept, config.backup_seconds)
    for document, expires_ms in zip(shown, expiries, strict=True):
        document["expires_at_ms"] = expires_ms
    return json_response({"is_on": backups.is_on, "backups": shown})


def expiries_of(backups: Sequence[Backup], kept: int, interval_seconds: float) -> list[int | None]:
    """When each backup is to be deleted, milliseconds since 1970; None without a schedule.

    An erased text is in the backups from before until then.

    Args:
        backups: Newest first.
        kept: How many are kept.
        interval_seconds: Time between two backups; 0 for never.
    """
    if not interval_seconds or not backups:
        return [None] * len(backups)
    newest_ms = backups[0].at_ms
    return [
        newest_ms + round(max(0, kept - place) * interval_seconds * 1_000)
        for place in range(len(backups))
    ]


def _shown_backup(backup: Backup) -> dict[str, Any]:
    document = asdict(backup)
    del document["mac"]
    document["is_certified"] = document.pop("certificate") is not None
    return document


@endpoints.get("/v1/actions", tags=["actions"], summary="List actions", responses=RESPONSES)
async def list_actions(request: Request) -> Response:
    """Newest actions with their authors."""
    audit_log = runtime_of(request).reconciler.audit_log
    return json_response({"actions": [asdict(each) for each in audit_log.newest]})


@endpoints.get("/v1/alarms", tags=["fleet"], summary="List alarms", responses=RESPONSES)
async def list_alarms(request: Request) -> Response:
    """Raised alarms, and the newest that were cleared, with their times. `is_over`: the
    condition is over, and the alarm is cleared unless it comes back soon.
    """
    keeper = runtime_of(request).reconciler.alarm_keeper
    return json_response(
        {
            "alarms": [asdict(each) for each in keeper.alarms],
            "past": [asdict(each) for each in keeper.past],
        }
    )


# --- actions ---------------------------------------------------------------------------


async def _do(request: Request, action: Action) -> Response:
    return result_response(
        await runtime_of(request).reconciler.execute(action, actor_of(request.scope))
    )


def find_node(runtime: Runtime, name: str) -> NodeView:
    for node in runtime.reconciler.view.nodes:
        if name in (node.node, node.name):
            return node
    raise NodeNotFound("no node has this identity or name")


@endpoints.post("/v1/actions/audit", tags=["actions"], summary="Audit now", responses=RESPONSES)
async def start_audit(
    request: Request,
    depth: Annotated[
        Literal["digest", "rows"], Query(description="`rows` compares memory and disk as well.")
    ] = "digest",
) -> Response:
    """Every node reports its digest at one position of the log; the result is an event."""
    return await _do(request, StartAudit(is_deep=depth == "rows"))


@endpoints.post("/v1/actions/trim", tags=["actions"], summary="Trim the log", responses=RESPONSES)
async def trim(request: Request, asked: TrimAction) -> Response:
    """Drop old entries, never beyond what a majority of the voters holds."""
    log = runtime_of(request).reconciler.view.log
    floor = max(1, min(log.seq, log.seq - asked.retain_entries + 1))
    return await _do(request, Trim(log.epoch, floor))


@endpoints.post("/v1/actions/backup", tags=["actions"], summary="Back up", responses=RESPONSES)
async def take_backup(request: Request) -> Response:
    """Back up a verified snapshot of a sound node; the result is an event."""
    node = choose_backup_source(runtime_of(request).reconciler.view)
    if node is None:
        raise ActionFailed("no sound node can be backed up now")
    return await _do(request, TakeBackup(node.node, node.url))


@endpoints.post("/v1/actions/scrub", tags=["actions"], summary="Scrub a node", responses=RESPONSES)
async def scrub_node(request: Request, asked: NodeAction) -> Response:
    """One node compares its memory and disk to its digest."""
    return await _command(request, asked, "scrub")


@endpoints.post(
    "/v1/actions/resync", tags=["actions"], summary="Resync a node", responses=RESPONSES
)
async def resync_node(request: Request, asked: NodeAction) -> Response:
    """One node discards its state and installs the snapshot of another node."""
    return await _command(request, asked, "resync")


async def _command(request: Request, asked: NodeAction, kind: CommandKind) -> Response:
    runtime = runtime_of(request)
    reconciler = runtime.reconciler
    node = find_node(runtime, asked.node)
    donors = tuple(
        n.node for n in reconciler.view.live if n.node != node.node and n.health == "ok"
    )[:64]
    if kind == "resync" and not donors:
        raise ActionFailed("no sound node can give its state")
    result = await reconciler.command_node(
        kind, node.node, actor_of(request.scope), asked.reason, donors=donors
    )
    return result_response(result)


@endpoints.post(
    "/v1/actions/abort-import", tags=["actions"], summary="Abort an import", responses=RESPONSES
)
async def abort_import(request: Request, asked: ImportAction) -> Response:
    """Drop everything that an import has staged."""
    seq = runtime_of(request).reconciler.view.log.seq
    return await _do(request, AbortImport(asked.import_id, seq))
