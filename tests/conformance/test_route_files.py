"""Files that other programs write here and now are imported with all that they hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from environments import run_program
from repository import ROOT
from synaptoroute.cli.route_files import read_route_file
from synaptoroute.encoder.recipe import bundled_recipe
from synaptoroute.importers import Imported
from synaptoroute.importers.writers import to_semantic_router
from synaptoroute.models import Route

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

ANSWERS = ("refund", "delivery", "delivery")
RENAMED = {"smalltalk/weather": "smalltalk_weather", "reiseplan/erstellen": "reiseplan_erstellen"}


class Order(BaseModel):
    """A model that refers to itself."""

    item: str
    parts: list[Order] = []


def texts(content: Imported) -> dict[str, list[str]]:
    return {route.name: route.utterances for route in content.routes}


def expected(held: dict[str, list[str]]) -> dict[str, list[str]]:
    """Expected routes of a program; a route without texts has its description."""
    return {
        RENAMED.get(name, name): list(dict.fromkeys(found)) or ["Anger about the service"]
        for name, found in held.items()
    }


def test_files_of_semantic_router_1(tmp_path: Path) -> None:
    written = run_program("routers", "write_semantic_router_1.py", [str(tmp_path)])

    assert 5 == len(written)
    for name, held in written.items():
        content = read_route_file(tmp_path / name)
        assert ("semantic-router", expected(held)) == (content.format, texts(content)), name
    (route,) = (
        each for each in read_route_file(tmp_path / "indexed.yaml").routes if each.name == "退款"
    )
    assert "Geld zurück, für \u2028 alle" == route.description
    assert {
        "team": "billing",
        "tags": ["a", "b"],
        "nested": {"x": 1},
        "confidence_threshold": 0.42,
    } == route.metadata


def test_semantic_router_1_loads_what_is_converted(tmp_path: Path) -> None:
    routes = [
        Route(name="退款", utterances=["我要退款", "yes"], description="back", threshold=0.4),
        Route(name="b", utterances=["12:30", "a: b"], payload={"queue": 7}, metadata={"x": [1]}),
    ]
    for name in ("router.yaml", "router.json"):
        body, notes = to_semantic_router(routes, as_yaml=name.endswith("yaml"))
        (tmp_path / name).write_bytes(body)
        loaded = run_program("routers", "load_semantic_router_1.py", [str(tmp_path / name)])
        assert [each.utterances for each in routes] == [each["utterances"] for each in loaded]
        assert {"threshold": 0.4} == loaded[0]["metadata"]
        assert {"x": [1], "payload": {"queue": 7}} == loaded[1]["metadata"]
        assert len(notes) == 2
        again = read_route_file(tmp_path / name)
        assert [each.name for each in routes] == [each.name for each in again.routes]


def test_files_of_semantic_router_0_and_litellm(tmp_path: Path) -> None:
    written = run_program("routers-before", "write_semantic_router_0.py", [str(tmp_path)])

    assert {"router.json", "layer.yaml", "config.yaml", "config-inline.yaml"} == set(written)
    for name, held in written.items():
        content = read_route_file(tmp_path / name)
        assert "litellm" if name.startswith("config") else "semantic-router" == content.format
        assert held == texts(content), name
    weather = read_route_file(tmp_path / "layer.yaml").routes[1]
    assert [{"name": "get_weather", "parameters": {"type": "object"}}] == weather.payload


def test_files_of_redisvl(tmp_path: Path) -> None:
    written = run_program("routers", "write_redisvl.py", [str(tmp_path)])

    for name, held in written.items():
        content = read_route_file(tmp_path / name)
        assert ("redisvl", held) == (content.format, texts(content))
        assert {"type": "greeting", "distance_threshold": 0.5} == content.routes[0].metadata


def test_function_lists_of_openai(tmp_path: Path) -> None:
    names = run_program("openai", "write_openai_tools.py", [str(tmp_path)])

    for name in ("chat.json", "responses.json"):
        content = read_route_file(tmp_path / name)
        assert ("openai-tools", names) == (content.format, [each.name for each in content.routes])
        document: Any = json.loads((tmp_path / name).read_text())
        tools = document["tools"] if isinstance(document, dict) else document
        assert tools[: len(names)] == [each.payload for each in content.routes]
        assert "Get the weather of a city." == content.routes[0].utterances[0]
    assert (("web_search", "it is no function"),) == content.skipped


def test_tools_of_an_mcp_server(tmp_path: Path) -> None:
    names = run_program("integrations", "write_mcp_tools.py", [str(tmp_path)])

    for name in ("tools.json", "message.json"):
        content = read_route_file(tmp_path / name)
        found = [each.name for each in content.routes]
        assert ("mcp-tools", [RENAMED.get(each, each) for each in names]) == (content.format, found)
        payload = content.routes[0].payload
        assert ("get_weather", "object") == (payload["name"], payload["inputSchema"]["type"])


def test_operations_of_a_fastapi_program(tmp_path: Path) -> None:
    app = FastAPI()

    @app.post("/orders", summary="Place an order", tags=["shop"], operation_id="placeOrder")
    def place(order: Order) -> Order:
        """Buy something. It is sent at once."""
        return order

    @app.get("/orders/{number}")
    def read_order(number: int) -> str:
        """Show where an order is."""
        return str(number)

    @app.delete("/orders/{number}", deprecated=True)
    def drop(number: int) -> None: ...

    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(app.openapi()))
    content = read_route_file(path)
    by_name = {each.name: each for each in content.routes}

    assert ["placeOrder", "read_order_orders__number__get"] == sorted(by_name)
    assert ["Place an order", "Buy something."] == by_name["placeOrder"].utterances
    payload = by_name["placeOrder"].payload
    assert ("POST", "/orders") == (payload["method"], payload["path"])
    schema = payload["request_body"]["content"]["application/json"]["schema"]
    assert "string" == schema["properties"]["item"]["type"]
    assert {"tags": ["shop"]} == by_name["placeOrder"].metadata
    assert "it is deprecated" == content.skipped[0][1]


def test_programs_of_the_page_on_semantic_router_answer_alike(tmp_path: Path) -> None:
    """The program before the move runs with its own encoder, the one after it in this project's."""
    texts = ["please return what I paid", "when will my package arrive", "has it been sent yet"]
    recipe = bundled_recipe()
    folder = ROOT / "examples" / "migrate"
    before = run_program(
        "routers",
        "run_with_bundled_model.py",
        [
            str(recipe.model_file),
            str(recipe.tokenizer_file),
            str(folder / "semantic_router_before.py"),
            str(tmp_path),
            *texts,
        ],
    )
    after = subprocess.run(
        [sys.executable, str(folder / "semantic_router_after.py"), *texts],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    expected = [f"{text}: {name}" for text, name in zip(texts, ANSWERS, strict=True)]
    assert expected == before
    assert expected == after.splitlines()
