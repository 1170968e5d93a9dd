"""``synaptoroute status``: how a node is."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.failures import ExitCode, NodeUnreachable
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import Cell, console, note, print_json, print_table

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
    as_json: AsJson = False,
) -> None:
    """Show readiness, position, load and storage of a node.

    Ends with 1 when the node is not ready.
    """
    with NodeClient(url, api_key) as client:
        if watch:
            _watch(client, every_seconds, as_json)
            return
        state = client.get("/-/state")
        _show(url, state, as_json)
    if state["state"] != "ready":
        raise typer.Exit(ExitCode.NO)


def _watch(client: NodeClient, every_seconds: float, as_json: bool) -> None:
    """Show until Ctrl-C; a node that goes away may come back."""
    while True:
        try:
            state = client.get("/-/state")
        except NodeUnreachable as error:
            note(error.message)
        else:
            if not as_json:
                console().clear()
            _show(client.url, state, as_json)
        time.sleep(every_seconds)


def _show(url: str, state: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(state)
        return
    print_table((url, ""), rows_of(state))


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
