"""The tools of the MCP server without the SDK: schemas, arguments, results, backends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import InvalidQuery
from synaptoroute.integrations.backends import EmbeddedBackend
from synaptoroute.integrations.mcp_tools import TOOLS
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter

pytestmark = pytest.mark.unit

SECRET = "my-secret-text"


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    router = AdaptiveRouter(HashEncoder(64))
    await router.start()
    for name in ("billing", "parcel", "weather"):
        await router.aput_route(Route(name=name, utterances=[f"about {name}", f"more {name}"]))
    yield EmbeddedBackend(router)
    await router.stop()


@pytest.mark.parametrize("name", TOOLS)
def test_schemas_are_closed_objects_with_described_arguments(name: str) -> None:
    """A language model reads the descriptions; unknown arguments are mistakes."""
    asked = TOOLS[name].arguments.model_json_schema()
    answered = TOOLS[name].result.model_json_schema(mode="serialization")

    assert "object" == asked["type"] == answered["type"]
    assert False is asked["additionalProperties"]
    assert [] == [key for key, each in asked["properties"].items() if not each.get("description")]
    assert set(answered["required"]) == set(answered["properties"])


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
        ("route", {}, "text"),
        ("route", {"text": "  "}, "text"),
        ("route", {"text": SECRET * 3_000}, "text"),
        ("route", {"text": f"{SECRET}\x00"}, "text"),
        ("route", {"text": 5}, "text"),
        ("route", {"text": SECRET, "context": [SECRET] * 9}, "context"),
        ("route", {"text": SECRET, "routes": [SECRET, "/"]}, "routes.1"),
        ("explain", {"text": SECRET, "limit": 0}, "limit"),
        ("list_routes", {"limit": 101}, "limit"),
        ("add_utterances", {"name": "a", "utterances": []}, "utterances"),
        ("feedback", {"text": SECRET}, "route"),
        ("delete_route", {"name": "a", "text": SECRET}, "text"),
    ],
)
def test_wrong_arguments_are_named_and_not_repeated(
    name: str, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidQuery) as caught:
        TOOLS[name].read(arguments)

    assert caught.value.message.startswith(f"{field}: ")
    assert SECRET not in caught.value.message


async def test_embedded_router_answers_and_has_no_writer(backend: EmbeddedBackend) -> None:
    """Its pages and answers have the fields of the HTTP API."""
    tool = TOOLS["list_routes"]
    page = tool.shape(await tool.run(backend, tool.read({"limit": 2})))
    tool = TOOLS["route"]
    answer = tool.shape(await tool.run(backend, tool.read({"text": "about billing"})))
    tool = TOOLS["explain"]
    asked = tool.read({"text": "about billing", "limit": 2, "routes": ["billing", "weather"]})
    explained = tool.shape(await tool.run(backend, asked))

    assert ["billing", "parcel"] == [each["name"] for each in page["routes"]]
    assert "parcel" == page["next_after"]
    assert ("billing", "exact", 1.0) == (answer["route"], answer["reason"], answer["confidence"])
    assert {"billing", "weather"} == {each["route"] for each in explained["candidates"]}
    assert None is await backend.writer()
