"""Databases and clusters of the release before open, join and upgrade one node at a time.

Real processes: the release before runs from its own sources, this one beside it, on one
Redis.  The disk and wire formats are equal, so a node may also go back.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node_cluster import Cluster, Member, StartCluster
from previous_release import previous_release, unpack_previous_release
from processes import NodeProcess
from synaptoroute.core.codec import LEVEL

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

ROUTES = {
    "billing": ["I need a refund", "Where is my receipt?", "Cancel my subscription"],
    "shipping": ["Where is my parcel?", "When does my order arrive?", "Track my package"],
    "login": ["I forgot my password", "I cannot sign in", "Reset my account"],
}
QUESTIONS = [
    "How do I get my money back?",
    "my package is late",
    "the password does not work",
    "what is the weather like",
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources of the release before."""
    return unpack_previous_release(tmp_path_factory.mktemp("previous"))


@pytest.fixture(params=["test-hash-64", "all-MiniLM-L6-v2-int8"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node on its own, not started."""
    process = NodeProcess(tmp_path / "node", {"model": request.param})
    yield process
    process.end()


@pytest.fixture(params=["unsigned", "signed"])
def secret(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Settings of a cluster without a secret, and with one."""
    if request.param == "unsigned":
        return {}
    path = tmp_path / "cluster.keys"
    path.write_text("k1 " + "s" * 32)
    return {"signing_keys_file": str(path)}


def fill(url: str) -> None:
    """Write routes, a second version of one, a deletion and settings."""
    with httpx.Client(base_url=url) as client:
        for name, utterances in ROUTES.items():
            body = {"utterances": utterances, "threshold": 0.2, "payload": {"queue": name}}
            client.put(f"/v1/routes/{name}", json=body).raise_for_status()
        client.put("/v1/routes/gone", json={"utterances": ["bye"]}).raise_for_status()
        client.delete("/v1/routes/gone").raise_for_status()
        more = {"utterances": ["Pay me back"]}
        client.post("/v1/routes/billing/utterances", json=more).raise_for_status()
        settings = client.get("/v1/settings").json() | {"threshold": 0.3}
        client.put("/v1/settings", json=settings).raise_for_status()


def seen(url: str) -> dict[str, Any]:
    """Position, digest, routes and answers of a node; the node's own name left out."""
    with httpx.Client(base_url=url) as client:
        answers = []
        for text in QUESTIONS:
            answer = client.post("/v1/query", json={"text": text, "limit": 3})
            answer.raise_for_status()
            answers.append({**answer.json(), "node": None})
        return {
            "digest": client.get("/-/digest").json(),
            "routes": client.get("/v1/routes").json(),
            "export": client.get("/v1/export").text,
            "settings": client.get("/v1/settings").json(),
            "answers": answers,
        }


def known_part(found: Any, former: Any) -> Any:
    """What a node shows, without the fields that the release before does not have."""
    if isinstance(found, dict) and isinstance(former, dict):
        return {name: known_part(found[name], former[name]) for name in found if name in former}
    if isinstance(found, list) and isinstance(former, list):
        assert len(former) == len(found)
        return [known_part(*pair) for pair in zip(found, former, strict=True)]
    return found


def test_database_of_the_previous_release_opens_unchanged(sources: Path, node: NodeProcess) -> None:
    """After kill -9 this release shows the same state and answers, and so does a way back."""
    with previous_release(sources):
        node.start()
        fill(node.url)
        before = seen(node.url)
        node.kill()

    node.start()
    after = seen(node.url)
    httpx.put(f"{node.url}/v1/routes/later", json={"utterances": ["later"]}).raise_for_status()
    later = seen(node.url)
    node.kill()

    assert before == known_part(after, before)
    with previous_release(sources):
        node.start()
        back = seen(node.url)
        assert back == known_part(later, back)
        node.stop()


def restart(member: Member) -> None:
    """Stop a node as a rolling update does, and start it again."""
    member.signal(signal.SIGTERM)
    member.process.wait()
    member.start()
    member.wait_ready()


def test_cluster_upgrades_one_node_at_a_time_and_back(
    sources: Path, start_cluster: StartCluster, secret: dict[str, str]
) -> None:
    """No query fails, no acknowledged write is lost, and every mixture of releases agrees."""
    with previous_release(sources):
        cluster: Cluster = start_cluster("redis", 3, **secret)
        cluster.put(0, "kept", "one text", "another text")
    with cluster.queries(0) as failed, cluster.writers(2):
        for member in cluster.members[1:]:
            restart(member)
    assert [] == failed
    with cluster.queries(1, 2) as failed, cluster.writers(2):
        restart(cluster[0])
    assert [] == failed
    cluster.judge()

    with previous_release(sources), cluster.queries(0) as failed, cluster.writers(2):
        restart(cluster[2])
    assert [] == failed
    cluster.judge()


def level_of(member: Member, *, apply: bool = False) -> dict[str, Any]:
    """Show, or raise, the level of the formats."""
    answer = member.http.post("/v1/cluster/finalize", json={"apply": apply}, timeout=20)
    answer.raise_for_status()
    return dict(answer.json())


def test_cluster_is_finalized_once_every_node_is_of_this_release(
    sources: Path, start_cluster: StartCluster, secret: dict[str, str]
) -> None:
    """While one node is of the release before nothing changes; afterwards it cannot come back."""
    with previous_release(sources):
        cluster: Cluster = start_cluster("redis", 3, **secret)
        cluster.put(0, "kept", "one text", "another text")
    for member in cluster.members[1:]:
        restart(member)
    mixed = level_of(cluster[1], apply=True)
    restart(cluster[0])
    cluster.settle()
    with cluster.queries(0, 1, 2) as failed, cluster.writers(2):
        raised = level_of(cluster[2], apply=True)
    assert [] == failed
    cluster.judge()

    assert (1, LEVEL, 1) == (mixed["level"], mixed["level_known"], len(mixed["waiting_for"]))
    assert (LEVEL, []) == (raised["level"], raised["waiting_for"])
    assert {LEVEL} == {level_of(member)["level"] for member in cluster.members}

    for member in cluster.members:
        member.kill()
        member.start()
        member.wait_ready()
    cluster.put(1, "later", "later text")
    cluster.judge()
    cluster[0].signal(signal.SIGTERM)
    cluster[0].process.wait()
    with previous_release(sources):
        cluster[0].start()
        assert cluster[0].process.wait() != 0
        assert f"schema version {LEVEL}" in cluster[0].process.log_file.read_text()
    cluster[0].start()
    cluster[0].wait_ready()
    cluster.judge()


def test_fresh_node_of_this_release_joins_a_cluster_of_the_previous(
    sources: Path, start_cluster: StartCluster
) -> None:
    """A new node takes a snapshot from an old peer, and an old one from a new peer."""
    with previous_release(sources):
        cluster: Cluster = start_cluster("redis", 2)
        for number in range(20):
            cluster.put(number % 2, f"r{number}", f"text {number}", f"other {number}")
        cluster.settle()
    cluster.trim()
    new = cluster.add(2)
    new.start()
    new.wait_ready()
    cluster.judge()

    with previous_release(sources):
        old = cluster.add(2)
        old.start()
        old.wait_ready()
    cluster.judge()
