"""A node against its own OpenAPI document: schemathesis calls every endpoint over a socket.

Sound and broken requests alike must get an answer that the document describes, and
never one of 500 or above.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import httpx
import pytest
import schemathesis
from schemathesis import GenerationMode

from fuzzing import MODES, fuzz
from processes import NodeProcess
from synaptoroute.config import NodeConfig
from synaptoroute.server import create_app

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FORESEEN = frozenset({"deadline_exceeded", "not_caught_up"})
EXAMPLES_PER_OPERATION = 20


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node with a route, for the whole module."""
    started = NodeProcess(tmp_path_factory.mktemp("fuzz")).start()
    body = {"utterances": ["I want my money back"]}
    httpx.put(f"{started.url}/v1/routes/refund", json=body).raise_for_status()
    yield started
    started.end()


def never() -> NoReturn:
    """The document needs no router."""
    raise AssertionError("nobody starts this application")


DOCUMENT = create_app(never, NodeConfig()).openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [
    (method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods
]


@pytest.mark.parametrize("mode", MODES, ids=["sound", "broken"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_one_that_the_document_describes(
    node: NodeProcess, method: str, path: str, mode: GenerationMode
) -> None:
    """Status, content type, headers and body conform; nothing ends in a server error."""
    fuzz(
        SCHEMA[path][method],
        mode,
        node.url,
        examples_max=EXAMPLES_PER_OPERATION,
        foreseen=FORESEEN,
    )


def test_node_is_sound_after_fuzzing(node: NodeProcess) -> None:
    """It still answers, its log has no incident, and its digest survives a restart."""
    state = httpx.get(f"{node.url}/-/state").json()
    incidents = [line for line in node.log() if line["message"] == "request_failed"]

    assert [] == incidents
    assert "ready" == state["state"]
    digest = state["router"]["digest"]
    assert 0 == node.stop()
    node.start()
    assert digest == httpx.get(f"{node.url}/-/state").json()["router"]["digest"]
    assert 0 == node.stop()
