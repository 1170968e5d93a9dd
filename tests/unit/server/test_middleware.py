"""The middleware: request ids, problems, probes and metrics."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from http_node import HttpNode, exceptions_logged, http_node, logged
from synaptoroute import errors
from synaptoroute.encoder.processor import kind_of_cpu
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.web import problems
from synaptoroute.web.problems import STATUS_BY_CODE

pytestmark = pytest.mark.unit


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with two routes."""
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


def all_errors(root: type[SynaptoRouteError] = SynaptoRouteError) -> set[type[SynaptoRouteError]]:
    """Every error type of the project."""
    return {root}.union(*(all_errors(child) for child in root.__subclasses__()))


def test_every_error_has_a_status() -> None:
    """The table of statuses lists exactly the error types of the project."""
    known = {
        error.code
        for error in all_errors()
        if error.__module__ in (errors.__name__, problems.__name__)
    }

    assert known == set(STATUS_BY_CODE)
    for error in all_errors(errors.RouteError):
        if error.code in STATUS_BY_CODE:
            assert 400 <= STATUS_BY_CODE[error.code] < 500
    for error in all_errors(errors.ClusterError):
        if error.__module__ != errors.__name__:
            continue  # another server's own, with a table of its own
        assert STATUS_BY_CODE[error.code] in (409, 429, 503, 504)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/routes/", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/v1/query", 405, "method_not_allowed"),
        ("TRACE", "/v1/routes/a", 405, "method_not_allowed"),
        ("GET", "/v1/routes/none", 404, "route_not_found"),
        ("GET", "/v1/routes/%20", 422, "invalid_parameter"),
        ("GET", "/v1/ops/5", 422, "invalid_parameter"),
    ],
)
async def test_every_refusal_is_a_problem_document(
    node: HttpNode, method: str, path: str, status: int, code: str
) -> None:
    """Errors of the framework are included."""
    answer = await node.http.request(method, path)
    problem = answer.json()

    assert (status, code) == (answer.status_code, problem["code"])
    assert "application/problem+json" == answer.headers["content-type"]
    assert {"type", "title", "status", "detail", "code", "instance"} <= problem.keys()
    assert ("allow" in answer.headers) == (status == 405)


async def test_valid_request_id_is_echoed(node: HttpNode) -> None:
    """A valid id is echoed and names the problem; a malformed one is replaced."""
    given = await node.http.get("/v1/routes/none", headers={"X-Request-Id": "abc-1"})
    made = await node.http.get("/livez", headers={"X-Request-Id": 'a"b\tc'})

    assert "abc-1" == given.headers["x-request-id"]
    assert "urn:synaptoroute:request:abc-1" == given.json()["instance"]
    assert 16 == len(made.headers["x-request-id"])
    assert "nosniff" == made.headers["x-content-type-options"]


async def test_unexpected_error_shows_only_an_incident_number(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has the traceback under the same incident number."""

    async def broken(name: str) -> None:
        raise ZeroDivisionError("secret internals")

    monkeypatch.setattr(node.router, "aget_route", broken)
    with logged() as log_lines:
        answer = await node.http.get("/v1/routes/refund")
        await exceptions_logged()
    problem = answer.json()

    assert (500, "internal_error") == (answer.status_code, problem["code"])
    assert "secret" not in answer.text
    assert problem["incident"] in log_lines.getvalue()
    assert "ZeroDivisionError: secret internals" in log_lines.getvalue()


async def test_head_is_answered_like_get(node: HttpNode) -> None:
    """Probes may use HEAD."""
    assert 200 == (await node.http.head("/readyz")).status_code


async def test_node_is_alive_before_it_is_ready(tmp_path: Path) -> None:
    """Until the router has started, probes answer and queries get 503 with Retry-After."""
    async with http_node(tmp_path) as node:
        router = node.router
        node.runtime._router = node.runtime._serving = None
        live = await node.http.get("/livez")
        ready = await node.http.get("/readyz")
        query = await node.http.post("/v1/query", json={"text": "a"})
        metrics = await node.http.get("/metrics")
        node.runtime._router = node.runtime._serving = router
        recovered = await node.http.get("/readyz")

    assert (200, 503, 503) == (live.status_code, ready.status_code, query.status_code)
    assert ["starting"] == ready.json()["reasons"]
    assert ("not_ready", "1") == (query.json()["code"], query.headers["retry-after"])
    assert "synaptoroute_ready 0.0" in metrics.text
    assert 200 == recovered.status_code


async def test_draining_node_is_unready_and_still_answers(node: HttpNode) -> None:
    """Responses ask clients to close; no request is refused."""
    node.runtime.drain()
    ready = await node.http.get("/readyz")
    query = await node.http.post("/v1/query", json={"text": "where is my parcel"})

    assert (503, ["draining"]) == (ready.status_code, ready.json()["reasons"])
    assert (200, "close") == (query.status_code, query.headers["connection"])


async def test_introspection_masks_secrets(tmp_path: Path) -> None:
    """Settings, state and digest are shown; a password is not."""
    async with http_node(tmp_path, redis_url="redis://:hunter2@host/0") as node:
        settings = await node.http.get("/-/settings")
        state = (await node.http.get("/-/state")).json()
        digest = (await node.http.get("/-/digest")).json()
        status = node.router.status()

    assert 200 == settings.status_code
    assert "hunter2" not in settings.text
    assert status.digest == digest["digest"] == state["router"]["digest"]
    assert 64 == len(digest["tensor_sha256"])
    assert kind_of_cpu() == state["cpu_kind"]


# --- metrics -----------------------------------------------------------------------------


async def test_metrics_count_requests_by_template(node: HttpNode) -> None:
    """No label holds a path that a client chose."""
    for name in ("refund", "parcel", "none-1", "none-2"):
        await node.http.get(f"/v1/routes/{name}")
    await node.http.get("/somewhere/else")
    await node.http.post("/v1/query", json={"text": "where is my parcel"})
    text = (await node.http.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counts = {
        (sample.labels["method"], sample.labels["endpoint"], sample.labels["status"]): sample.value
        for sample in families["synaptoroute_request_count"].samples
        if sample.name.endswith("_total")
    }

    assert 2 == counts["GET", "/v1/routes/{name}", "200"]
    assert 2 == counts["GET", "/v1/routes/{name}", "404"]
    assert 1 == counts["GET", "unmatched", "404"]
    assert 1 == counts["POST", "/v1/query", "200"]
    assert "none-1" not in text
    assert "somewhere" not in text


async def test_metrics_show_the_node(node: HttpNode) -> None:
    """Gauges and counters are read from the router and the encoder at each scrape."""
    await node.http.post("/v1/query", json={"text": "where is my parcel"})
    text = (await node.http.get("/metrics")).text
    status = node.router.status()
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }

    assert 2 == values["synaptoroute_routes"] == status.routes
    assert 4 == values["synaptoroute_slots_used"]
    assert status.version == (
        f"{values['synaptoroute_epoch']:.0f}.{values['synaptoroute_seq']:.0f}"
    )
    assert 1 == values["synaptoroute_ready"]
    assert 1 == values["synaptoroute_queries_total"]
    assert 0 == values["synaptoroute_padding_tokens_total"]
    assert values["synaptoroute_batch_size_count"] >= 1
    assert values["synaptoroute_encode_duration_seconds_count"] >= 1
    assert 'synaptoroute_storage_state{state="ok"} 1.0' in text
    assert "synaptoroute_queue_size 0.0" in text


async def test_batch_of_a_disconnected_client_is_cancelled(node: HttpNode) -> None:
    """The work stops when the client disconnects."""
    body = json.dumps({"texts": [f"text {at}" for at in range(1_000)]}).encode()
    messages = [
        {"type": "http.request", "body": body, "more_body": False},
        {"type": "http.disconnect"},
    ]
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    async def send(message: object) -> None:
        sent.append(message)

    request = httpx.Request("POST", "http://node/v1/query/batch")
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/query/batch",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), *request.headers.raw],
        "client": ("127.0.0.1", 1),
        "server": ("node", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }
    await node.app(scope, receive, send)  # type: ignore[arg-type]

    assert [] == sent
    assert 0 == node.runtime.bodies.held_bytes
    text = (await node.http.get("/metrics")).text
    assert 'endpoint="/v1/query/batch",method="POST",status="499"} 1.0' in text


async def test_draining_node_is_unready_everywhere_and_still_answers(tmp_path: Path) -> None:
    """Probe and metric say the same; what arrives before the load balancer knows is answered."""
    async with http_node(tmp_path) as node:
        await node.fill()
        node.runtime.drain()
        ready = await node.http.get("/readyz")
        metrics = await node.http.get("/metrics")
        query = await node.http.post("/v1/query", json={"text": "where is my parcel"})

    assert (503, ["draining"]) == (ready.status_code, ready.json()["reasons"])
    assert "synaptoroute_ready 0.0" in metrics.text
    assert (200, "parcel") == (query.status_code, query.json()["route"])
    assert "close" == query.headers["connection"]
