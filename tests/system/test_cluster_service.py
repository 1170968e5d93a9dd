"""Goal: the guarantees hold for clients of any node.  Method: three real nodes, HTTP."""

from __future__ import annotations

import json
import threading
import uuid
from typing import Any

import pytest

from checkers import Read, Version
from node_cluster import Cluster, cluster_on, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def test_writes_through_any_node_are_one_history(shared: Cluster) -> None:
    """Concurrent writes to all nodes leave them with identical states."""
    with shared.writers(count=4), shared.queries(0, 1, 2) as failed:
        until(lambda: len(shared.history.acknowledged) >= 60)

    assert [] == failed
    shared.judge()


def add_to(cluster: Cluster, node: int, found: dict[str, Any]) -> str:
    """Increment a counter under a precondition; retry with one key until decided."""
    key, path = uuid.uuid4().hex, "/v1/routes/counter"
    payload = {"payload": found["payload"] + 1}

    def attempt() -> str | None:
        written = cluster.write(node, "PATCH", path, payload, key=key, if_match=found["revision"])
        is_decided = written.outcome in ("applied", "precondition_failed")
        return written.outcome if is_decided else None

    return until(attempt, 60)


def test_fifty_writers_count_by_if_match(shared: Cluster) -> None:
    """Fifty clients increment a counter; each increment sees the one before it."""
    shared.write(0, "PUT", "/v1/routes/counter", {"utterances": ["count"], "payload": 0})
    shared.settle()

    def add_one(number: int) -> None:
        node = number % 3
        while True:
            found = shared[node].http.get("/v1/routes/counter").json()
            if add_to(shared, node, found) == "applied":
                return

    threads = [threading.Thread(target=add_one, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    shared.settle()

    assert [50, 50, 50] == [
        member.http.get("/v1/routes/counter").json()["payload"] for member in shared.members
    ]
    shared.judge()


def test_retry_with_the_same_key_on_another_node_has_one_effect(shared: Cluster) -> None:
    """A client that lost the answer asks another node and gets the first result."""
    key = uuid.uuid4().hex
    first = shared.put(0, "retried", "try me", key=key)
    again = shared.put(1, "retried", "try me", key=key)
    other = shared.put(2, "retried", "something else", key=key)

    assert (200, first.at) == (again.status // 100 * 100, again.at)
    assert (422, "idempotency_conflict") == (other.status, other.outcome)
    shared.judge()


def test_client_reads_its_writes_through_any_node(shared: Cluster) -> None:
    """With the version of its write a round-robin client never sees older routes."""
    for number in range(30):
        written = shared.put(number % 3, "mine", f"mine {number}", client="me")
        assert written.at is not None
        version = f"{written.at.epoch}.{written.at.seq}"
        answer = shared[(number + 1) % 3].http.get(
            "/v1/routes/mine", headers={"SR-Min-Version": version}
        )
        at = Version.of(answer.headers["SR-Version"])
        shared.history.read(Read("me", written.ended, written.ended + 1e-9, at, written.at))

        assert [f"mine {number}"] == answer.json()["utterances"]
    shared.judge()


def test_future_version_is_refused_before_the_deadline(shared: Cluster) -> None:
    """A node that does not reach the version in time returns when to retry."""
    # A version of an earlier epoch would be lost, not in the future.
    future = f"{shared[0].version.epoch}.999999"
    answer = shared[0].http.post(
        "/v1/query",
        json={"text": "anything"},
        headers={"SR-Min-Version": future, "SR-Min-Version-Timeout": "0.2"},
    )

    assert (503, "not_caught_up") == (answer.status_code, answer.json()["code"])
    assert "Retry-After" in answer.headers


def test_consistency_head_sees_what_another_node_wrote(shared: Cluster) -> None:
    """``consistency=head`` needs no token."""
    for number in range(10):
        shared.put(0, "headed", f"headed {number}")
        found = shared[1].http.get("/v1/routes/headed", params={"consistency": "head"}).json()

        assert [f"headed {number}"] == found["utterances"]


@pytest.mark.parametrize("ack", ["accepted", "applied", "quorum", "all"])
def test_reached_ack_level_is_reported(shared: Cluster, ack: str) -> None:
    """Each level answers with itself; only ``accepted`` is decided later."""
    answer = shared[0].http.put(
        f"/v1/routes/ack-{ack}?ack={ack}", json={"utterances": [f"ack {ack}"]}
    )
    told = answer.json()
    found = until(lambda: _op(shared, 1, told["op_id"]))

    assert (202 if ack == "accepted" else 201) == answer.status_code
    assert ack == told["ack"]
    assert "applied" == found["status"]
    if ack == "accepted":
        assert f"/v1/ops/{told['op_id']}" == answer.headers["Location"]


def _op(cluster: Cluster, node: int, op_id: str) -> dict[str, str] | None:
    answer = cluster[node].http.get(f"/v1/ops/{op_id}")
    found: dict[str, str] = answer.json()
    return found if answer.status_code == 200 and found["status"] == "applied" else None


def test_clusters_of_two_namespaces_share_a_server(shared: Cluster) -> None:
    """Neither sees the other's routes, nodes or bus."""
    with cluster_on(shared.folder / "other", shared.server, 1, namespace="other") as other:
        until(lambda: other.put(0, "theirs", "only there").is_acknowledged)
        ours = shared.put(0, "ours", "only here")
        until(lambda: ours.is_acknowledged)

        assert 404 == shared[0].http.get("/v1/routes/theirs").status_code
        assert 404 == other[0].http.get("/v1/routes/ours").status_code
        assert 1 == len(other[0].http.get("/v1/cluster").json()["nodes"])
        assert 0 == other[0].follower["counts"]["forks"]
        other.judge()
    shared.judge()


def test_node_with_another_encoder_is_not_ready_and_writes_nothing(shared: Cluster) -> None:
    """A node with another encoder reports the reason and is not ready."""
    other = shared.add(3, model="test-hash-128")
    try:
        other.start()
        until(lambda: other.http.get("/-/state").json()["router"]["follower"] is not None)
        until(lambda: other.log_state == "mismatch")
        ready = other.http.get("/readyz")
        refused = other.http.put("/v1/routes/alien", json={"utterances": ["hello"]})

        assert 503 == ready.status_code
        assert "encoder" in ready.text
        assert (409, "encoder_mismatch") == (refused.status_code, refused.json()["code"])
    finally:
        shared.dismiss(other)
    shared.judge()


def test_foreign_messages_on_the_bus_change_nothing(shared: Cluster) -> None:
    """Malformed, truncated, forged and replayed messages have no effect."""
    shared.put(0, "before", "before the noise")
    shared.settle()
    at = shared[0].version
    zeros = "0" * 40
    for message in (
        "garbage",
        "SR1 E 1",
        "x" * 200_000,
        f"SR1 E {at.epoch} {at.seq + 1} {zeros} {'a' * 40} 1 4\nabcd",
        f"SR1 B {at.epoch} {at.seq + 5000} {'b' * 40} 1 open liar\n",
        f"SR1 B {at.epoch + 9} 1 {zeros} 1 recovering liar\n",
        f"SR1 P {at.epoch} {at.seq + 1} {zeros} {'c' * 40} 1 4\nabcd",
    ):
        shared.server.call("PUBLISH", "sr:{default}:bus", message)
    after = shared.put(1, "after", "after the noise")

    assert after.is_acknowledged
    assert at.seq + 1 == (after.at.seq if after.at else 0)
    for member in shared.members:
        assert "open" == member.log_state
        assert 0 == member.follower["counts"]["forks"]
    shared.judge()


def test_large_entry_travels_by_the_log(shared: Cluster) -> None:
    """An entry over the bus limit is announced there and read from the log."""
    texts = [f"large utterance number {n}" for n in range(200)]
    written = shared.put(0, "large", *texts)
    shared.settle()

    assert written.is_acknowledged
    for member in shared.members:
        assert 200 == len(member.http.get("/v1/routes/large").json()["utterances"])
    assert any(member.follower["counts"]["announced"] for member in shared.members)
    shared.judge()


def test_huge_bodies_are_refused_before_they_are_read(shared: Cluster) -> None:
    """A body over the limit never reaches the log."""
    before = shared.settle()
    json_type = {"Content-Type": "application/json"}
    body = json.dumps({"utterances": ["x" * 17_000_000]})
    huge = shared[0].http.put("/v1/routes/huge", content=body, headers=json_type)
    deep = shared[0].http.put("/v1/routes/deep", content="[" * 100_000, headers=json_type)

    assert 413 == huge.status_code
    assert deep.status_code in (400, 422)
    assert before == shared.settle()
