"""The compose file run by the real tool on the real images."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from containers import IMAGES, ComposeProject, assert_contained, require_images, wait_until
from needs import require

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

NODES = 3
MORE_NODES = 5


@pytest.fixture(scope="module")
def project() -> Iterator[ComposeProject]:
    """The containers of `docker-compose up`, once a query through HAProxy was routed."""
    require("docker-compose")
    require_images(*IMAGES)
    with ComposeProject() as started:
        started.up()
        yield started


def test_query_is_routed_through_haproxy(project: ComposeProject) -> None:
    """The example routes are loaded without preparation."""
    assert "refunds" == project.route()


def test_every_node_of_the_file_is_live(project: ComposeProject) -> None:
    """HAProxy finds three nodes under one name."""
    wait_until("three nodes are live", lambda: NODES == project.live_count())
    with httpx.Client(base_url=project.url, timeout=30.0) as client:
        answers = [client.post("/v1/query", json={"text": f"text {at}"}) for at in range(12)]

    assert {200} == {answer.status_code for answer in answers}
    assert NODES == len({answer.json()["node"] for answer in answers})


def test_containers_of_the_file_have_no_privileges(project: ComposeProject) -> None:
    """Six containers, checked from inside."""
    containers = project.containers()
    for container in containers:
        assert_contained(container)

    assert NODES + 3 == len(containers)


def test_containers_of_the_file_are_healthy(project: ComposeProject) -> None:
    """Every container passes its health check."""

    def states() -> list[str]:
        return [each.attrs["State"]["Health"]["Status"] for each in project.containers()]

    wait_until("every container is healthy", lambda: {"healthy"} == set(states()))


def test_coordinator_is_reached_through_haproxy(project: ComposeProject) -> None:
    answer = httpx.get(f"{project.coordinator_url}/v1/cluster", timeout=10.0)

    assert 200 == answer.status_code
    assert NODES == len(answer.json()["nodes"])


def test_scale_adds_nodes(project: ComposeProject) -> None:
    """`--scale node=5`: HAProxy finds the new nodes by name and sends them queries."""
    project.up("--scale", f"node={MORE_NODES}")
    wait_until("five nodes are live", lambda: MORE_NODES == project.live_count())

    def answering() -> set[str]:
        with httpx.Client(base_url=project.url, timeout=30.0) as client:
            asked = [client.post("/v1/query", json={"text": f"more {at}"}) for at in range(20)]
        return {answer.json()["node"] for answer in asked}

    wait_until("all five answer", lambda: MORE_NODES == len(answering()))
