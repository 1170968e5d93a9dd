"""Files that pass here pass at a node, and files of other routers are converted faithfully."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.route_files import (
    RouteDiff,
    compare,
    inspect_route_file,
    ndjson_line,
    plain_route,
    read_route_file,
)
from synaptoroute.importers import Document, detect

pytestmark = pytest.mark.unit

ROUTE = {
    "name": "refunds",
    "utterances": ["I want my money back", "Refund me"],
    "threshold": 0.4,
    "metadata": {"team": "billing"},
    "payload": {"queue": 7},
}
BARE = {"name": "bare", "utterances": ["hello"]}

# As semantic-router 0.1 writes it with RouterConfig.to_file.
SEMANTIC_ROUTER = {
    "encoder_type": "openai",
    "encoder_name": "text-embedding-3-small",
    "routes": [
        {
            "name": "small talk!",
            "utterances": ["how's the weather", "lovely day"],
            "description": "chit chat",
            "function_schemas": None,
            "llm": None,
            "score_threshold": 0.3,
            "metadata": {},
        },
        {
            "name": "get_time",
            "utterances": ["what time is it"],
            "description": None,
            "function_schemas": [{"name": "get_time", "parameters": {}}],
            "llm": {"module": "semantic_router.llms", "class": "OpenAILLM", "model": "gpt-4o"},
            "score_threshold": None,
            "metadata": {"owner": "clock"},
        },
    ],
}
REDISVL = {
    "name": "topic-router",
    "routes": [
        {
            "name": "greeting",
            "references": ["hello", "hi"],
            "metadata": {"type": "greeting"},
            "distance_threshold": 0.3,
        }
    ],
    "vectorizer": {"type": "hf", "model": "all-mpnet-base-v2"},
    "routing_config": {"max_k": 1, "aggregation_method": "avg"},
}


def write(folder: Path, name: str, document: Any) -> Path:
    """Write a document in the format of its suffix."""
    path = folder / name
    match path.suffix:
        case ".yaml":
            path.write_text(yaml.safe_dump(document), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(document), encoding="utf-8")
        case _:
            path.write_text("".join(json.dumps(item) + "\n" for item in document), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["r.yaml", "r.json", "r.ndjson", "r.jsonl"])
def test_every_format_gives_the_same_routes(tmp_path: Path, name: str) -> None:
    routes = read_route_file(write(tmp_path, name, [ROUTE, BARE])).routes

    assert [ROUTE, BARE] == [plain_route(route) for route in routes]


def test_example_routes_are_complete() -> None:
    """The file of the quick start has at least 12 routes with at least 8 utterances each."""
    routes = read_route_file(Path(__file__).parents[3] / "examples" / "routes.yaml").routes

    assert len(routes) >= 12
    assert min(len(route.utterances) for route in routes) >= 8


def test_ndjson_line_reads_back(tmp_path: Path) -> None:
    path = write(tmp_path, "r.json", {"routes": [{**ROUTE, "utterances": ["ünï\u2028code 🚀"]}]})
    (route,) = read_route_file(path).routes
    again = tmp_path / "again.ndjson"
    again.write_bytes(ndjson_line(route))

    assert (route,) == read_route_file(again).routes


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.txt", "[]", "has no routes"),
        ("r.yaml", "routes: 7", "must be a list"),
        ("r.yaml", "routes: []", "has no routes"),
        ("r.yaml", "routes: []\nrotues: []", "unknown key 'rotues'"),
        ("r.yaml", "version: 2\nroutes: []", "later release"),
        ("r.yaml", "a: &x [1]\nroutes: *x", "anchors"),
        ("r.json", '{"routes": [NaN]}', "not valid JSON"),
        ("r.ndjson", '{"name": "a", "utterances": ["x"]}\n{', "not valid JSON"),
        ("r.json", '[{"name": "a"}]', "routes[0] (a): utterances"),
        ("r.json", '[{"name": "a", "utterances": [""]}]', "routes[0] (a)"),
        (
            "r.json",
            '[{"name": "a", "utterances": ["x"]}, {"name": "a", "utterances": ["y"]}]',
            "already defined in routes[0]",
        ),
    ],
)
def test_error_names_the_place(tmp_path: Path, name: str, content: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FileRejected) as caught:
        read_route_file(path)

    assert expected in caught.value.message


def test_inspection_lists_every_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, "r.json", [{"name": "-bad", "utterances": ["x"]}, BARE, {"name": "c"}])
    routes, wrong = inspect_route_file(path)

    assert [BARE["name"]] == [route.name for route in routes]
    assert len(wrong) == 2


@pytest.mark.parametrize("name", ["sr.json", "sr.yaml"])
def test_semantic_router_file_is_converted(tmp_path: Path, name: str) -> None:
    """Schemas become the payload; thresholds of another encoder become metadata."""
    content = read_route_file(write(tmp_path, name, SEMANTIC_ROUTER))

    assert [plain_route(route) for route in content.routes] == [
        {
            "name": "small talk_",
            "utterances": ["how's the weather", "lovely day"],
            "metadata": {"score_threshold": 0.3},
            "description": "chit chat",
        },
        {
            "name": "get_time",
            "utterances": ["what time is it"],
            "metadata": {"owner": "clock"},
            "payload": [{"name": "get_time", "parameters": {}}],
        },
    ]
    assert (("small talk!", "small talk_"),) == content.renamed
    assert any(note.startswith("1 thresholds belong to another encoder") for note in content.notes)


def test_redisvl_file_is_converted(tmp_path: Path) -> None:
    """References become utterances; the distance threshold becomes metadata."""
    (route,) = read_route_file(write(tmp_path, "rvl.yaml", REDISVL)).routes

    assert plain_route(route) == {
        "name": "greeting",
        "utterances": ["hello", "hi"],
        "metadata": {"type": "greeting", "distance_threshold": 0.3},
    }


def test_own_file_is_not_taken_for_a_foreign_one() -> None:
    """Its thresholds are applied."""
    for value in ({"routes": [ROUTE, BARE]}, [ROUTE], 7):
        assert "synaptoroute" == detect(Document(value, "json", ""))


def test_unknown_key_of_a_foreign_file_is_refused(tmp_path: Path) -> None:
    """An entry that cannot be converted is reported."""
    document = {**SEMANTIC_ROUTER, "routes": [{**BARE, "score_threshold": 1, "vibe": 2}]}
    with pytest.raises(FileRejected, match="no key 'vibe'"):
        read_route_file(write(tmp_path, "sr.json", document))


def test_diff_lists_all_changes() -> None:
    """Created, changed, unchanged and, with replace, removed routes."""
    changed = {**ROUTE, "utterances": ["Refund me", "Give it back"], "threshold": None}
    present = [
        {**ROUTE, "payload": None},
        {**BARE, "threshold": None, "metadata": {}},
        {**BARE, "name": "old"},
    ]
    found = compare(present, [changed, BARE, {**BARE, "name": "new"}], replace=True)

    assert found == RouteDiff(
        created=("new",),
        changed=(("refunds", "utterances +1 −1, threshold 0.4 → default, payload"),),
        unchanged=("bare",),
        removed=("old",),
    )


def test_diff_without_replace_removes_nothing() -> None:
    assert compare([BARE], [BARE], replace=True).is_empty
    assert compare([BARE, ROUTE], [BARE], replace=False).is_empty


def test_order_of_utterances_is_a_change() -> None:
    """The order decides slots and ties."""
    reordered = {**ROUTE, "utterances": ROUTE["utterances"][::-1]}  # type: ignore[index]

    assert compare([ROUTE], [reordered], replace=False).changed == (
        ("refunds", "order of utterances"),
    )
