"""Goal: feedback and revisions survive crashes, are applied once, and leave no texts behind.

Method: three real nodes and a real server; SIGKILL between and during writes.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from typing import Any

import httpx
import pytest
import redis

from node_cluster import Cluster, Member, StartCluster, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def switch_on(cluster: Cluster, **queue: Any) -> None:
    """Switch the review queue on."""
    settings = cluster[0].http.get("/v1/settings").json()
    answer = cluster[0].http.put("/v1/settings?ack=all", json={**settings, "feedback": queue})
    assert 200 == answer.status_code, answer.text
    cluster.settle()  # every node must show it before it takes feedback


def say(member: Member, text: str, route: str | None) -> dict[str, Any]:
    answer = member.http.post("/v1/feedback?ack=all", json={"text": text, "route": route})
    assert answer.status_code in (200, 202), answer.text
    return dict(answer.json())


def items(member: Member) -> dict[str, dict[str, Any]]:
    """The review queue by identity."""
    found = member.http.get("/v1/feedback").json()["items"]
    return {each["id"]: each for each in found}


def test_feedback_and_revisions_survive_kills(start_cluster: StartCluster) -> None:
    """What was acknowledged is on every node, and one review has one effect."""
    cluster = start_cluster("valkey", 3)
    for name in ("a", "b"):
        cluster.put(0, name, f"an utterance of {name}")
    switch_on(cluster)
    said = [say(cluster[index % 3], f"said {index}", "ab"[index % 2]) for index in range(6)]
    cluster[1].kill()
    say(cluster[0], "said 0", "a")
    body = {
        "items": [{"id": each["id"], "as": "utterance"} for each in said[:4]],
    }
    headers = {"Idempotency-Key": "one-review"}
    first = cluster[0].http.post("/v1/feedback/resolve", json=body, headers=headers)
    again = cluster[2].http.post("/v1/feedback/resolve", json=body, headers=headers)
    cluster[1].start().wait_ready()
    cluster[2].kill()
    cluster[2].start().wait_ready()
    cluster.settle()

    assert 200 == first.status_code == again.status_code, (first.text, again.text)
    assert first.headers["SR-Version"] == again.headers["SR-Version"]
    queues = [items(member) for member in cluster.members]
    assert {said[4]["id"], said[5]["id"]} == set(queues[0])
    assert queues[0] == queues[1] == queues[2]
    for name, texts in (("a", {"said 0", "said 2"}), ("b", {"said 1", "said 3"})):
        route = cluster[1].http.get(f"/v1/routes/{name}").json()
        assert texts < set(route["utterances"])
        assert first.headers["SR-Version"] == route["revision"]
    digests = {member.http.get("/-/digest").json()["digest"] for member in cluster.members}
    assert 1 == len(digests)


def test_reviews_of_one_item_at_once_have_one_effect(start_cluster: StartCluster) -> None:
    """Three reviewers on three nodes: one wins whole, the others change nothing."""
    cluster = start_cluster("valkey", 3)
    for name in ("a", "b", "c"):
        cluster.put(0, name, f"an utterance of {name}")
    switch_on(cluster)
    item = say(cluster[0], "contested", None)
    found: dict[str, httpx.Response] = {}

    def resolve(index: int, name: str) -> None:
        body = {"items": [{"id": item["id"], "as": "utterance", "route": name}]}
        found[name] = cluster[index].http.post("/v1/feedback/resolve", json=body)

    threads = [threading.Thread(target=resolve, args=each) for each in enumerate("abc")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cluster.settle()
    holders = [
        name
        for name in "abc"
        if "contested" in cluster[2].http.get(f"/v1/routes/{name}").json()["utterances"]
    ]

    assert [200, 404, 404] == sorted(answer.status_code for answer in found.values())
    assert [name for name, answer in found.items() if answer.status_code == 200] == holders
    cluster.judge()


def test_texts_leave_every_node_and_redis_when_their_time_is_over(
    start_cluster: StartCluster,
) -> None:
    """Queue, op logs and the stream; the retention is seconds."""
    text = "a private text of somebody"
    cluster = start_cluster("valkey", 3)
    cluster.put(0, "a", "an utterance")
    switch_on(cluster, retention_days=8 / 86_400)
    say(cluster[1], text, "a")
    assert any(text.encode() in frame for frame in stream_of(cluster))
    until(lambda: not any(items(member) for member in cluster.members), 60.0)
    give_up_at = time.monotonic() + 120.0
    while time.monotonic() < give_up_at:
        cluster.put(0, "a", "an utterance", f"at {time.monotonic():.0f}")
        kept = any(text.encode() in frame for frame in stream_of(cluster))
        if not kept and not any(text.encode() in each for each in map(op_log_of, cluster.members)):
            break
        time.sleep(1.0)
    else:
        pytest.fail("the text is still there")
    cluster.judge()


def stream_of(cluster: Cluster) -> list[bytes]:
    """All values of the log in Redis."""
    with closing(redis.Redis.from_url(cluster.server.url)) as client:
        return [
            value
            for key in client.scan_iter()
            if client.type(key) == b"stream"
            for _, fields in client.xrange(key)
            for value in fields.values()
        ]


def op_log_of(member: Member) -> bytes:
    """All frames of a node's op log."""
    with closing(sqlite3.connect(member.database, timeout=10)) as raw:
        return b"".join(row[0] for row in raw.execute("SELECT frame FROM oplog"))
