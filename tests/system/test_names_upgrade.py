"""Route names in letters of all scripts in a cluster that is upgraded node by node.

Real processes: nodes of level 3 from their own sources, beside those of this release.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from node_cluster import Cluster, Member, StartCluster
from previous_release import LEVEL_3_REVISION, previous_release, unpack_previous_release
from upgrades import outlive_everything, upgrade_and_finalize, upgrade_in_part

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NAME = "退款"
PATH = f"/v1/routes/{quote(NAME)}"
BODY = {"utterances": ["I want my money back", "我要退款"]}


def refusals(member: Member) -> set[tuple[int, str]]:
    answers = [
        member.http.put(PATH, json=BODY),
        member.http.post("/v1/import", json=[{"name": NAME, **BODY}]),
    ]
    return {(each.status_code, each.json()["code"]) for each in answers}


def shown(member: Member) -> tuple[object, object]:
    answer = member.http.post("/v1/query", json={"text": "我要退款"}).json()
    return member.http.get("/-/digest").json(), (answer["route"], answer["reason"])


def test_names_wait_for_all_nodes_and_nothing_is_lost(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """Rolling upgrade, rollback, upgrade and finalization under writers and queries."""
    sources = unpack_previous_release(tmp_path / "sources", LEVEL_3_REVISION)
    with previous_release(sources):
        cluster: Cluster = start_cluster("redis", 3)
        assert 422 == cluster[0].http.put(PATH, json=BODY).status_code

    def write() -> None:
        put = cluster[2].http.put(PATH, json=BODY, timeout=20)
        assert put.is_success, put.text

    upgrade_in_part(cluster, sources, refusals)
    upgrade_and_finalize(cluster, write)
    assert (NAME, "exact") == shown(cluster[0])[1]
    outlive_everything(cluster, sources, shown)
