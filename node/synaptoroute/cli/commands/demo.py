"""``synaptoroute demo``: start a node with example routes and show some answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.examples import example_file
from synaptoroute.cli.exit_codes import CheckFailed, NodeUnreachable
from synaptoroute.cli.processes import LOOPBACK, NodeProcess, StopSignal, choose_port
from synaptoroute.cli.query_backend import LabelledQuery, read_labelled
from synaptoroute.cli.terminal import (
    Cell,
    note,
    number,
    print_json,
    print_line,
    print_table,
    waiting,
)

DEFAULT_PORT: Final = 8080
QUERIES_SHOWN: Final = 12
EXAMPLE_ACCURACY_MIN: Final = 0.7
"""Below this share of right answers, the node does not work correctly."""


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Show the answers and exit; 1 if too many are wrong.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, show_default=f"{DEFAULT_PORT}, or a free one", help="TCP port."
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of the database and the log.")] = Path("data"),
    routes: Annotated[
        Path | None, typer.Option(help="Initial routes.", show_default="the example routes")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="Labelled queries to ask.", show_default="the example queries"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Start a node with the bundled model and example routes, and show its answers.

    Runs until Ctrl-C.
    """
    route_file = example_file("routes.yaml", routes)
    labelled = read_labelled(example_file("queries.txt", queries))
    node = NodeProcess(
        port=choose_port(port, DEFAULT_PORT),
        settings={
            "database": str(data / "demo.sqlite"),
            "routes_file": str(route_file),
            "model": "all-MiniLM-L6-v2-int8",
        },
        log_file=data / "demo.log",
    )
    with StopSignal():
        try:
            node.start()
            with waiting("Starting a node ..."):
                node.wait_ready()
            _ask_examples(node, labelled, as_json)
            if not once:
                _serve(node)
        finally:
            # Also after an error: no node may outlive the command.
            if node.exit_code is None and node.is_running:
                node.stop()


def _ask_examples(node: NodeProcess, labelled: list[LabelledQuery], as_json: bool) -> None:
    """Ask every example query, show some answers, and check the accuracy."""
    with NodeClient(node.url) as client:
        route_count = sum(1 for _ in client.routes())
        started = time.perf_counter()
        matches = [client.post("/v1/query", {"text": each.text}) for each in labelled]
        each_ms = (time.perf_counter() - started) * 1_000 / len(labelled)
    right = sum(match["route"] == each.route for each, match in zip(labelled, matches, strict=True))
    if as_json:
        print_json(
            {"url": node.url, "pid": node.pid, "routes": route_count, "queries": len(labelled),
             "right": right, "matches": matches}
        )  # fmt: skip
    else:
        _show(node, labelled, matches)
        print_line(
            f"{right} of {len(labelled)} queries routed as labelled, "
            f"{route_count} routes, {each_ms:.1f} ms a query"
        )
    if right < EXAMPLE_ACCURACY_MIN * len(labelled):
        raise CheckFailed(f"only {right} of {len(labelled)} example queries are routed as labelled")


def _show(node: NodeProcess, labelled: list[LabelledQuery], matches: list[dict[str, Any]]) -> None:
    step = max(1, len(labelled) // QUERIES_SHOWN)
    shown = list(zip(labelled, matches, strict=True))[::step]
    print_table(
        ("query", "route", "score", "threshold", "margin", "nearest utterance"),
        (_row(each, match) for each, match in shown),
        right=("score", "threshold", "margin"),
    )
    print_line(f"node     {node.url} (process {node.pid}, log {node.log_file})")
    print_line(f"query    curl -s {node.url}/v1/query -H 'Content-Type: application/json' \\")
    print_line("""           -d '{"text": "Where is my order?", "explain": true}'""")
    print_line(f"         synaptoroute query --url {node.url} 'Where is my order?'")
    print_line(f"api      {node.url}/v1/openapi.json")
    print_line(f"metrics  {node.url}/metrics")
    print_line(f"state    synaptoroute status --url {node.url}")


def _row(each: LabelledQuery, match: dict[str, Any]) -> tuple[Cell, ...]:
    is_right = match["route"] == each.route
    return (
        each.text,
        (match["route"] or "no route", "ok" if is_right else "warn"),
        number(match["score"]),
        number(match["threshold"]),
        number(match["margin"]),
        match["utterance"] or "",
    )


def _serve(node: NodeProcess) -> None:
    """Wait for Ctrl-C, or for the node to exit."""
    note(f"Serving on http://{LOOPBACK}:{node.port}. Press Ctrl-C to stop.")
    try:
        code = node.wait()
    except KeyboardInterrupt:
        note("Stopping ...")
        node.stop()
        return
    raise NodeUnreachable(f"the node exited with code {code}: see {node.log_file}")
