"""A cluster of real containers behind HAProxy, and what clients see while parts of it fail.

The tests share one stack and run in the order of the file; each leaves it whole.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from containers import IMAGES, Stack, assert_contained, require_images, wait_until
from disturbances import DISTURBANCES, NODES, Disturbance, Load, disturb
from encoders import texts_about, things
from monitoring import alerts, ask, dashboard_expressions, query, start_prometheus, without_limit

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

DISTURBED_SECONDS = float(os.environ.get("DISTURBED_SECONDS", "0"))


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
    """Print the logs of the containers if a test fails."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        raise AssertionError(stack.logs())


def test_containers_have_no_privileges(stack: Stack) -> None:
    """Checked from inside: not root, no writable files, no capability."""
    every = [*stack.nodes.values(), *stack.others.values()]
    found = {container.name: assert_contained(container) for container in every}
    ours = [*stack.nodes.values(), stack.others["coordinator"]]

    assert {(10001, 10001)} == {(found[c.name].user, found[c.name].group) for c in ours}


def test_write_through_haproxy_is_read_through_haproxy(stack: Stack) -> None:
    """Any node that answers has the version that was written."""
    document = {"name": "billing", "utterances": ["I need a refund"]}
    with httpx.Client(base_url=stack.url, timeout=30.0) as client:
        written = client.put("/v1/routes/billing", json=document)
        asked = {"SR-Min-Version": written.headers["SR-Version"]}
        answers = [
            client.post("/v1/query", json={"text": "I need a refund"}, headers=asked)
            for _ in range(9)
        ]

    assert {"billing"} == {answer.json()["route"] for answer in answers}
    assert 1 < len({answer.json()["node"] for answer in answers})


@pytest.mark.parametrize("path", ["/-/state", "/peer/v1/snapshot", "/metrics"])
def test_haproxy_exposes_only_the_public_api(stack: Stack, path: str) -> None:
    """Introspection, paths for peers and metrics are not for clients."""
    answer = httpx.get(stack.url + path, timeout=30.0)

    assert 404 == answer.status_code
    assert "not_found" == answer.json()["code"]
    assert "application/problem+json" == answer.headers["content-type"]


@pytest.mark.parametrize("path", [b"/%2d/state", b"//-/state", b"/v1/../metrics", b"/metric%73"])
def test_haproxy_refuses_other_spellings_of_a_path(stack: Stack, path: bytes) -> None:
    url = httpx.URL(stack.url)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
        answer = connection.recv(65_536)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"malformed_request"' in answer


@pytest.mark.timeout(600 + 3 * DISTURBED_SECONDS)
@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda each: each.name)
def test_disturbance_fails_no_request(stack: Stack, disturbance: Disturbance) -> None:
    """Under load each query, and each write with an Idempotency-Key, is answered, and well.

    DISTURBED_SECONDS says how long; without it each is done once.
    """
    load, rounds = disturb(stack, disturbance, DISTURBED_SECONDS)

    assert [] == load.failures
    assert 1 <= rounds
    # The load was there; a busy machine sends less of it.
    assert len(load.waits) > 0.5 * load.rate * load.seconds
    # Each acknowledged write has a place of its own in the log: none was entered twice.
    assert len(set(load.writes)) == len(load.writes)
    assert (len(load.writes) > 0) == disturbance.has_writes


def test_writes_are_refused_with_retry_after_while_redis_is_away(stack: Stack) -> None:
    """Afterwards the same write succeeds."""
    document = {"name": "later", "utterances": ["after the outage"]}
    with httpx.Client(base_url=stack.url, timeout=30.0) as client:
        stack.others["redis"].stop(timeout=10)
        refused = client.put("/v1/routes/later", json=document)
        asked = client.post("/v1/query", json={"text": "after the outage"})
        stack.others["redis"].start()

        def is_written() -> bool:
            return client.put("/v1/routes/later", json=document).is_success

        wait_until("writes are taken again", is_written)

    assert 503 == refused.status_code
    assert int(refused.headers["Retry-After"]) >= 1
    assert 200 == asked.status_code
    stack.wait_whole(NODES)


def test_cascade_needs_only_its_setting(stack: Stack) -> None:
    """The image contains the table; one node calibrates and all use the result."""
    lines = "\n".join(json.dumps(route.model_dump(exclude={"vectors"})) for route in things())
    with httpx.Client(base_url=stack.url, timeout=60.0) as client:
        kind = {"content-type": "application/x-ndjson"}
        # Routes that other tests have written would change what the calibration finds.
        url = "/v1/import?replace=true"
        client.post(url, content=lines, headers=kind).raise_for_status()
        settings = client.get("/v1/settings").json()
        # The cascade is not offered with the adaptive score of new databases.
        judged = {"aggregation": "blend", "threshold": 0.49, "confidence_min": None}
        wanted = {**settings, **judged, "cascade": True}
        client.put("/v1/settings", json=wanted).raise_for_status()
        give_up_at = time.monotonic() + 60.0
        states: list[str] = []
        while set(states[-9:]) != {"on"} or len(states) < 9:
            assert time.monotonic() < give_up_at, states[-9:]
            states.append(client.get("/v1/settings/cascade").json()["state"])
        asked = {"text": texts_about("flight")[-1], "explain": True}
        answers = [client.post("/v1/query", json=asked).json() for _ in range(9)]
        client.put("/v1/settings", json=settings).raise_for_status()
        for route in things():
            client.delete(f"/v1/routes/{route.name}").raise_for_status()

    assert {("flight", "static")} == {(each["route"], each["stage"]) for each in answers}
    assert 1 < len({each["node"] for each in answers})


def test_coordinator_container(stack: Stack) -> None:
    """It sees the three nodes, has no privileges, and its image has no numpy and no model."""
    coordinator = stack.others["coordinator"]
    wait_until("the coordinator answers", lambda: stack.fleet("/readyz") == httpx.codes.OK)
    code, said = coordinator.exec_run(["python3", "-c", "import numpy"])

    assert 0 != code
    assert b"No module named" in said
    assert stack.is_active_coordinator()


def test_acknowledged_writes_survive_an_empty_redis(stack: Stack) -> None:
    """The nodes fill it in a new epoch, and writes continue after the former ones."""
    document = {"name": "kept", "utterances": ["this outlives the sequencer"]}
    with httpx.Client(base_url=stack.url, timeout=30.0) as client:
        before = client.put("/v1/routes/kept?ack=all", json=document)
        stack.empty_redis()
        wait_until("writes are taken again", stack.takes_writes)
        after = client.put("/v1/routes/new?ack=all", json={**document, "name": "new"})
        kept = client.get("/v1/routes/kept")

    epochs = [int(answer.headers["SR-Version"].partition(".")[0]) for answer in (before, after)]

    assert before.is_success
    assert 200 == kept.status_code
    assert document["utterances"] == kept.json()["utterances"]
    assert epochs[0] < epochs[1]
    stack.wait_whole(NODES)


def test_prometheus_scrapes_all_targets_and_dashboard_has_data(stack: Stack) -> None:
    """With the shipped files: all targets up, every panel has data, no rule is broken."""
    prometheus = start_prometheus(stack)
    with Load(stack.url), httpx.Client(base_url=stack.url) as client:

        def states() -> list[str]:
            targets = (ask(prometheus, "targets?state=active") or {}).get("activeTargets", [])
            return sorted(f"{each['labels']['job']} {each['health']}" for each in targets)

        every = ["synaptoroute-coordinator up", "synaptoroute-haproxy up"]
        every += ["synaptoroute-node up"] * NODES
        wait_until("all targets are up", lambda: every == states())
        expressions = [without_limit(each) for each in dashboard_expressions()]

        def empty() -> list[str]:
            client.get("/v1/routes/there-is-none")
            # No node has answered with a server's error: that series need not be there.
            return [e for e in expressions if '"5.."' not in e and not query(prometheus, e)]

        wait_until("every panel has data", lambda: [] == empty())
        rules = ask(prometheus, "rules?type=alert")["groups"][0]["rules"]

    assert {rule["alert"] for rule in alerts()} == {rule["name"] for rule in rules}
    assert {"ok"} == {rule["health"] for rule in rules}
    assert [] == [rule["name"] for rule in rules if rule["state"] == "firing"]
