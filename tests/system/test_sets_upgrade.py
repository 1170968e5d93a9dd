"""Route sets in a cluster that is upgraded node by node.

Real processes: nodes of level 4 from their own sources, beside those of this release.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node_cluster import Cluster, Member, StartCluster, until
from previous_release import LEVEL_4_REVISION, previous_release, unpack_previous_release
from upgrades import Refusals, outlive_everything, upgrade_and_finalize, upgrade_in_part

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

ROUTE = {"utterances": ["I want my money back", "refund my order"]}
IN_A_SET = "/v1/sets/support/routes/refund"


def refusals(member: Member) -> Refusals:
    """What a node says to writes that only level 5 knows."""
    http = member.http
    # A client may write at any node what it read at another: ``auto`` is off below level 5.
    settings = http.get("/v1/settings").json()
    assert settings["cascade"] is False
    for said in (False, "auto"):
        http.put("/v1/settings", json={**settings, "cascade": said}).raise_for_status()
    assert settings == http.get("/v1/settings").json()
    assert "not_finalized" == http.get("/v1/settings/cascade").json()["reason"]
    answers = [
        http.put("/v1/sets/support"),
        http.post("/v1/sets/default/fork", json={"as": "draft"}),
        http.put("/v1/aliases/live", json={"set": "default"}),
        http.put("/v1/tests", json={"tests": [{"text": "money", "route": "refund"}]}),
        http.put(IN_A_SET, json=ROUTE),
    ]
    return {(each.status_code, each.json()["code"]) for each in answers}


def shown(member: Member) -> dict[str, Any]:
    """What a node holds of sets, and what they answer."""
    http, asked = member.http, {"text": "I want my money back"}
    sets = http.get("/v1/sets").json()["sets"]
    return {
        "sets": [(each["name"], each["utterances"], each["revision"]) for each in sets],
        "aliases": http.get("/v1/aliases").json()["aliases"],
        "cascade": http.get("/v1/settings").json()["cascade"],
        "digest": http.get("/-/digest").json(),
        "answers": {
            name: http.post(f"/v1/sets/{name}/query", json=asked).json()["route"]
            for name in ("default", "support", "draft", "live")
        },
    }


def test_sets_wait_for_all_nodes_and_nothing_is_lost(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """Rolling upgrade, rollback, upgrade and finalization under writers and queries."""
    sources = unpack_previous_release(tmp_path / "sources", LEVEL_4_REVISION)
    with previous_release(sources):
        cluster: Cluster = start_cluster("redis", 3)
        cluster[0].http.put("/v1/routes/kept", json=ROUTE).raise_for_status()

    def write() -> None:
        for number, (method, path, body) in enumerate(
            [
                ("PUT", "/v1/sets/support", {}),
                ("PUT", IN_A_SET, ROUTE),
                ("POST", "/v1/sets/support/fork", {"as": "draft"}),
                ("PUT", "/v1/sets/draft/routes/money", {"utterances": ["money"]}),
                ("PUT", "/v1/aliases/live", {"set": "draft", "shadow": "support"}),
            ]
        ):
            answer = cluster[number % 3].http.request(method, path, json=body, timeout=20)
            assert answer.is_success, (path, answer.text)
            version = answer.headers["SR-Version"]
            for member in cluster.members:
                wanted = {"SR-Min-Version": version}
                until(lambda m=member, w=wanted: m.http.get("/v1/sets", headers=w).is_success)

    upgrade_in_part(cluster, sources, refusals)
    upgrade_and_finalize(cluster, write)
    answers = {"default": "kept", "support": "refund", "draft": "refund", "live": "refund"}
    found = shown(cluster[0])
    assert (answers, "auto") == (found["answers"], found["cascade"])
    outlive_everything(cluster, sources, shown)
