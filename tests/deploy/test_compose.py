"""The compose file brought up by the real tool, on the real images: one door, routed queries."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from containers import IMAGES, Composed, assert_contained, require_images, wait_until
from needs import require

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

NODES = 3
MORE_NODES = 5


@pytest.fixture(scope="module")
def composed() -> Iterator[Composed]:
    """What `docker-compose up` makes; a query through the door was routed."""
    require("docker-compose")
    require_images(*IMAGES)
    with Composed() as composed:
        composed.up()
        yield composed


def test_question_is_routed_through_the_door(composed: Composed) -> None:
    """The example routes are there without anything that was prepared."""
    assert "refunds" == composed.route()


def test_every_node_of_the_file_is_live(composed: Composed) -> None:
    """Three nodes of one cluster, found by HAProxy under one name."""
    wait_until("three nodes are live", lambda: NODES == composed.live_count())
    with httpx.Client(base_url=composed.door, timeout=30.0) as client:
        answers = [client.post("/v1/query", json={"text": f"text {at}"}) for at in range(12)]

    assert {200} == {answer.status_code for answer in answers}
    assert NODES == len({answer.json()["node"] for answer in answers})


def test_containers_of_the_file_hold_no_privilege(composed: Composed) -> None:
    """Six containers, each seen from inside."""
    containers = composed.containers()
    for container in containers:
        assert_contained(container)

    assert NODES + 3 == len(containers)


def test_containers_of_the_file_count_as_healthy(composed: Composed) -> None:
    """Each check of the file is one that its container passes."""

    def states() -> list[str]:
        return [each.attrs["State"]["Health"]["Status"] for each in composed.containers()]

    wait_until("every container is healthy", lambda: {"healthy"} == set(states()))


def test_fleet_is_seen_at_its_own_door(composed: Composed) -> None:
    """The coordinator answers behind HAProxy, too."""
    answer = httpx.get(f"{composed.fleet_door}/v1/cluster", timeout=10.0)

    assert 200 == answer.status_code
    assert NODES == len(answer.json()["nodes"])


def test_cluster_grows_by_one_word(composed: Composed) -> None:
    """`--scale node=5`: HAProxy finds the newcomers by name and sends them queries."""
    composed.up("--scale", f"node={MORE_NODES}")
    wait_until("five nodes are live", lambda: MORE_NODES == composed.live_count())

    def answering() -> set[str]:
        with httpx.Client(base_url=composed.door, timeout=30.0) as client:
            asked = [client.post("/v1/query", json={"text": f"more {at}"}) for at in range(20)]
        return {answer.json()["node"] for answer in asked}

    wait_until("all five answer", lambda: MORE_NODES == len(answering()))
