"""The fleet API against its own OpenAPI document: schemathesis calls every endpoint.

A coordinator over one real node, so that what is passed on is answered.  Sound and broken
requests alike must get an answer that the document describes, and never a server error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import schemathesis
from schemathesis import GenerationMode

from fuzzing import MODES, fuzz
from needs import require_valkey
from ports import free_port
from processes import CoordinatorProcess, NodeProcess
from servers import Server
from synaptoroute.web.api_keys import key_line, make_key
from synaptoroute_coordinator.app.app import create_app, make_runtime
from synaptoroute_coordinator.app.runtime import ADMIN_PATHS
from synaptoroute_coordinator.config import CoordinatorConfig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FORESEEN = frozenset({"deadline_exceeded", "not_caught_up", "not_ready"})
EXAMPLES_PER_OPERATION = 8
ENDLESS = ("GET", "/v1/events")
DOCUMENT = create_app(make_runtime(CoordinatorConfig())).openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [
    (method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods
]
READING_POSTS = {"/v1/query", "/v1/preview", "/v1/encoders/trial"}
OPEN_TO_ALL = {"/livez", "/readyz", "/metrics", "/v1/session"}


@dataclass
class Served:
    """A coordinator, and keys of either scope."""

    process: CoordinatorProcess
    admin: str
    reader: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server, a node with a route, and a coordinator with keys, for the whole module."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    server = Server("valkey", require_valkey(), folder / "valkey").start()
    port = free_port()
    node = NodeProcess(
        folder / "node",
        {
            "redis_url": server.url,
            "port": str(port),
            "advertise_url": f"http://127.0.0.1:{port}",
            "node_name": "node-0",
        },
    )
    admin, reader = make_key(), make_key()
    lines = [key_line(admin, ["admin"], "ops"), key_line(reader, ["read"], "reader")]
    (folder / "keys").write_text("\n".join(lines))
    process = CoordinatorProcess(
        folder / "coordinator",
        server.url,
        {"api_keys_file": str(folder / "keys"), "backup_folder": str(folder / "backups")},
    )
    try:
        node.start()
        body = {"utterances": ["I want my money back"]}
        httpx.put(f"{node.url}/v1/routes/refund", json=body, trust_env=False).raise_for_status()
        process.start()
        by_admin = {"Authorization": f"Bearer {admin}"}
        process.until(
            lambda: process.http("GET", "/v1/routes", headers=by_admin).status_code == 200
        )
        yield Served(process, admin, reader)
    finally:
        process.end()
        node.end()
        server.stop()


@pytest.mark.parametrize("mode", MODES, ids=["sound", "broken"])
@pytest.mark.parametrize(("method", "path"), [each for each in OPERATIONS if each != ENDLESS])
def test_every_answer_is_one_that_the_document_describes(
    served: Served, method: str, path: str, mode: GenerationMode
) -> None:
    """Status, content type, headers and body conform; nothing ends in a server error."""
    fuzz(
        SCHEMA[path][method],
        mode,
        served.process.url,
        examples_max=EXAMPLES_PER_OPERATION,
        foreseen=FORESEEN,
        headers={"Authorization": f"Bearer {served.admin}"},
    )


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_endpoint_requires_a_key(served: Served, method: str, path: str) -> None:
    """Without a key 401; with a key that only reads, 403 for whatever writes or acts."""
    named = path.replace("{name}", "refund")
    query = "?once=true" if path == "/v1/events" else ""
    unknown = served.process.http(method, named + query, json={}).status_code
    by_reader = {"Authorization": f"Bearer {served.reader}"}
    reader = served.process.http(method, named + query, json={}, headers=by_reader).status_code
    reads = (method == "GET" and path not in ADMIN_PATHS) or path in {
        "/v1/query",
        "/v1/query/batch",
        "/v1/evaluation",
        "/v1/diff",
        "/v1/preview",
        "/v1/preview/texts",
        "/v1/encoders/trial",
    }
    # The review queue holds what people wrote, so its readers are those who may write.
    reads = reads and (method, path) != ("GET", "/v1/feedback")

    if path in OPEN_TO_ALL:
        assert unknown not in (401, 403)
    else:
        assert 401 == unknown
        assert (reader == 403) != reads


def test_refusals_are_events_and_nothing_failed_inside(served: Served) -> None:
    """Who was refused is told to who looks; the log has no failed request."""
    by_admin = {"Authorization": f"Bearer {served.admin}"}
    events = served.process.http("GET", "/v1/events?once=true", headers=by_admin).text
    log = (served.process.folder / "log").read_text()

    assert "by nobody known was refused" in events
    assert "by reader was refused" in events
    assert "request_failed" not in log
