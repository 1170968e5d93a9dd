"""The compose file run by the real tool on the real images."""

from __future__ import annotations

import io
import logging
import os
import ssl
import tarfile
from collections.abc import Iterator

import httpx
import pytest

from containers import IMAGES, ComposeProject, assert_contained, require_images, wait_until
from needs import require

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

WITH_TLS = ("docker-compose.yml", "deploy/compose-tls.yml")
NODES = 3
MORE_NODES = 5
# On a machine that does nothing else: 20.  What it was, the log of the test says.
BACK_SECONDS_MAX = float(os.environ.get("BACK_SECONDS_MAX", "60"))

_log = logging.getLogger(__name__)


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


def identities(project: ComposeProject) -> set[str]:
    """The identities of the live nodes."""
    nodes = httpx.get(f"{project.url}/v1/cluster", timeout=10.0).json()["nodes"]
    return {each["node"] for each in nodes if each["is_live"]}


@pytest.mark.parametrize("killed", ["node", "redis"])
def test_killed_containers_come_back_with_their_data(project: ComposeProject, killed: str) -> None:
    """All nodes at once, or Redis, by SIGKILL."""
    names = project.written()
    seconds = project.kill(killed)
    _log.warning("%s killed: a majority takes writes again after %.1f s", killed, seconds)

    assert [] == project.lost(names)
    assert seconds <= BACK_SECONDS_MAX


def test_cluster_outlives_down_and_up_at_another_scale(project: ComposeProject) -> None:
    """`down` removes every container; `up` takes up their databases, also with fewer of them."""
    names, before = project.written(), identities(project)
    wait_until("five nodes are live", lambda: MORE_NODES == project.live_count())
    project.run("down")
    seconds = project.up() + project.wait_written()
    _log.warning("down: a majority takes writes %.1f s after `up`", seconds)
    wait_until("three nodes are live", lambda: NODES == project.live_count())
    after = identities(project)

    assert [] == project.lost(names)
    assert seconds <= BACK_SECONDS_MAX
    assert (NODES, MORE_NODES) == (len(after), len(before))
    assert after < before


def test_overlay_encrypts_every_connection_between_containers() -> None:
    """Nodes, coordinator and HAProxy speak and ask HTTPS; each node makes its own certificate."""
    project = ComposeProject(files=WITH_TLS)
    require_images(*IMAGES)
    with project as started:
        started.run("up", "--detach", "--no-build", "authority")
        started.tls = authority_of(started)
        started.up()
        assert "refunds" == started.route()
        wait_until("three nodes are live", lambda: NODES == started.live_count())
        verify = started.tls
        found = httpx.get(f"{started.coordinator_url}/v1/cluster", verify=verify, timeout=10.0)
        assert 200 == found.status_code
        assert {"https"} == {httpx.URL(each["url"]).scheme for each in found.json()["nodes"]}
        for path in ("/v1/routes", "/v1/cluster"):
            with pytest.raises(httpx.TransportError):
                httpx.get(started.url.replace("https", "http") + path, timeout=10.0)


def authority_of(project: ComposeProject) -> ssl.SSLContext:
    """Copy the certificate of the authority out of its container, once it is made."""
    import docker.errors

    def pem() -> str:
        for container in project.containers():
            if "authority" in container.name:
                parts, _ = container.get_archive("/data/ca.crt")
                with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
                    member = archive.extractfile("ca.crt")
                    assert member is not None
                    return member.read().decode()
        raise AssertionError("there is no authority")

    def is_made() -> bool:
        try:
            return "CERTIFICATE" in pem()
        except docker.errors.NotFound:
            return False

    wait_until("the authority is made", is_made)
    return ssl.create_default_context(cadata=pem())
