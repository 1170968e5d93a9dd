"""Route names in letters of all scripts in a cluster that is upgraded node by node.

Real processes: nodes of level 3 from their own sources, beside those of this release.
"""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import quote

import pytest

from node_cluster import Cluster, Member, StartCluster, until
from previous_release import LEVEL_3_REVISION, previous_release, unpack_previous_release
from synaptoroute.core.codec import LEVEL

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NAME = "退款"
PATH = f"/v1/routes/{quote(NAME)}"
BODY = {"utterances": ["I want my money back", "我要退款"]}


def restart(member: Member) -> None:
    """Stop a node as a rolling update does, and start it again."""
    member.signal(signal.SIGTERM)
    member.process.wait()
    member.start()
    member.wait_ready()


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
    with cluster.queries(0) as failed, cluster.writers(2):
        for member in cluster.members[1:]:
            restart(member)
    assert [] == failed
    assert {(409, "not_finalized")} == refusals(cluster[1])
    with previous_release(sources), cluster.queries(0) as failed, cluster.writers(2):
        restart(cluster[2])
    assert [] == failed
    cluster.judge()

    for member in cluster.members:
        restart(member)
    cluster.settle()
    with cluster.queries(0, 1, 2) as failed, cluster.writers(2):
        raised = cluster[1].http.post("/v1/cluster/finalize", json={"apply": True}, timeout=20)
        assert (LEVEL, []) == (raised.json()["level"], raised.json()["waiting_for"])
        put = cluster[2].http.put(PATH, json=BODY, timeout=20)
        assert put.is_success, put.text
    assert [] == failed
    cluster.judge()
    until(lambda: len({str(shown(member)) for member in cluster.members}) == 1)
    assert (NAME, "exact") == shown(cluster[0])[1]

    for member in cluster.members:
        member.kill()
        member.start()
        member.wait_ready()
    cluster.judge()
    cluster.trim()
    newcomer = cluster.add(3)
    newcomer.start()
    newcomer.wait_ready()
    until(lambda: len({str(shown(member)) for member in cluster.members}) == 1)
    cluster[0].signal(signal.SIGTERM)
    cluster[0].process.wait()
    with previous_release(sources):
        cluster[0].start()
        assert cluster[0].process.wait() != 0
        assert f"schema version {LEVEL}" in cluster[0].process.log_file.read_text()
