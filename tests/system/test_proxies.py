"""The samples of deploy/proxies: nginx in front of real nodes, the others as documents."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from needs import require
from node_cluster import Cluster, StartCluster, until
from ports import free_port
from processes import CoordinatorProcess
from repository import ROOT
from synaptoroute.client import Client

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SAMPLES = ROOT / "deploy" / "proxies"
TRUSTED = {"trusted_proxies": "127.0.0.0/8"}
INSIDE = ("/-/state", "/peer/v1/head", "/metrics", "/-/settings?x=1")


@pytest.fixture
def cluster(start_cluster: StartCluster) -> Cluster:
    """Two nodes that trust the proxy."""
    return start_cluster(nodes=2, **TRUSTED)


@pytest.fixture
def fleet(cluster: Cluster, tmp_path: Path) -> Iterator[CoordinatorProcess]:
    """Their coordinator."""
    started = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, TRUSTED).start()
    yield started
    started.end()


@pytest.fixture
def door(cluster: Cluster, fleet: CoordinatorProcess, tmp_path: Path) -> Iterator[httpx.Client]:
    """The sample of nginx, with the addresses of this test, in front of both."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    port = free_port()
    text = (SAMPLES / "nginx.conf").read_text()
    servers = "".join(
        f"server 127.0.0.1:{each.process.port} max_fails=2 fail_timeout=5s;\n"
        for each in cluster.members
    )
    text = re.sub(r"(\s*server node-\d:8080 [^\n]+)+", f"\n{servers}", text)
    text = text.replace("server coordinator:8090;", f"server 127.0.0.1:{fleet.port};")
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    text = text.replace("http {\n", f"http {{\n{own}", 1)
    (folder / "nginx.conf").write_text(text)
    settings = f"daemon off; pid {folder}/pid; error_log {folder}/errors warn;"
    process = subprocess.Popen(
        [str(require("nginx")), "-p", str(folder), "-c", "nginx.conf", "-g", settings],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        yield client
    process.send_signal(signal.SIGQUIT)
    process.wait(20)


def test_killed_node_fails_no_call_through_nginx(cluster: Cluster, door: httpx.Client) -> None:
    """Calls of a client whose only address is nginx, retried by nginx alone."""
    ended, failed, done = threading.Event(), [], []

    def run(number: int) -> None:
        with httpx.Client(base_url=door.base_url, trust_env=False, timeout=30) as client:
            count = 0
            while not ended.is_set():
                count += 1
                name = f"p{number}.{count}"
                answers = [
                    client.put(
                        f"/v1/routes/{name}",
                        json={"utterances": [f"{name} text"]},
                        headers={"Idempotency-Key": name},
                    ),
                    client.post("/v1/query", json={"text": f"{name} text"}),
                    client.get("/v1/routes?limit=1"),
                ]
                failed.extend(each.text for each in answers if each.is_error)
                done.append(name)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(done) >= 20)
    cluster[1].kill()
    killed_at = len(done)
    until(lambda: len(done) >= killed_at + 60)
    ended.set()
    for thread in threads:
        thread.join(30)

    assert [] == failed


def test_nginx_keeps_inside_paths_inside_and_headers_of_clients_out(
    cluster: Cluster, door: httpx.Client
) -> None:
    for path in (*INSIDE, "/v1/../-/state", "/%2d/state", "//metrics"):
        answer = door.get(path)
        assert answer.status_code in (400, 404), path
        assert "application/problem+json" == answer.headers["content-type"], path
    forged = {"X-Forwarded-Prefix": "/evil", "X-Forwarded-For": "192.0.2.1"}
    document = door.get("/v1/openapi.json", headers=forged).json()

    assert ["/"] == [each["url"] for each in document["servers"]]
    with Client(str(door.base_url), api_key="") as client:
        client.put_route({"name": "a b:c", "utterances": ["x"]})
        assert client.query("x").route == "a b:c"
        assert [each.name for each in client.export_routes()] == ["a b:c"]
        assert client.import_routes([{"name": "b", "utterances": ["y"]}]).routes == 1


def test_dashboard_works_below_the_prefix_of_nginx(door: httpx.Client) -> None:
    """Its files, its document and its addresses."""
    page = door.get("/fleet/")
    names = [part.partition('"')[0] for part in page.text.split('"/fleet/assets/')[1:]]
    document = door.get("/fleet/v1/openapi.json").json()

    assert 200 == page.status_code
    assert {"app.js", "style.css", "mark.svg"} <= set(names)
    assert {200} == {door.get(f"/fleet/assets/{name}").status_code for name in names}
    assert ["/fleet"] == [each["url"] for each in document["servers"]]
    assert 200 == door.get("/fleet/v1/session").status_code


def test_envoy_sample_routes_each_kind_of_request() -> None:
    """Judged as a document: no package of Debian or PyPI has Envoy."""
    document = yaml.safe_load((SAMPLES / "envoy.yaml").read_text())
    (listener,) = document["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    config = manager["route_config"]
    routes = config["virtual_hosts"][0]["routes"]
    clusters = {each["name"] for each in document["static_resources"]["clusters"]}

    def first(path: str, method: str = "GET", key: bool = False) -> dict[str, Any]:
        return next(each for each in routes if envoy_matches(each["match"], path, method, key))

    assert {"nodes", "coordinator"} == clusters
    assert {each["route"]["cluster"] for each in routes if "route" in each} == clusters
    assert {"forwarded", "x-forwarded-prefix"} == set(config["request_headers_to_remove"])
    assert {404} == {first(path.partition("?")[0])["direct_response"]["status"] for path in INSIDE}
    assert "coordinator" == first("/fleet/v1/session")["route"]["cluster"]
    for path, method, key in (
        ("/v1/query", "POST", False),
        ("/v1/decisions", "POST", False),
        ("/v1/routes", "GET", False),
        ("/v1/routes/a", "PUT", True),
    ):
        assert "reset" in first(path, method, key)["route"]["retry_policy"]["retry_on"], path
    assert "connect-failure" == first("/v1/routes/a", "PUT")["route"]["retry_policy"]["retry_on"]
    assert "retry_policy" not in first("/v1/import", "POST", True)["route"]


def envoy_matches(match: dict[str, Any], path: str, method: str, key: bool) -> bool:
    """Whether a route of Envoy takes a request, as far as the sample uses its language."""
    if "safe_regex" in match and not re.fullmatch(match["safe_regex"]["regex"], path):
        return False
    if not path.startswith(match.get("prefix", "")):
        return False
    for header in match.get("headers", ()):
        if header["name"] == ":method":
            if not re.fullmatch(header["string_match"]["safe_regex"]["regex"], method):
                return False
        elif not key:
            return False
    return True


def test_traefik_sample_names_what_it_uses() -> None:
    """Judged as a document: no package of Debian or PyPI has Traefik."""
    http = yaml.safe_load((SAMPLES / "traefik.yaml").read_text())["http"]
    routers = http["routers"]
    priorities = [each["priority"] for each in routers.values()]

    assert priorities == sorted(set(priorities), reverse=True)
    assert {each["service"] for each in routers.values()} == http["services"].keys()
    used = {name for each in routers.values() for name in each["middlewares"]}
    assert used == http["middlewares"].keys()
    own = {"Forwarded", "X-Forwarded-Prefix"}
    assert own == set(http["middlewares"]["own-headers"]["headers"]["customRequestHeaders"])
    retried = {name for name, each in routers.items() if "again" in each["middlewares"]}
    assert {"queries", "reads", "repeatable-writes"} == retried
    open_ones = [each for name, each in routers.items() if name != "inside"]
    assert all("own-headers" in each["middlewares"] for each in open_ones)
