"""``synaptoroute up``: start a cluster on this machine and check that its nodes agree."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import BadUsage, CheckFailed, NodeUnreachable
from synaptoroute.cli.local_cluster import NODES_MAX, LocalCluster
from synaptoroute.cli.processes import StopSignal, choose_port
from synaptoroute.cli.smoke_check import check_json, run_check, show_check
from synaptoroute.cli.terminal import note, print_json, print_line, waiting

DEFAULT_PORT: Final = 8080
COORDINATOR_PORT: Final = 8090
WATCH_SECONDS: Final = 0.5


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
    routes: Annotated[Path, typer.Option(help="Initial routes.")] = Path("examples/routes.yaml"),
    redis_url: Annotated[
        str | None,
        typer.Option(help="Existing Redis or Valkey; without it a private Valkey is started."),
    ] = None,
    namespace: Annotated[str, typer.Option(help="Name of the log on that server.")] = "local",
    model: Annotated[str, typer.Option(help="Encoder of every node.")] = "all-MiniLM-L6-v2-int8",
    coordinator: Annotated[
        bool, typer.Option(help="Start a coordinator with its dashboard, too.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Start a cluster on this machine, write through one node, and compare all nodes.

    Runs until Ctrl-C.
    """
    if not routes.is_file():
        raise BadUsage(
            f"{routes} does not exist: run this in the project folder, or give another file"
        )
    cluster = LocalCluster(
        count=nodes,
        folder=data,
        front_port=choose_port(port, DEFAULT_PORT),
        settings={"model": model},
        redis_url=redis_url,
        namespace=namespace,
        coordinator_port=choose_port(None, COORDINATOR_PORT) if coordinator and not once else None,
    )
    with StopSignal():
        try:
            with waiting(f"Starting {nodes} nodes ..."):
                cluster.start()
                cluster.wait_ready()
            _load_routes(cluster, routes)
            check = run_check(cluster)
            if as_json:
                print_json(check_json(check, cluster))
            else:
                show_check(check, cluster)
            if not check.is_consistent:
                raise CheckFailed("the nodes differ")
            if not once:
                _serve(cluster)
        finally:
            cluster.stop()


def _load_routes(cluster: LocalCluster, routes: Path) -> None:
    """Import the initial routes into a cluster without routes."""
    from synaptoroute.cli.route_files import ndjson_line, read_route_file

    with NodeClient(cluster.nodes[0].url) as client:
        if next(client.routes(), None) is None:
            lines = [ndjson_line(route) for route in read_route_file(routes).routes]
            client.upload("/v1/import", b"".join(lines), "application/x-ndjson")


def _serve(cluster: LocalCluster) -> None:
    """Wait for Ctrl-C, or for a node to exit."""
    url = cluster.front_url
    print_line(f"query     curl -s {url}/v1/query -H 'Content-Type: application/json' \\")
    print_line("""            -d '{"text": "Where is my order?", "explain": true}'""")
    print_line(f"cluster   curl -s {url}/v1/cluster")
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
