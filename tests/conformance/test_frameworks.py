"""The LangChain runnable and the LlamaIndex selector with the real packages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from environments import run_program
from ports import free_port
from repository import ROOT
from synaptoroute.cli.processes import NodeProcess

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ROUTES = ROOT / "examples/routes.yaml"
TOOLS = {"returns", "order-status", "sign-in"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("node")
    settings = {"database": str(folder / "node.sqlite"), "fit_confidence": "false", "lanes": "1"}
    process = NodeProcess(free_port(), settings, folder / "node.log")
    process.start()
    try:
        process.wait_ready()
        answer = httpx.post(
            f"{process.url}/v1/import",
            content=ROUTES.read_bytes(),
            headers={"Content-Type": "application/yaml"},
            timeout=60,
        )
        assert answer.is_success, answer.text
        yield process.url
    finally:
        process.stop()


def run(program: str, place: str) -> dict[str, Any]:
    found: dict[str, Any] = run_program(
        "integrations", program, [place], variables={"PYTHONPATH": str(ROOT / "node")}
    )
    return found


def check_langchain(found: dict[str, Any]) -> None:
    """Every router gives the same answers, sync and async."""
    assert {"returns"} == set(found["inputs"])
    assert 8 == len(found["inputs"])
    assert ["returns", "order-status", None] == found["batch"]
    assert ["returns", "invalid_query", "order-status"] == [
        "invalid_query" if each in ("malformed_body", "invalid_parameter") else each
        for each in found["mixed"]
    ]
    assert "returns: I'd like" in found["branches"][0]
    assert ["tracking", "general"] == found["branches"][1:]
    assert ["returns", "order-status"] == [names[0] for names in found["tools"][:2]]
    assert all(set(names) <= TOOLS for names in found["tools"])
    assert [] == found["tools"][2]


def test_langchain_routes_with_a_router_in_the_process() -> None:
    found = run("langchain_routes.py", str(ROUTES))
    sync = found["sync"]

    check_langchain(sync)
    check_langchain(found["async"])
    assert ["returns"] == found["async"]["streamed"] == sync["one_tool"]
    assert "order-status" == sync["piped"]
    assert ["invalid_query"] * 3 == sync["refused"]
    assert "invalid_query" == sync["batch_fails"]
    assert sync["context"] > 0
    assert ["start", "returns"] == sync["callbacks"]
    assert "Match" == sync["schema"]


def test_langchain_routes_with_the_clients_of_a_cluster(node: str) -> None:
    """A ``Client`` answers both ways, an ``AsyncClient`` coroutines alone."""
    found = run("langchain_routes.py", node)

    for way in ("sync", "async", "async_client"):
        check_langchain(found[way])
    assert "invalid_config" == found["sync_of_async_client"]


@pytest.mark.parametrize("place", ["file", "node"])
def test_llamaindex_chooses_query_engines(place: str, node: str) -> None:
    """Without a language model; a query without a route goes to the default."""
    found = run("llamaindex_routes.py", node if place == "node" else str(ROUTES))
    sync = found["sync"]

    expected = ["returns: ", "order-status: ", "general: "]
    for answers in (sync["answers"], found["async"]):
        assert all(map(str.startswith, answers, expected)), answers
    assert sync["reason"].startswith("route returns, confidence 0.")
    assert ["returns", "order-status"] == sync["several"]
    assert ("no_choice", "invalid_query") == (sync["no_choice"], sync["nameless"])
    assert {} == sync["prompts"]
