"""Goal: after a network fault the nodes agree again.

Method: three real nodes, each behind a proxy that breaks its connections to Redis.
"""

from __future__ import annotations

import signal
import threading

import pytest

from checkers import Write
from fault_proxy import Fault
from node_cluster import Cluster, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
WRITES_COUNT = 15


@pytest.mark.parametrize(
    "fault", [Fault.BLACK_HOLE, Fault.TO_SERVER_ONLY, Fault.TO_CLIENT_ONLY], ids=lambda f: f.value
)
def test_isolated_node_serves_and_rejoins(shared: Cluster, fault: Fault) -> None:
    """A node notices half-open connections, keeps serving, and catches up."""
    with shared.queries(2) as failed:
        shared.cut(2, fault)
        until(lambda: shared[2].log_state == "away")
        written = [shared.put(n % 2, f"cut{n}") for n in range(WRITES_COUNT)]
        ready = shared[2].is_ready()
        shared.heal(2)
        until(lambda: shared[2].log_state == "open")
        shared.settle()

    assert [] == failed
    assert ready
    assert all(write.is_acknowledged for write in written)
    shared.judge()


def test_node_whose_connections_are_reset_comes_back(shared: Cluster) -> None:
    """Resets and short outages lose nothing."""
    with shared.writers(count=2), shared.queries(0, 1, 2) as failed:
        for node in (0, 1, 2):
            before = shared[node].follower["counts"]["bus_reconnects"]
            shared.cut(node, Fault.REFUSE, reset=True)
            until(lambda n=node, b=before: shared[n].follower["counts"]["bus_reconnects"] > b)
            shared.heal(node)
            until(lambda n=node: shared[n].follower["is_bus_live"])

    assert [] == failed
    shared.judge()


def test_slow_network_keeps_order(shared: Cluster) -> None:
    """With every packet of one node delayed, all nodes reach the same state."""
    proxy = shared[1].proxy
    assert proxy is not None
    proxy.delay_seconds = 0.05
    try:
        with shared.writers(count=3):
            count = len(shared.history.acknowledged)
            until(lambda: len(shared.history.acknowledged) >= count + 30)
    finally:
        proxy.delay_seconds = 0.0
    shared.judge()


def test_writes_of_a_cut_off_node_are_refused_with_a_time(shared: Cluster) -> None:
    """Without the log a write is refused, and the client is told when to retry."""
    shared.cut(0, Fault.REFUSE, reset=True)
    try:
        until(lambda: shared[0].log_state == "away")
        refused = shared[0].http.put("/v1/routes/homeless", json={"utterances": ["no order"]})
        ready = shared[0].is_ready()
    finally:
        shared.heal(0)
    until(lambda: shared[0].log_state == "open")

    assert (503, "sequencer_unavailable") == (refused.status_code, refused.json()["code"])
    assert int(refused.headers["Retry-After"]) >= 1
    assert ready
    assert 404 == shared[1].http.get("/v1/routes/homeless").status_code


def test_write_whose_reply_was_lost_is_entered_once(shared: Cluster) -> None:
    """The node searches the log for its write before it sends it again."""
    proxy = shared[0].proxy
    assert proxy is not None
    assert shared.put(0, "before").is_acknowledged  # Redis has the script of a write
    proxy.last_request = b"only once"
    results: list[Write] = []
    thread = threading.Thread(target=lambda: results.append(shared.put(0, "once", "only once")))
    thread.start()
    try:
        until(proxy.answers_held.is_set)
        until(lambda: shared[1].http.get("/v1/routes/once").status_code == 200)
    finally:
        shared.cut(0, Fault.NONE, reset=True)
        thread.join(30)
    again = shared.put(1, "once", "only once", key=results[0].op_id)

    assert again.is_acknowledged
    assert results[0].at in (None, again.at)
    shared.judge()


def test_slow_subscriber_that_redis_cuts_off_catches_up(shared: Cluster) -> None:
    """A frozen node overflows its output buffer; afterwards it catches up."""
    shared.server.call("CONFIG", "SET", "client-output-buffer-limit", "pubsub 262144 0 0")
    before = shared[2].follower["counts"]["bus_reconnects"]
    shared[2].signal(signal.SIGSTOP)
    try:
        for _ in range(120):
            shared.server.call("PUBLISH", "sr:{default}:bus", "x" * 130_000)
        written = [shared.put(n % 2, f"slow{n}") for n in range(WRITES_COUNT)]
    finally:
        shared[2].signal(signal.SIGCONT)
    until(lambda: shared[2].follower["counts"]["bus_reconnects"] > before)
    shared.settle()
    shared.server.call("CONFIG", "SET", "client-output-buffer-limit", "pubsub 33554432 8388608 60")

    assert all(write.is_acknowledged for write in written)
    shared.judge()


def test_ack_of_all_waits_for_the_slowest_and_says_where_to_look(shared: Cluster) -> None:
    """A frozen node counts as live for some seconds: the write is in the log, not failed."""
    shared[2].signal(signal.SIGSTOP)
    try:
        answer = shared[0].http.put(
            # Enough for the write itself on a busy machine, and less than a node counts as live.
            "/v1/routes/patient?ack=all&ack_timeout=2",
            json={"utterances": ["be patient"]},
        )
        quorum = shared[0].http.put(
            "/v1/routes/hasty?ack=quorum&ack_timeout=30", json={"utterances": ["two will do"]}
        )
    finally:
        shared[2].signal(signal.SIGCONT)
    told = answer.json()
    shared.settle()

    assert (202, "pending") == (answer.status_code, told["status"])
    assert f"/v1/ops/{told['op_id']}" == answer.headers["Location"]
    assert 200 == shared[1].http.get(answer.headers["Location"]).status_code
    assert (201, "quorum") == (quorum.status_code, quorum.json()["ack"])
    shared.judge()
