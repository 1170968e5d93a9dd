"""``synaptoroute up``: start a cluster on this machine and check that its nodes agree."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.examples import example_file
from synaptoroute.cli.exit_codes import CheckFailed, NodeUnreachable
from synaptoroute.cli.local_cluster import NODES_MAX, LocalCluster
from synaptoroute.cli.processes import READY_SECONDS_MAX, NodeProcess, StopSignal, choose_port
from synaptoroute.cli.questions import ask_questions, known_questions, show_questions
from synaptoroute.cli.terminal import (
    note,
    number,
    print_json,
    print_line,
    print_table,
    progress,
    waiting,
)

DEFAULT_PORT: Final = 8080
COORDINATOR_PORT: Final = 8090
WATCH_SECONDS: Final = 0.5
FIT_SECONDS_MAX: Final = 30.0
"""Without a fit, numbers hold that ship for the encoder."""


def up(
    nodes: Annotated[int, typer.Option(min=1, max=NODES_MAX, help="Number of nodes.")] = 3,
    once: Annotated[
        bool, typer.Option("--once", help="Check the cluster and exit; 1 if the nodes differ.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, show_default=f"{DEFAULT_PORT}, or a free one", help="Front port."
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of databases and logs.")] = Path(
        "data/cluster"
    ),
    routes: Annotated[
        Path | None, typer.Option(help="Initial routes.", show_default="the example routes")
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(help="Existing Redis or Valkey; without it a private Valkey is started."),
    ] = None,
    namespace: Annotated[str, typer.Option(help="Name of the log on that server.")] = "local",
    model: Annotated[str, typer.Option(help="Encoder of every node.")] = "all-MiniLM-L6-v2-int8",
    coordinator: Annotated[
        bool, typer.Option(help="Start a coordinator with its dashboard, too.")
    ] = True,
    tls: Annotated[
        bool, typer.Option("--tls", help="Speak HTTPS, with an authority made in the folder.")
    ] = False,
    ready_seconds: Annotated[
        float,
        typer.Option(min=1.0, max=3_600.0, help="How long the nodes may take to become ready."),
    ] = READY_SECONDS_MAX,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Start a cluster on this machine, write through one node, and compare all nodes.

    Runs until Ctrl-C.
    """
    route_file = example_file("routes.yaml", routes)
    cluster = LocalCluster(
        count=nodes,
        folder=data,
        front_port=choose_port(port, DEFAULT_PORT),
        settings={"model": model},
        redis_url=redis_url,
        namespace=namespace,
        coordinator_port=choose_port(None, COORDINATOR_PORT) if coordinator and not once else None,
        has_tls=tls,
    )
    with StopSignal():
        try:
            _start(cluster, ready_seconds)
            _load_routes(cluster, route_file)
            answers = _ask(cluster)
            check = run_check(cluster)
            if as_json:
                questions = [{"text": text, "match": match} for text, match in answers]
                print_json({**check_json(check, cluster), "questions": questions})
            else:
                if answers:
                    show_questions(answers)
                show_check(check, cluster)
            if not check.is_consistent:
                raise CheckFailed("the nodes differ")
            if not once:
                _serve(cluster)
        finally:
            cluster.stop()


def _start(cluster: LocalCluster, ready_seconds: float) -> None:
    """Start all nodes, and name each that is ready."""
    began = time.monotonic()

    def say_ready(node: NodeProcess) -> None:
        name, seconds = node.settings["node_name"], time.monotonic() - began
        note(f"{name} is ready after {seconds:.1f} s: {node.url}, log {node.log_file}")

    note(f"Starting {cluster.count} nodes; data and logs are in {cluster.folder}.")
    with waiting("Starting ..."):
        cluster.start()
        cluster.wait_ready(ready_seconds, say_ready)


def _load_routes(cluster: LocalCluster, routes: Path) -> None:
    """Import the initial routes into a cluster without routes."""
    from synaptoroute.cli.route_files import ndjson_line, read_route_file

    with NodeClient(cluster.nodes[0].url, tls=cluster.tls) as client:
        if next(client.routes(), None) is None:
            lines = [ndjson_line(route) for route in read_route_file(routes).routes]
            client.upload("/v1/import", b"".join(lines), "application/x-ndjson")


def _ask(cluster: LocalCluster) -> list[tuple[str, dict[str, Any]]]:
    """Ask the example questions through the front port, if the example routes are there."""
    with NodeClient(cluster.nodes[0].url, tls=cluster.tls) as client:
        names = {route["name"] for route in client.routes()}
        if not known_questions(names):
            return []
        with waiting("Fitting the confidence to the routes ..."):
            _wait_fitted(client)
    clients = [NodeClient(node.url, tls=cluster.tls) for node in cluster.nodes]
    try:
        _wait_equal(clients)
    finally:
        for each in clients:
            each.__exit__()
    with NodeClient(cluster.front_url, tls=cluster.tls) as front:
        return ask_questions(lambda text: front.post("/v1/query", {"text": text}), names)


def _wait_fitted(client: NodeClient) -> None:
    """Wait until a node has fitted the numbers behind the confidence, but not for ever."""
    deadline = time.monotonic() + FIT_SECONDS_MAX
    while time.monotonic() < deadline:
        found = client.get("/v1/settings/calibration")
        if found["state"] in ("fitted", "off", "too_small"):
            return
        time.sleep(WATCH_SECONDS)


def _serve(cluster: LocalCluster) -> None:
    """Wait for Ctrl-C, or for a node to exit."""
    url = cluster.front_url
    curl = f"curl -s --cacert {cluster.ca_file}" if cluster.has_tls else "curl -s"
    print_line(f"query     {curl} {url}/v1/query -H 'Content-Type: application/json' \\")
    print_line("""            -d '{"text": "Where is my order?", "explain": true}'""")
    print_line(f"cluster   {curl} {url}/v1/cluster")
    print_line(f"api       {url}/v1/openapi.json")
    if cluster.coordinator is not None:
        print_line(f"dashboard {cluster.coordinator.url}  log {cluster.coordinator.log_file}")
    for node in cluster.nodes:
        print_line(f"{node.settings['node_name']:<9} {node.url}  log {node.log_file}")
    note(f"Serving on {url}. Press Ctrl-C to stop.")
    try:
        while True:
            time.sleep(WATCH_SECONDS)
            for node in cluster.nodes:
                if not node.is_running:
                    raise NodeUnreachable(
                        f"{node.settings['node_name']} exited with code "
                        f"{node.exit_code}: see {node.log_file}"
                    )
    except KeyboardInterrupt:
        note("Stopping ...")


# --- smoke check -------------------------------------------------------------------------


PROPAGATION_WRITES: Final = 200
SETTLE_SECONDS_MAX: Final = 20.0
NEW_ROUTE: Final = "espresso_machine"
NEW_UTTERANCES: Final = (
    "the coffee machine in the kitchen leaks",
    "the espresso maker does not heat up",
    "who repairs the coffee machine on our floor",
)
NEW_QUERY: Final = "our coffee maker is broken again"


@dataclass(frozen=True, slots=True)
class NodeState:
    """The state of one node, as it reports it."""

    name: str
    url: str
    version: str
    digest: str
    tensor_sha256: str
    lag_entries: int | None  # None if the node cannot know it
    answer: str | None


@dataclass(frozen=True, slots=True)
class SmokeCheck:
    """The result of the check."""

    nodes: tuple[NodeState, ...]
    front_answer: str | None
    propagation_ms: tuple[float, ...]
    is_consistent: bool


def run_check(cluster: LocalCluster) -> SmokeCheck:
    """Write through one node, then compare all nodes."""
    clients = [NodeClient(node.url, tls=cluster.tls) for node in cluster.nodes]
    try:
        clients[0].write(
            "PUT",
            f"/v1/routes/{NEW_ROUTE}?ack=all",
            {"name": NEW_ROUTE, "utterances": list(NEW_UTTERANCES)},
        )
        propagation_ms = _measure_propagation(clients)
        _wait_equal(clients)
        pairs = zip(clients, cluster.nodes, strict=True)
        nodes = tuple(_read_state(client, node.url) for client, node in pairs)
        with NodeClient(cluster.front_url, tls=cluster.tls) as front:
            front_answer = front.post("/v1/query", {"text": NEW_QUERY})["route"]
    finally:
        for client in clients:
            client.__exit__()
    same = {(node.version, node.digest, node.tensor_sha256, node.answer) for node in nodes}
    is_consistent = len(same) == 1 and front_answer == NEW_ROUTE == nodes[0].answer
    return SmokeCheck(nodes, front_answer, propagation_ms, is_consistent)


def _measure_propagation(clients: Sequence[NodeClient]) -> tuple[float, ...]:
    """Patch a route many times, through each node in turn; return each write's slowest node."""
    seqs: list[int] = []
    with progress("Writing", PROPAGATION_WRITES) as step:
        for index in range(PROPAGATION_WRITES):
            written = clients[index % len(clients)].write(
                "PATCH",
                f"/v1/routes/{NEW_ROUTE}",
                {"metadata": {"tour": index, "id": uuid.uuid4().hex}},
            )
            seqs.append(int(written["version"].partition(".")[2]))
            step(1)
    _wait_equal(clients)
    delays: list[dict[int, float]] = [
        {int(seq): ms for seq, ms in client.get("/-/propagation")["entries"]} for client in clients
    ]
    # A write without a delay on one of the nodes is left out: nodes keep only the newest.
    return tuple(max(node[seq] for node in delays) for seq in seqs if all(seq in d for d in delays))


def _wait_equal(clients: Sequence[NodeClient]) -> None:
    """Wait until every node is at one position."""
    versions: set[str] = set()
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while time.monotonic() < deadline:
        versions = {client.get("/-/digest")["version"] for client in clients}
        if len(versions) == 1:
            return
        time.sleep(0.05)
    raise CheckFailed(f"the nodes are at different positions: {', '.join(sorted(versions))}")


def _read_state(client: NodeClient, url: str) -> NodeState:
    digest = client.get("/-/digest")
    router = client.get("/-/state")["router"]
    follower = router["follower"] or {}
    match = client.post("/v1/query", {"text": NEW_QUERY})
    return NodeState(
        name=str(router["node"]),
        url=url,
        version=str(digest["version"]),
        digest=str(digest["digest"]),
        tensor_sha256=str(digest["tensor_sha256"]),
        lag_entries=follower.get("lag_entries", 0),
        answer=match["route"],
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def show_check(check: SmokeCheck, cluster: LocalCluster) -> None:
    print_table(
        ("node", "address", "position", "digest", "tensor", "lag", "answers"),
        [
            (
                node.name,
                node.url,
                node.version,
                node.digest[:16],
                node.tensor_sha256[:16],
                "unknown" if node.lag_entries is None else str(node.lag_entries),
                (node.answer or "no route", "ok" if node.answer == NEW_ROUTE else "fail"),
            )
            for node in check.nodes
        ],
        right=("lag",),
    )
    print_line(f"query     {NEW_QUERY!r}, for a route that was written through one node")
    print_line(f"front     {cluster.front_url} answers {check.front_answer}")
    p50, p99 = percentile(check.propagation_ms, 0.5), percentile(check.propagation_ms, 0.99)
    print_line(
        f"log to visible on all {len(check.nodes)} nodes: p50 {number(p50)} ms, "
        f"p99 {number(p99)} ms over {len(check.propagation_ms)} writes"
    )


def check_json(check: SmokeCheck, cluster: LocalCluster) -> dict[str, Any]:
    return {
        "is_one": check.is_consistent,
        "front_url": cluster.front_url,
        "front_answer": check.front_answer,
        "nodes": [asdict(node) for node in check.nodes],
        "propagation_ms": {
            "writes": len(check.propagation_ms),
            "p50": percentile(check.propagation_ms, 0.5),
            "p99": percentile(check.propagation_ms, 0.99),
        },
    }
