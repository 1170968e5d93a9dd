"""Goal: what passes here passes at the node, and other routers' files are read faithfully."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.importers import kind_of
from synaptoroute.cli.route_diff import RouteDiff, compare
from synaptoroute.cli.route_files import inspect_route_file, ndjson_line, plain, read_route_file

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
    """A list of routes reads alike in each format, and comes out as it went in."""
    routes = read_route_file(write(tmp_path, name, [ROUTE, BARE])).routes

    assert [ROUTE, BARE] == [plain(route) for route in routes]


def test_the_examples_are_sound() -> None:
    """The file of the quick start has 12 routes or more with 8 utterances or more each."""
    routes = read_route_file(Path(__file__).parents[3] / "examples" / "routes.yaml").routes

    assert len(routes) >= 12
    assert min(len(route.utterances) for route in routes) >= 8


def test_a_line_of_ndjson_reads_back(tmp_path: Path) -> None:
    """What import sends is what the file said, unicode and all."""
    path = write(tmp_path, "r.json", {"routes": [{**ROUTE, "utterances": ["ünï\u2028code 🚀"]}]})
    (route,) = read_route_file(path).routes
    again = tmp_path / "again.ndjson"
    again.write_bytes(ndjson_line(route))

    assert (route,) == read_route_file(again).routes


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.txt", "[]", "must end in"),
        ("r.yaml", "routes: 7", "must be a list"),
        ("r.yaml", "routes: []", "holds no route"),
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
            "given in routes[0] already",
        ),
    ],
)
def test_a_wrong_file_names_the_place(tmp_path: Path, name: str, content: str, said: str) -> None:
    """Each mistake is refused with a sentence that leads to it."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FileRejected) as caught:
        read_route_file(path)

    assert said in caught.value.message


def test_an_inspection_lists_every_mistake(tmp_path: Path) -> None:
    """Lint shows all that is wrong, not only the first."""
    path = write(tmp_path, "r.json", [{"name": "-bad", "utterances": ["x"]}, BARE, {"name": "c"}])
    routes, wrong = inspect_route_file(path)

    assert [BARE["name"]] == [route.name for route in routes]
    assert len(wrong) == 2


@pytest.mark.parametrize("name", ["sr.json", "sr.yaml"])
def test_a_file_of_semantic_router_is_converted(tmp_path: Path, name: str) -> None:
    """Schemas become the payload; thresholds of another encoder are kept, not applied."""
    content = read_route_file(write(tmp_path, name, SEMANTIC_ROUTER))

    assert [plain(route) for route in content.routes] == [
        {
            "name": "small talk_",
            "utterances": ["how's the weather", "lovely day"],
            "metadata": {"description": "chit chat", "score_threshold": 0.3},
        },
        {
            "name": "get_time",
            "utterances": ["what time is it"],
            "metadata": {"owner": "clock"},
            "payload": [{"name": "get_time", "parameters": {}}],
        },
    ]
    assert "'small talk!' is now 'small talk_'" in content.notes
    assert any(note.startswith("1 thresholds belong to another encoder") for note in content.notes)


def test_a_file_of_redisvl_is_converted(tmp_path: Path) -> None:
    """References become utterances, the distance is kept as metadata."""
    (route,) = read_route_file(write(tmp_path, "rvl.yaml", REDISVL)).routes

    assert plain(route) == {
        "name": "greeting",
        "utterances": ["hello", "hi"],
        "metadata": {"type": "greeting", "distance_threshold": 0.3},
    }


def test_our_own_files_are_not_taken_for_another_router() -> None:
    """A threshold of ours is applied."""
    assert kind_of({"routes": [ROUTE, BARE]}) is None
    assert kind_of([ROUTE]) is None
    assert kind_of(7) is None


def test_an_unknown_key_of_another_router_is_refused(tmp_path: Path) -> None:
    """What cannot be carried over is not dropped in silence."""
    document = {**SEMANTIC_ROUTER, "routes": [{**BARE, "score_threshold": 1, "vibe": 2}]}
    with pytest.raises(FileRejected, match="no 'vibe'"):
        read_route_file(write(tmp_path, "sr.json", document))


def test_a_diff_says_what_changes() -> None:
    """Created, changed, unchanged and, with replace, removed."""
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


def test_a_diff_without_replace_removes_nothing() -> None:
    """Routes that the file does not name stay."""
    assert compare([BARE], [BARE], replace=True).is_empty
    assert compare([BARE, ROUTE], [BARE], replace=False).is_empty


def test_the_order_of_utterances_is_a_change() -> None:
    """The order decides slots and ties, so it is shown."""
    reordered = {**ROUTE, "utterances": ROUTE["utterances"][::-1]}  # type: ignore[index]

    assert compare([ROUTE], [reordered], replace=False).changed == (
        ("refunds", "order of utterances"),
    )
