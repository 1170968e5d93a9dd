"""The compose file run by the real tool on the real images."""

from __future__ import annotations

import io
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
