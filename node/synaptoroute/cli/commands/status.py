"""``synaptoroute status``: how a node is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import ExitCode, NodeUnreachable
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import Cell, console, note, print_json, print_line, print_table

_KEYS = (
    "node", "version", "digest", "routes", "slots_used", "capacity_slots", "queue_requests",
    "queue_requests_max", "backlog_entries", "lanes", "model", "dim", "database", "storage_state",
)  # fmt: skip


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again.")] = False,
    every_seconds: Annotated[
        float, typer.Option(min=0.1, max=3600.0, help="How often, with --watch.")
    ] = 1.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Every node, as a node or a coordinator sees them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show readiness, position, load and storage of a node.

    Ends with 1 when the node is not ready, or with --cluster when a node is silent or
    the log takes no writes.
    """
    path, show = ("/v1/cluster", _show_cluster) if cluster else ("/-/state", _show)
    with NodeClient(url, api_key) as client:
        if watch:
            _watch(client, path, show, every_seconds, as_json)
            return
        state = client.get(path)
        show(url, state, as_json)
    if not (is_whole(state) if cluster else state["state"] == "ready"):
        raise typer.Exit(ExitCode.NO)


def _watch(
    client: NodeClient,
    path: str,
    show: Callable[[str, dict[str, Any], bool], None],
    every_seconds: float,
    as_json: bool,
) -> None:
    """Show until Ctrl-C; a node that goes away may come back."""
    while True:
        try:
            state = client.get(path)
        except NodeUnreachable as error:
            note(error.message)
        else:
            if not as_json:
                console().clear()
            show(client.url, state, as_json)
        time.sleep(every_seconds)


def _show(url: str, state: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(state)
        return
    print_table((url, ""), rows_of(state))


def is_whole(cluster: dict[str, Any]) -> bool:
    """Whether every node is live and writes are taken."""
    nodes = cluster["nodes"]
    return cluster["log_state"] == "open" and all(node["is_live"] for node in nodes)


def _show_cluster(url: str, cluster: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(cluster)
        return
    detail = f": {cluster['detail']}" if cluster["detail"] else ""
    print_line(f"{url}  log {cluster['log_state']} at {cluster['head'] or '-'}{detail}")
    print_table(CLUSTER_COLUMNS, [node_row(node) for node in cluster["nodes"]])


CLUSTER_COLUMNS = (
    "node",
    "state",
    "role",
    "version",
    "behind",
    "digest",
    "queue",
    "q/s",
    "release",
)


def node_row(node: dict[str, Any]) -> tuple[Cell, ...]:
    """One node's line; a coordinator knows more of it than another node does."""
    is_good = node.get("health", "ok" if node["state"] == "live" else "warn") == "ok"
    state = node["state"] if node["is_live"] else f"silent {node['age_ms'] // 1_000} s"
    rate = node.get("queries_per_second")
    return (
        node.get("name") or node["node"][:8],
        (state, "ok" if is_good and node["is_live"] else "warn"),
        node["role"],
        node["version"],
        str(node["lag_entries"]),
        f"{node['digest'][:8]} {node.get('digest_state', '')}".strip(),
        str(node["queue_requests"]),
        "-" if rate is None else f"{rate:.1f}",
        node["release"],
    )


def rows_of(state: dict[str, Any]) -> list[tuple[Cell, ...]]:
    """What is worth a line; counters of work done come last."""
    is_ready = state["state"] == "ready"
    reasons = f" ({', '.join(state['reasons'])})" if state["reasons"] else ""
    rows: list[tuple[Cell, ...]] = [
        ("state", (state["state"] + reasons, "ok" if is_ready else "warn")),
        ("release", str(state["release"])),
        ("uptime", f"{state['uptime_seconds']:.0f} s"),
    ]
    router = state["router"] or {}
    rows += [(key.replace("_", " "), str(router[key])) for key in _KEYS if key in router]
    counters = router.get("counters") or {}
    rows += [(key.replace("_", " "), f"{value:,}") for key, value in counters.items() if value]
    return rows
