"""Goal: ``ack_timeout`` bounds a whole write, and a key resolves what it left unknown.

Method: a real Redis that stops answering, or a node that is cut off, under real nodes.
"""

from __future__ import annotations

import threading
import time
import uuid

import httpx
import pytest

from fault_proxy import Fault
from node_cluster import Cluster, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

TIMEOUT_SECONDS = 1
ANSWER_SECONDS_MAX = 2.5
"""The timeout, and time for a busy machine to notice it; without it a write took 8 seconds."""


def put(cluster: Cluster, node: int, name: str, key: str, ack: str = "applied") -> httpx.Response:
    """Put a route with a key and a timeout."""
    return cluster[node].http.put(
        f"/v1/routes/{name}",
        params={"ack": ack, "ack_timeout": TIMEOUT_SECONDS},
        headers={"Idempotency-Key": key},
        json={"utterances": [f"{name} words"]},
    )


@pytest.mark.parametrize("ack", ["accepted", "applied", "quorum"])
def test_frozen_redis_costs_no_more_than_the_timeout(shared: Cluster, ack: str) -> None:
    """The answer comes in time and says what is known; the same key finds the outcome."""
    names = [f"frozen-{ack}-{n}" for n in range(4)]
    keys = [uuid.uuid4().hex for _ in names]
    seconds: list[float] = []
    answers: list[httpx.Response] = []

    def run(name: str, key: str) -> None:
        started = time.monotonic()
        answers.append(put(shared, 0, name, key, ack))
        seconds.append(time.monotonic() - started)

    shared.server.pause()
    try:
        threads = [
            threading.Thread(target=run, args=pair) for pair in zip(names, keys, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        shared.server.resume()
    until(lambda: shared[0].log_state == "open")
    repeated = [put(shared, 1, name, key) for name, key in zip(names, keys, strict=True)]
    again = [put(shared, 2, name, key) for name, key in zip(names, keys, strict=True)]
    shared.settle()

    assert max(seconds) < ANSWER_SECONDS_MAX, seconds
    for answer in answers:
        assert 503 == answer.status_code, answer.text
        assert answer.json()["outcome"] in ("not_taken", "unknown")
    assert {201} == {answer.status_code for answer in repeated}
    assert [answer.text for answer in repeated] == [answer.text for answer in again]


def test_unknown_write_of_a_cut_off_node_is_resolved_by_its_key(shared: Cluster) -> None:
    """Redis took the write and the answer was lost: ``unknown``, then the same answer twice."""
    key = uuid.uuid4().hex
    # Redis has the script of a write.
    assert 201 == put(shared, 0, "before-the-lost", uuid.uuid4().hex).status_code
    proxy = shared[0].proxy
    assert proxy is not None
    proxy.last_request = b"lost-answer words"
    try:
        started = time.monotonic()
        lost = put(shared, 0, "lost-answer", key)
        seconds = time.monotonic() - started
        through_another = put(shared, 1, "lost-answer", key)
    finally:
        shared.cut(0, Fault.NONE, reset=True)
    until(lambda: shared[0].log_state == "open")
    shared.settle()
    through_itself = put(shared, 0, "lost-answer", key)

    assert seconds < ANSWER_SECONDS_MAX
    assert (503, "unknown") == (lost.status_code, lost.json()["outcome"])
    assert 201 == through_another.status_code
    assert through_another.text == through_itself.text
    assert through_another.headers["SR-Version"] == through_itself.headers["SR-Version"]
