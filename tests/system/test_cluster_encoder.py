"""Goal: with the real model, a route written to one node is an answer of all nodes.

Method: two real nodes with the bundled encoder.
"""

from __future__ import annotations

import pytest

from node_cluster import StartCluster
from synaptoroute.config import DEFAULT_MODEL

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def test_route_of_one_node_answers_on_the_other(start_cluster: StartCluster) -> None:
    """The vector is computed once; the other node matches a paraphrase with it."""
    cluster = start_cluster("valkey", 2, model=DEFAULT_MODEL)
    cluster.put(0, "refund", "I want my money back", "how do I get a refund")
    written = cluster.put(1, "parcel", "where is my parcel", "track my order")
    assert written.at is not None
    version = f"{written.at.epoch}.{written.at.seq}"
    answers = [
        member.http.post(
            "/v1/query",
            json={"text": "please give me a refund of my money"},
            headers={"SR-Min-Version": version},
        ).json()
        for member in cluster.members
    ]

    assert ["refund", "refund"] == [answer["route"] for answer in answers]
    assert answers[0]["score"] == pytest.approx(answers[1]["score"], abs=1e-6)
    cluster.judge()
