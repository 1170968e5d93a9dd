"""Showing that a cluster is one: a write through one node, answers from all of them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import CheckFailed
from synaptoroute.cli.local_cluster import LocalCluster
from synaptoroute.cli.terminal import number, print_line, print_table, progress

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
class NodeView:
    """One node, as it says of itself.

    Attributes:
        name: Its name.
        url: Its own address.
        version: Its position.
        digest: Digest of its state there.
        tensor_sha256: SHA-256 of its tensor.
        lag_entries: How far it says it is behind.
        answer: The route it gives for the query of the tour.
    """

    name: str
    url: str
    version: str
    digest: str
    tensor_sha256: str
    lag_entries: int
    answer: str | None


@dataclass(frozen=True, slots=True)
class Tour:
    """What a tour found.

    Attributes:
        nodes: Every node.
        front_answer: The route that the front door gives.
        propagation_ms: Of each write, the time from the log to the last node.
        is_one: Whether nothing differs.
    """

    nodes: tuple[NodeView, ...]
    front_answer: str | None
    propagation_ms: tuple[float, ...]
    is_one: bool


def take_tour(cluster: LocalCluster) -> Tour:
    """Write through one node, then compare all of them.

    Raises:
        CheckFailed: The nodes do not come to one position in time.
    """
    clients = [NodeClient(node.url) for node in cluster.nodes]
    try:
        clients[0].write(
            "PUT",
            f"/v1/routes/{NEW_ROUTE}?ack=all",
            {"name": NEW_ROUTE, "utterances": list(NEW_UTTERANCES)},
        )
        propagation_ms = _measure(clients)
        _settle(clients)
        pairs = zip(clients, cluster.nodes, strict=True)
        nodes = tuple(_look(client, node.url) for client, node in pairs)
        with NodeClient(cluster.front_url) as front:
            front_answer = front.post("/v1/query", {"text": NEW_QUERY})["route"]
    finally:
        for client in clients:
            client.__exit__()
    same = {(node.version, node.digest, node.tensor_sha256, node.answer) for node in nodes}
    is_one = len(same) == 1 and front_answer == NEW_ROUTE == nodes[0].answer
    return Tour(nodes, front_answer, propagation_ms, is_one)


def _measure(clients: Sequence[NodeClient]) -> tuple[float, ...]:
    """Patch a route many times, through each node in turn; take each write's slowest node."""
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
    _settle(clients)
    delays: list[dict[int, float]] = [
        {int(seq): ms for seq, ms in client.get("/-/propagation")["entries"]} for client in clients
    ]
    return tuple(max(node[seq] for node in delays) for seq in seqs if all(seq in d for d in delays))


def _settle(clients: Sequence[NodeClient]) -> None:
    """Wait until every node stands at one position."""
    versions: set[str] = set()
    give_up_at = time.monotonic() + SETTLE_SECONDS_MAX
    while time.monotonic() < give_up_at:
        versions = {client.get("/-/digest")["version"] for client in clients}
        if len(versions) == 1:
            return
        time.sleep(0.05)
    raise CheckFailed(f"the nodes stand at different positions: {', '.join(sorted(versions))}")


def _look(client: NodeClient, url: str) -> NodeView:
    digest = client.get("/-/digest")
    router = client.get("/-/state")["router"]
    follower = router["follower"] or {}
    match = client.post("/v1/query", {"text": NEW_QUERY})
    return NodeView(
        name=str(router["node"]),
        url=url,
        version=str(digest["version"]),
        digest=str(digest["digest"]),
        tensor_sha256=str(digest["tensor_sha256"]),
        lag_entries=int(follower.get("lag_entries", 0)),
        answer=match["route"],
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def show_tour(tour: Tour, cluster: LocalCluster) -> None:
    """Print what a tour found."""
    print_table(
        ("node", "address", "position", "digest", "tensor", "lag", "answers"),
        [
            (
                node.name,
                node.url,
                node.version,
                node.digest[:16],
                node.tensor_sha256[:16],
                str(node.lag_entries),
                (node.answer or "no route", "ok" if node.answer == NEW_ROUTE else "fail"),
            )
            for node in tour.nodes
        ],
        right=("lag",),
    )
    print_line(f"asked     {NEW_QUERY!r}, of a route that was added through one node")
    print_line(f"front     {cluster.front_url} answers {tour.front_answer}")
    p50, p99 = percentile(tour.propagation_ms, 0.5), percentile(tour.propagation_ms, 0.99)
    print_line(
        f"log to visible on all {len(tour.nodes)} nodes: p50 {number(p50)} ms, "
        f"p99 {number(p99)} ms over {len(tour.propagation_ms)} writes"
    )


def tour_json(tour: Tour, cluster: LocalCluster) -> dict[str, Any]:
    """What a tour found, for machines."""
    return {
        "is_one": tour.is_one,
        "front_url": cluster.front_url,
        "front_answer": tour.front_answer,
        "nodes": [
            {name: getattr(node, name) for name in NodeView.__slots__} for node in tour.nodes
        ],
        "propagation_ms": {
            "writes": len(tour.propagation_ms),
            "p50": percentile(tour.propagation_ms, 0.5),
            "p99": percentile(tour.propagation_ms, 0.99),
        },
    }
