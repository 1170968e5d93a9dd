"""Descriptions, negatives, confidences and fits in clusters that are upgraded node by node.

Real processes: nodes of earlier releases from their own sources, beside those of this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from node_cluster import Cluster, Member, StartCluster, until
from previous_release import (
    LEVEL_2_REVISION,
    REVISION,
    previous_release,
    unpack_previous_release,
)
from processes import NodeProcess
from synaptoroute.core.codec import LEVEL
from upgrades import outlive_everything, restart, upgrade_and_finalize, upgrade_in_part

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

WORDS = "red blue green black white brown pink grey gold silver".split()
NEW: dict[str, Any] = {
    "confidence_min": 0.25,
    "description": "everything about apples",
    "negatives": ["no apples please", "never an apple"],
}


def body(name: str, **fields: Any) -> dict[str, Any]:
    """A route of ten utterances."""
    return {"utterances": [f"{name} thing {n} {word}" for n, word in enumerate(WORDS)], **fields}


def refusals(member: Member) -> set[tuple[int, str]]:
    """What a node says to writes with new fields."""
    settings = member.http.get("/v1/settings").json()
    answers = [
        member.http.put("/v1/routes/apple", json=body("apple", **NEW)),
        member.http.patch("/v1/routes/apple", json={"confidence_min": 0.5}),
        member.http.put("/v1/settings", json={**settings, "confidence_min": 0.5}),
        member.http.post("/v1/import", json=[{"name": "apple", **body("apple", **NEW)}]),
        member.http.post("/v1/settings/calibration"),
    ]
    return {(each.status_code, each.json()["code"]) for each in answers}


def shown(member: Member) -> dict[str, Any]:
    """What a node holds of the new kind."""
    route = member.http.get("/v1/routes/apple").json()
    calibration = member.http.get("/v1/settings/calibration").json()
    numbers = {name: calibration[name] for name in ("at", "fitted_by", "accuracy", "curve")}
    return {
        **{name: route[name] for name in ("confidence_min", "description")},
        "negatives": sorted(route["negatives"]),
        "digest": member.http.get("/-/digest").json(),
        **numbers,
    }


@pytest.mark.parametrize(
    "revision", [REVISION, pytest.param(LEVEL_2_REVISION, marks=pytest.mark.accept)]
)
def test_new_fields_wait_for_all_nodes_and_nothing_is_lost(
    start_cluster: StartCluster, tmp_path: Path, revision: str
) -> None:
    """Rolling upgrade, rollback, upgrade and finalization under writers and queries."""
    sources = unpack_previous_release(tmp_path / "sources", revision)
    with previous_release(sources):
        cluster: Cluster = start_cluster("redis", 3, fit_confidence="true")
        for name in ("apple", "pear", "plum", "fig"):
            cluster[0].http.put(f"/v1/routes/{name}", json=body(name)).raise_for_status()

    def write() -> None:
        put = cluster[2].http.put("/v1/routes/apple", json=body("apple", **NEW), timeout=20)
        assert 200 == put.status_code, put.text
        patch = {"negatives": ["no apples please"]}
        cluster[0].http.patch("/v1/routes/apple", json=patch, timeout=20).raise_for_status()
        until(lambda: cluster[0].http.get("/v1/settings/calibration").json()["at"] is not None)

    upgrade_in_part(cluster, sources, refusals)
    upgrade_and_finalize(cluster, write)
    until(lambda: ["no apples please"] == shown(cluster[0])["negatives"])
    outlive_everything(cluster, sources, shown)


def feedback_refusals(member: Member) -> list[tuple[int, str]]:
    """Answers of a node to feedback, reviews and revisions."""
    http, settings = member.http, member.http.get("/v1/settings").json()
    said = {"text": "an apple", "route": "apple", "was": None}
    learned = [{"name": "apple", "utterances": ["a green apple"]}]
    answers = [
        http.put("/v1/settings", json={**settings, "feedback": {"items_max": 10}}),
        http.post("/v1/feedback", json=said),
        http.post("/v1/feedback/resolve", json={"items": [{"id": "0" * 16, "as": "dismiss"}]}),
        http.post("/v1/revisions", json={"routes": learned}),
    ]
    return [(each.status_code, each.json()["code"]) for each in answers]


def queue_of(member: Member) -> dict[str, int]:
    """Texts of the review queue, and how often each was said."""
    answer = member.http.get("/v1/feedback")
    return {each["text"]: each["times"] for each in answer.raise_for_status().json()["items"]}


def test_feedback_waits_for_all_nodes_and_none_is_lost(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """Rolling upgrade, rollback, upgrade, finalization, kills and a node that joins later."""
    sources = unpack_previous_release(tmp_path / "sources")
    with previous_release(sources):
        cluster: Cluster = start_cluster("redis", 3)
        for name in ("apple", "pear"):
            cluster[0].http.put(f"/v1/routes/{name}", json=body(name)).raise_for_status()
    for member in cluster.members[1:]:
        restart(member)
    for member in cluster.members[1:]:
        assert {(409, "not_finalized")} == set(feedback_refusals(member))
    with previous_release(sources):
        restart(cluster[2])
    digests = {member.http.get("/-/digest").json()["digest"] for member in cluster.members}
    assert 1 == len(digests)

    for member in cluster.members:
        restart(member)
    cluster.settle()
    assert {} == queue_of(cluster[0])
    raised = cluster[1].http.post("/v1/cluster/finalize", json={"apply": True}, timeout=20)
    assert LEVEL == raised.json()["level"]
    settings = cluster[2].http.get("/v1/settings").json()
    wanted = {**settings, "feedback": {"items_max": 10}}
    cluster[2].http.put("/v1/settings?ack=all", json=wanted).raise_for_status()
    cluster.settle()  # every node must show it before it takes feedback
    for number in range(6):
        said = {"text": f"said {number % 5}", "route": "apple"}
        cluster[number % 3].http.post("/v1/feedback?ack=all", json=said).raise_for_status()
    wanted_items = {"said 0": 2, **{f"said {number}": 1 for number in range(1, 5)}}
    for member in cluster.members:
        member.kill()
        member.start()
        member.wait_ready()
    cluster.judge()
    cluster.trim()
    newcomer = cluster.add(3)
    newcomer.start()
    newcomer.wait_ready()
    cluster.judge()
    assert [wanted_items] * 4 == [queue_of(member) for member in cluster.members]


@pytest.mark.parametrize("revision", [REVISION, LEVEL_2_REVISION])
def test_standalone_database_opens_and_goes_back_until_it_is_finalized(
    tmp_path: Path, revision: str
) -> None:
    """Its decisions are as before: aggregation, threshold and confidence stay."""
    sources = unpack_previous_release(tmp_path / "sources", revision)
    node = NodeProcess(tmp_path / "node", {"model": "test-hash-64"})
    try:
        with previous_release(sources):
            node.start()
            for name in ("apple", "pear", "plum", "fig"):
                httpx.put(f"{node.url}/v1/routes/{name}", json=body(name)).raise_for_status()
            before = state_of(node.url)
            node.kill()
        node.start()
        assert before == state_of(node.url)
        refused = httpx.put(f"{node.url}/v1/routes/apple", json=body("apple", **NEW))
        assert (409, "not_finalized") == (refused.status_code, refused.json()["code"])
        httpx.put(f"{node.url}/v1/routes/later", json=body("later")).raise_for_status()
        later = state_of(node.url)
        node.kill()
        with previous_release(sources):
            node.start()
            assert later == state_of(node.url)
            node.stop()
        node.start()
        httpx.post(f"{node.url}/v1/cluster/finalize", json={"apply": True}).raise_for_status()
        # Earlier releases cannot tell a set that was never asked from one without a cascade.
        assert {**later["settings"], "cascade": "auto"} == state_of(node.url)["settings"]
        httpx.put(f"{node.url}/v1/routes/apple", json=body("apple", **NEW)).raise_for_status()
        node.kill()
        node.start()
        assert NEW["description"] == httpx.get(f"{node.url}/v1/routes/apple").json()["description"]
    finally:
        node.end()


def state_of(url: str) -> dict[str, Any]:
    """Routes, settings and digest of a node, and the best route of some texts."""
    with httpx.Client(base_url=url) as client:
        texts = ["apple thing 3 black", "where is my pear", "plum", "something else"]
        answers = [client.post("/v1/query", json={"text": text}).json() for text in texts]
        kept = ("route", "score", "threshold", "utterance", "runner_up")
        return {
            "digest": client.get("/-/digest").json(),
            "routes": client.get("/v1/routes").json(),
            "settings": client.get("/v1/settings").json(),
            "answers": [{name: each[name] for name in kept} for each in answers],
        }
