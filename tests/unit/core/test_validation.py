"""Validation: malformed entries are rejected equally on every node and never stored."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from synaptoroute import models
from synaptoroute.core.mutation import (
    AddUtterances,
    Calibrate,
    DeleteRoute,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    PatchRoute,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    Settings,
)
from synaptoroute.core.names import NAME_CHARACTERS_MAX
from synaptoroute.core.table import Rejection
from synaptoroute.core.validation import (
    CALIBRATION_CHARACTERS_MAX,
    CAPACITY_SLOTS_MAX,
    IMPORT_ID_CHARACTERS_MAX,
    INTEGER_DIGITS_MAX,
    JSON_BYTES_MAX,
    JSON_DEPTH_MAX,
    TOPK_MAX,
    UTTERANCE_BYTES_MAX,
    check_mutation,
)

pytestmark = pytest.mark.unit

VECTOR = struct.pack("<2f", 1, 0)


def put(**fields: Any) -> PutRoute:
    """A sound route, but for the given fields."""
    sound: dict[str, Any] = {"name": "r", "utterances": ("a",), "vectors": (VECTOR,)}
    return PutRoute(**{**sound, **fields})


def code_of(mutation: Mutation, dim: int = 2) -> str | None:
    """The code of the rejection, or None."""
    try:
        check_mutation(mutation, dim)
    except Rejection as verdict:
        return verdict.code
    return None


@pytest.mark.parametrize(
    "mutation",
    [
        put(name="a" * NAME_CHARACTERS_MAX),
        put(utterances=("x" * UTTERANCE_BYTES_MAX,)),
        put(utterances=("ü" * (UTTERANCE_BYTES_MAX // 2),)),
        put(threshold=-1),
        put(threshold=1.0),
        put(threshold=-0.0),
        put(payload=json.dumps("x" * (JSON_BYTES_MAX - 2))),
        put(payload="[" * (JSON_DEPTH_MAX + 1) + "]" * (JSON_DEPTH_MAX + 1)),
        put(payload='"' + "[" * 100 + '"'),
        put(payload='"\\"' + "[" * 100 + '"'),
        put(payload="9" * INTEGER_DIGITS_MAX),
        put(payload="1e+22"),
        put(payload='"\\u0000"'),
        put(metadata='{"a":null,"b":[1,2.5,"ü🙂"]}'),
        PutSettings(Settings(topk=TOPK_MAX, capacity_slots=CAPACITY_SLOTS_MAX)),
        Calibrate('{"a":"' + "x" * (CALIBRATION_CHARACTERS_MAX - 8) + '"}'),
        PatchRoute("r"),
        PatchRoute("r", None, "{}", "null"),
        RemoveUtterances("r", ()),
        ImportChunk("i" * IMPORT_ID_CHARACTERS_MAX, 0, ()),
        OpenEpoch("", 0),
    ],
)
def test_values_at_their_limits_are_accepted(mutation: Mutation) -> None:
    """Limits are inclusive, as in ``models``."""
    assert code_of(mutation) is None


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "a" * 129, "a/b", "u\u0308", "a\n", "a\x00", "-a", "\ud800", "a\tb"]
)
def test_malformed_name_is_rejected(name: str) -> None:
    """In every mutation of a route, and inside a chunk."""
    named: list[Mutation] = [
        put(name=name),
        DeleteRoute(name),
        AddUtterances(name, ("a",), (VECTOR,)),
        RemoveUtterances(name, ("a",)),
        PatchRoute(name),
        ImportChunk("i", 0, (put(), put(name=name))),
    ]

    assert {"invalid_route"} == {code_of(mutation) for mutation in named}


@pytest.mark.parametrize(
    "text", ["", "a\x00b", "\ud800", "x" * (UTTERANCE_BYTES_MAX + 1), "ü" * 4_097]
)
def test_malformed_utterance_is_rejected(text: str) -> None:
    """A database must be able to store it and return it."""
    malformed: list[Mutation] = [
        put(utterances=(text,)),
        AddUtterances("r", (text,), (VECTOR,)),
        RemoveUtterances("r", (text,)),
        ImportChunk("i", 0, (put(utterances=(text,)),)),
    ]

    assert {"invalid_route"} == {code_of(mutation) for mutation in malformed}


@pytest.mark.parametrize(
    ("utterances", "vectors", "dim", "expected"),
    [
        ((), (), 2, "invalid_route"),
        (("a", "a"), (VECTOR, VECTOR), 2, "invalid_route"),
        (("a",), (), 2, "invalid_vector"),
        (("a",), (VECTOR, VECTOR), 2, "invalid_vector"),
        (("a",), (VECTOR,), 3, "invalid_vector"),
        (("a", "b"), (VECTOR, VECTOR[:4]), 2, "invalid_vector"),
        (("a", "b"), (VECTOR, VECTOR[:4]), 0, "invalid_vector"),
        (("a",), (b"",), 0, "invalid_vector"),
        (("a",), (b"123",), 0, "invalid_vector"),
        (("a",), (VECTOR * 9,), 0, None),
    ],
)
def test_rows_must_be_distinct_texts_with_one_vector_each(
    utterances: tuple[str, ...], vectors: tuple[bytes, ...], dim: int, expected: str | None
) -> None:
    """All vectors of the known dimension, or at least all of one."""
    assert expected == code_of(put(utterances=utterances, vectors=vectors), dim)
    assert expected == code_of(AddUtterances("r", utterances, vectors), dim)


@pytest.mark.parametrize(
    "threshold", [1.0001, -1.0001, float("nan"), float("inf"), float("-inf"), 10**400]
)
def test_threshold_outside_its_range_is_rejected(threshold: float) -> None:
    """Between -1 and 1; NaN is rejected, too."""
    assert "invalid_route" == code_of(put(threshold=threshold))
    assert "invalid_route" == code_of(PatchRoute("r", threshold))
    assert "invalid_request" == code_of(PutSettings(Settings(threshold=threshold)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nul",
        "NaN",
        "Infinity",
        "1e999",
        "01",
        "1.50",
        "-0",
        " 1",
        "[1, 2]",
        '{"b":1,"a":2}',
        '{"a":1,"a":1}',
        '"\\u00fc"',
        '"\\ud800"',
        '"\ud800"',
        '"a\x00b"',
        "[1,]",
        "9" * (INTEGER_DIGITS_MAX + 1),
        "[" * 40 + "]" * 40,
        "[" * 10_000,
        '{"a":' * 40 + "1" + "}" * 40,
        json.dumps("x" * (JSON_BYTES_MAX - 1)),
    ],
)
def test_text_that_is_not_canonical_json_is_rejected(text: str) -> None:
    """Every node must parse it to the same value."""
    assert "invalid_route" == code_of(put(payload=text))
    assert "invalid_route" == code_of(put(metadata=text))
    assert "invalid_route" == code_of(PatchRoute("r", payload=text))
    assert "invalid_route" == code_of(PatchRoute("r", metadata=text))


@pytest.mark.parametrize("text", ["null", "[]", "1", '"{}"'])
def test_metadata_must_be_an_object(text: str) -> None:
    assert "invalid_route" == code_of(put(metadata=text))
    assert code_of(put(payload=text)) is None


@pytest.mark.parametrize(
    "settings",
    [
        Settings(topk=0),
        Settings(topk=TOPK_MAX + 1),
        Settings(capacity_slots=0),
        Settings(capacity_slots=CAPACITY_SLOTS_MAX + 1),
        Settings(capacity_slots=(1 << 53) - 1),
        Settings(cascade=True, calibration="{}"),
    ],
)
def test_settings_over_their_limits_are_rejected(settings: Settings) -> None:
    """An entry must not make every node allocate unlimited memory."""
    assert "invalid_request" == code_of(PutSettings(settings))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"b":1,"a":1}',
        '{"a":"ü"}',
        '{"a":"' + "x" * (CALIBRATION_CHARACTERS_MAX - 7) + '"}',
    ],
)
def test_malformed_calibration_is_rejected(text: str) -> None:
    """It must be a short canonical object of ASCII characters."""
    assert code_of(Calibrate(text)) is not None


@pytest.mark.parametrize("import_id", ["", "\x00", "x" * 129, "\ud800"])
def test_malformed_import_identity_is_rejected(import_id: str) -> None:
    """In every mutation of an import."""
    malformed: list[Mutation] = [
        ImportBegin(import_id),
        ImportChunk(import_id, 0, ()),
        ImportCommit(import_id, 0),
        ImportAbort(import_id),
    ]

    assert {"invalid_route"} == {code_of(mutation) for mutation in malformed}


def test_models_and_core_have_the_same_limits() -> None:
    """The core accepts everything that the models accept."""
    assert models.NAME_CHARACTERS_MAX == NAME_CHARACTERS_MAX
    assert models.UTTERANCE_BYTES_MAX == UTTERANCE_BYTES_MAX
    assert models.METADATA_BYTES_MAX == JSON_BYTES_MAX
    assert models.JSON_DEPTH_MAX == JSON_DEPTH_MAX
    models.RouteSetSettings(
        aggregation="max", topk=TOPK_MAX, threshold=0, capacity_slots=CAPACITY_SLOTS_MAX
    )


@pytest.mark.parametrize(
    "value", [{}, None, [1, 2.5, -0.0, 1e300, "ü\n\x00\x7f"], {"b": {"a": []}, "a": 10**600}]
)
def test_canonical_json_of_models_is_canonical_for_the_core(value: Any) -> None:
    """Both writers agree on every type of value."""
    assert code_of(put(payload=models.canonical_json(value))) is None
