"""A cluster of real containers behind HAProxy, and what clients see while parts of it fail.

The tests share one stack and run in the order of the file; each leaves it whole.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from containers import IMAGES, Stack, require_images, wait_until
from house import ROOT

sys.path.insert(0, str(ROOT / "deploy"))
from load import Load

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

CALM_SECONDS = float(os.environ.get("CALM_SECONDS", "3"))
NODES = 3


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Three nodes, Redis, the coordinator and HAProxy."""
    require_images(*IMAGES)
    stack = Stack()
    try:
        yield stack.start(NODES)
    finally:
        stack.stop()


@pytest.fixture(autouse=True)
def _logs_of_a_failure(request: pytest.FixtureRequest, stack: Stack) -> Iterator[None]:
    """Print the containers' logs where a test fails."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        raise AssertionError(stack.logs())


def calm(times: float = 1.0) -> None:
    """Let the load go on for a moment."""
    time.sleep(CALM_SECONDS * times)


def all_answered(load: Load) -> None:
    """There was a load, queries and writes where it has them, and nothing of it failed."""
    assert [] == load.failures
    assert 50 < len(load.seconds)
    assert not load.has_writes or len(load.writes) > 5


def test_containers_hold_no_privilege(stack: Stack) -> None:
    """Seen from inside: not root, nothing to write on, no capability, nothing to gain."""
    look = "id -u; grep -E '^(CapEff|CapBnd|CapPrm|NoNewPrivs|Seccomp):' /proc/self/status"
    every = [*stack.nodes.values(), *stack.others.values()]
    for container in every:
        _, out = container.exec_run(["sh", "-c", look])
        words = out.decode().split()
        code, said = container.exec_run(["sh", "-c", "touch /usr/x"])

        assert int(words[0]) > 0
        assert ["0000000000000000"] * 3 == [words[at] for at in (2, 4, 6)]
        assert ["1", "2"] == [words[8], words[10]]
        assert 0 != code
        assert b"Read-only file system" in said
    for node in stack.nodes.values():
        _, out = node.exec_run(["sh", "-c", "id -u; id -g"])
        assert ["10001", "10001"] == out.decode().split()


def test_write_through_the_door_is_read_through_the_door(stack: Stack) -> None:
    """Whichever node answers, it knows the version that was written."""
    document = {"name": "billing", "utterances": ["I need a refund"]}
    with httpx.Client(base_url=stack.door, timeout=30.0) as client:
        written = client.put("/v1/routes/billing", json=document)
        asked = {"SR-Min-Version": written.headers["SR-Version"]}
        answers = [
            client.post("/v1/query", json={"text": "I need a refund"}, headers=asked)
            for _ in range(9)
        ]

    assert {"billing"} == {answer.json()["route"] for answer in answers}
    assert 1 < len({answer.json()["node"] for answer in answers})


@pytest.mark.parametrize("path", ["/-/state", "/peer/v1/snapshot", "/metrics"])
def test_door_shows_only_the_public_api(stack: Stack, path: str) -> None:
    """Introspection, peers' paths and metrics are not for clients."""
    answer = httpx.get(stack.door + path, timeout=30.0)

    assert 404 == answer.status_code
    assert "not_found" == answer.json()["code"]
    assert "application/problem+json" == answer.headers["content-type"]


def test_killed_node_costs_nobody_an_answer(stack: Stack) -> None:
    """SIGKILL under load: queries and repeatable writes are answered by the others."""
    with Load(stack.door) as load:
        calm()
        stack.nodes[1].kill("SIGKILL")
        calm(2)
        stack.nodes[1].start()
        calm(2)

    all_answered(load)
    stack.wait_whole(NODES)


def test_node_that_is_cut_off_costs_nobody_an_answer(stack: Stack) -> None:
    """A node without a network is left alone, and catches up when it is back."""
    with Load(stack.door) as load:
        calm()
        stack.cut_off(2)
        calm(3)
        stack.heal(2)
        calm(2)

    all_answered(load)
    stack.wait_whole(NODES)


def test_paused_node_costs_nobody_an_answer(stack: Stack) -> None:
    """A frozen node accepts and never answers: its requests go to another one."""
    with Load(stack.door) as load:
        calm()
        stack.nodes[3].pause()
        calm(3)
        stack.nodes[3].unpause()
        calm(2)

    all_answered(load)
    stack.wait_whole(NODES)


def test_rolling_replacement_costs_nobody_an_answer(stack: Stack) -> None:
    """Every container is replaced by a new one on the same volume, one after the other."""
    with Load(stack.door) as load:
        calm()
        for number in (1, 2, 3):
            stack.remove_node(number)
            stack.add_node(number=number)
            stack.wait_whole_or_moving(NODES)
        calm()

    all_answered(load)
    stack.wait_whole(NODES)


def test_cluster_grows_and_shrinks_under_load(stack: Stack) -> None:
    """3 -> 5 -> 2 -> 3 nodes; newcomers fetch their state, those that go finish their work."""
    with Load(stack.door) as load:
        four, five = stack.add_node(), stack.add_node()
        stack.wait_whole_or_moving(5)
        calm()
        for number in (five, four, 3):
            stack.remove_node(number)
        calm()
        stack.add_node(number=3)
        stack.wait_whole_or_moving(NODES)

    all_answered(load)
    stack.wait_whole(NODES)


def test_queries_go_on_while_redis_is_away(stack: Stack) -> None:
    """Reads never need it; writes are refused, say when to come back, and then go on."""
    document = {"name": "later", "utterances": ["after the outage"]}
    with Load(stack.door, has_writes=False) as load, httpx.Client(base_url=stack.door) as client:
        stack.others["redis"].stop(timeout=10)
        calm()
        refused = client.put("/v1/routes/later", json=document, timeout=30.0)
        stack.others["redis"].start()

        def is_written() -> bool:
            return client.put("/v1/routes/later", json=document, timeout=30.0).is_success

        wait_until("writes are taken again", is_written)
        calm()

    all_answered(load)
    assert 503 == refused.status_code
    assert "Retry-After" in refused.headers
    stack.wait_whole(NODES)


def test_coordinator_stands_behind_its_own_door(stack: Stack) -> None:
    """It sees the three nodes, holds no privilege, and its image has no array and no model."""
    coordinator = stack.others["coordinator"]
    wait_until("the coordinator answers", lambda: stack.fleet("/readyz") == httpx.codes.OK)
    code, said = coordinator.exec_run(["python3", "-c", "import numpy"])

    assert 0 != code
    assert b"No module named" in said
    assert stack.is_active_coordinator()


def test_queries_and_writes_go_on_without_the_coordinator(stack: Stack) -> None:
    """It is never on the way of data."""
    with Load(stack.door) as load:
        stack.others["coordinator"].kill("SIGKILL")
        calm()
        stack.others["coordinator"].start()
        calm()

    all_answered(load)


def test_redis_that_comes_back_empty_costs_no_query_and_no_route(stack: Stack) -> None:
    """Queries go on; the nodes fill Redis again, and what was acknowledged is still there."""
    document = {"name": "kept", "utterances": ["this outlives the sequencer"]}
    with httpx.Client(base_url=stack.door, timeout=30.0) as client:
        assert client.put("/v1/routes/kept?ack=all", json=document).is_success
        with Load(stack.door, has_writes=False) as load:
            stack.others["redis"].exec_run(["redis-cli", "flushall"])
            stack.others["redis"].restart(timeout=10)

            def is_written() -> bool:
                return client.put("/v1/routes/new", json={**document, "name": "new"}).is_success

            wait_until("writes are taken again", is_written)
            calm()
        kept = client.get("/v1/routes/kept")

    all_answered(load)
    assert 200 == kept.status_code
    stack.wait_whole(NODES)
