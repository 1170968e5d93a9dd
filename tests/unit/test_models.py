"""Validation of the public types."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synaptoroute.core import names, validation
from synaptoroute.models import (
    JSON_DEPTH_MAX,
    METADATA_BYTES_MAX,
    NAME_CHARACTERS_MAX,
    NAME_PATTERN,
    UTTERANCE_BYTES_MAX,
    UTTERANCES_PER_ROUTE_CALL_MAX,
    Match,
    Route,
    RouteSetSettings,
    canonical_json,
    check_name,
    check_text,
    normal_name,
    route_names,
)

pytestmark = pytest.mark.unit

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "A-1",
        "billing refunds",
        "ns:team.route_1",
        "0",
        "x" * NAME_CHARACTERS_MAX,
        "a-",
        "退款",
        "возврат денег",
        "é",
    ],
)
def test_valid_names_are_accepted(name: str) -> None:
    """Letters and digits of any script, inner spaces and four marks."""
    assert name == Route(name=name, utterances=["x"]).name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " a",
        "a ",
        "-a",
        ".a",
        "a/b",
        "a\n",
        "a\nb",
        "ü/",
        "👍",
        "a\u2028",
        "x" * 129,
        "a\x00",
        "\ud800",
    ],
)
def test_invalid_names_are_rejected(name: str) -> None:
    """A name needs no quoting in a path, a log or a terminal."""
    with pytest.raises(ValidationError):
        Route(name=name, utterances=["x"])
    with pytest.raises(ValueError, match="1 to 128"):
        check_name(name)


@given(st.text(max_size=140))
def test_models_and_core_accept_the_same_names(name: str) -> None:
    is_accepted = True
    try:
        check_name(name)
    except ValueError:
        is_accepted = False

    assert is_accepted == names.is_name(normal_name(name))
    assert not is_accepted or re.search(NAME_PATTERN, name)


def test_utterances_are_trimmed_and_repeats_dropped_with_their_vectors() -> None:
    route = Route(
        name="a",
        utterances=["refund ", "receipt", " refund", "\treceipt\n", "money"],
        vectors=[[1.0], [2.0], [3.0], [4.0], [5.0]],
    )

    assert ["refund", "receipt", "money"] == route.utterances
    assert [[1.0], [2.0], [5.0]] == route.vectors


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t", "a\x00", "\ud800", "é" * (UTTERANCE_BYTES_MAX // 2 + 1)]
)
def test_malformed_utterance_is_rejected(text: str) -> None:
    """Empty, too long, U+0000 or half a surrogate pair."""
    with pytest.raises(ValidationError):
        Route(name="a", utterances=["fine", text])
    with pytest.raises(ValueError, match="must"):
        check_text(text, UTTERANCE_BYTES_MAX)


def test_longest_utterance_is_accepted() -> None:
    """The limit counts bytes, not characters, and is inclusive."""
    longest = "é" * (UTTERANCE_BYTES_MAX // 2)

    assert longest == check_text(f" {longest} ", UTTERANCE_BYTES_MAX)


@pytest.mark.parametrize(
    "fields",
    [
        {"utterances": []},
        {"utterances": "text"},
        {"utterances": ["x"] * (UTTERANCES_PER_ROUTE_CALL_MAX + 1)},
        {"threshold": 1.01},
        {"threshold": -1.01},
        {"threshold": math.nan},
        {"threshold": math.inf},
        {"metadata": [1]},
        {"metadata": {"a": math.nan}},
        {"metadata": {"a": nested(JSON_DEPTH_MAX)}},
        {"metadata": {"a": "x" * METADATA_BYTES_MAX}},
        {"payload": {"a": object()}},
        {"payload": "\ud800"},
        {"payload": {1: 2}},
        {"payload": math.inf},
        {"vectors": [[1.0], [1.0]]},
        {"vectors": [["x"]]},
        {"unknown": 1},
    ],
    ids=lambda fields: f"{next(iter(fields))}",
)
def test_malformed_route_is_rejected(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Route(**{"name": "a", "utterances": ["x"], **fields})


@given(JSON)
def test_canonical_json_is_accepted_by_the_core(value: Any) -> None:
    text = canonical_json(value)
    validation.check_json(text, is_object=False)

    assert text == canonical_json(json.loads(text))


def test_canonical_json_does_not_depend_on_key_order() -> None:
    assert '{"a":[1,"é"],"b":null}' == canonical_json({"b": None, "a": [1, "é"]})


def test_deepest_json_is_accepted() -> None:
    """The limit of depth is inclusive; a cycle is rejected."""
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="deeper"):
        canonical_json(cycle)

    assert "[" * JSON_DEPTH_MAX + "1" + "]" * JSON_DEPTH_MAX == canonical_json(
        nested(JSON_DEPTH_MAX)
    )


def test_match_is_true_only_with_a_route() -> None:
    """``name`` is the field name of release 0.2."""
    hit = Match(route="a", reason="matched", version="1.1")
    miss = Match(route=None, score=0.9, reason="below_threshold", version="1.1")

    assert hit
    assert not miss
    assert ("a", None) == (hit.name, miss.name)


def test_dumped_route_without_vectors_has_no_such_field() -> None:
    assert "vectors" not in Route(name="a", utterances=["x"]).model_dump()


@pytest.mark.parametrize(
    "fields",
    [
        {"aggregation": "median"},
        {"topk": 0},
        {"topk": 101},
        {"threshold": math.nan},
        {"capacity_slots": 0},
        {"capacity_slots": 4_000_001},
        {"unknown": 1},
    ],
    ids=str,
)
def test_malformed_settings_are_rejected(fields: dict[str, Any]) -> None:
    sound = {"aggregation": "max", "topk": 3, "threshold": 0.5, "capacity_slots": 10}
    with pytest.raises(ValidationError):
        RouteSetSettings(**{**sound, **fields})

    assert 3 == RouteSetSettings(**sound).topk  # type: ignore[arg-type]


def test_filter_is_a_set_of_valid_names() -> None:
    with pytest.raises(ValueError, match="at most"):
        route_names(["a"] * 1_001)
    with pytest.raises(ValueError, match="letters"):
        route_names(["a", "/"])

    assert frozenset({"a", "b"}) == route_names(["a", "b", "a"])


def test_match_of_valid_values_is_that_of_model_construct() -> None:
    """Equal, with the same fields set, written in the same order, and with metadata of its own."""
    values = {"route": "a", "reason": "matched", "version": "1.2", "metadata": {"k": [1]}}
    plain, made = Match.model_construct(**values), Match.of_valid(values)

    assert plain == made
    assert plain.model_dump_json() == made.model_dump_json()
    assert plain.model_fields_set == made.model_fields_set
    assert plain.model_copy(update={"route": "b"}) == made.model_copy(update={"route": "b"})
    assert made is not Match.of_valid(values)
