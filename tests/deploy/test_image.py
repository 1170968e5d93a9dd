"""The image as `docker run -p 8000:8000 synaptoroute` starts it: a node on its own, with a key."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from containers import IMAGES, LABEL, require_images, wait_until
from repository import ROOT

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(180)]

READY_SECONDS_MAX = 60.0
_KEY = re.compile(rb"\bsr_[A-Za-z0-9_-]{43}\b")


@pytest.fixture(scope="module")
def node() -> Iterator[Any]:
    """One container without any setting, its port published on the loopback."""
    require_images("node")
    import docker

    client = docker.from_env()
    container = client.containers.run(
        IMAGES["node"],
        detach=True,
        ports={"8000/tcp": ("127.0.0.1", None)},
        labels={LABEL: uuid.uuid4().hex},
    )
    try:
        yield container
    finally:
        container.remove(force=True, v=True)
        client.close()


def url_of(container: Any) -> str:
    container.reload()
    port = container.attrs["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostPort"]
    return f"http://127.0.0.1:{port}"


def is_ready(container: Any) -> bool:
    try:
        return httpx.get(f"{url_of(container)}/readyz", timeout=2.0).is_success
    except (httpx.HTTPError, TypeError, IndexError):
        return False


def test_container_without_settings_serves_with_a_key_that_it_shows_once(node: Any) -> None:
    """Nobody without the key is served; the key outlives a restart, and is not shown again."""
    wait_until("the node is ready", lambda: is_ready(node), READY_SECONDS_MAX)
    key, *others = set(_KEY.findall(node.logs()))
    route = {"utterances": ["I want my money back", "Refund my order"]}
    headers = {"Authorization": f"Bearer {key.decode()}"}
    with httpx.Client(base_url=url_of(node), timeout=30.0) as client:
        refused = client.put("/v1/routes/refund", json=route)
        written = client.put("/v1/routes/refund", json=route, headers=headers)
    node.kill("SIGKILL")
    node.start()
    wait_until("the node is ready again", lambda: is_ready(node), READY_SECONDS_MAX)
    with httpx.Client(base_url=url_of(node), headers=headers, timeout=30.0) as client:
        answer = client.post("/v1/query", json={"text": "Refund my order"})

    assert [] == others
    assert 401 == refused.status_code
    assert 201 == written.status_code
    assert "refund" == answer.json()["route"]
    assert {key} == set(_KEY.findall(node.logs()))
    assert key not in node.exec_run(["cat", "/data/api-keys"]).output


def test_container_is_healthy_by_its_own_check(node: Any) -> None:
    code, said = node.exec_run(["python3", "-I", "/opt/synaptoroute/probe.py"])

    assert 0 == code, said


def test_image_is_built_without_further_options() -> None:
    """`docker build .` makes a node: it is the last target of the file at the root."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    targets = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)

    assert "node" == targets[-1]
    assert "EXPOSE 8000" in text.rpartition("FROM ")[2]


# Loads every compiled module of the libraries by itself, and reads the catalogue of models.
LOAD_ALL = """
import ctypes, pathlib, re, numpy, fastembed
root = pathlib.Path(numpy.__file__).parents[1]
paths = [path for path in root.rglob("*.so*") if not path.parent.name.endswith(".libs")]
for path in paths:
    ctypes.CDLL(str(path))
assert len(paths) > 20, paths
assert fastembed.TextEmbedding.list_supported_models()
"""
IMAGE_MB_MAX = 340


def test_libraries_of_the_image_are_small_and_whole(node: Any) -> None:
    """No library needs what was removed."""
    code, said = node.exec_run(["python3", "-c", LOAD_ALL])
    assert 0 == code, said
    code, said = node.exec_run(["synaptoroute", "model", "list", "--json"])
    assert 0 == code, said
    assert b"BAAI/bge-small-en-v1.5" in said
    assert node.image.attrs["Size"] / 1e6 < IMAGE_MB_MAX
