"""Fields of the mutations of route sets, as frames hold them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from synaptoroute.core.field_values import (
    Fields,
    Kind,
    Vectors,
    plain_kind,
    read_count,
    read_flag,
    read_number,
    read_revision,
    read_text,
    read_texts,
    split_rows,
    write_number,
)
from synaptoroute.core.mutation import (
    DeleteAlias,
    DeleteSet,
    EraseTexts,
    ForkSet,
    PutAlias,
    PutSet,
    PutTests,
    SetLimits,
    SetTest,
)


def _write_set(put: PutSet) -> tuple[Fields, Vectors]:
    limits = {name: each for name, each in asdict(put.limits).items() if name not in put.kept}
    return {"name": put.name, "limits": limits}, []


def _read_set(fields: Fields, vectors: bytes) -> PutSet:
    split_rows(vectors, 0)
    limits = {name: read_count(value) for name, value in fields["limits"].items()}
    kept = frozenset(SetLimits.__dataclass_fields__) - set(limits)
    return PutSet(read_text(fields["name"]), SetLimits(**limits), kept)


def _write_alias(put: PutAlias) -> tuple[Fields, Vectors]:
    fields: Fields = {
        "name": put.name,
        "target": put.target,
        "shadow": put.shadow,
        "shadow_share": write_number(put.shadow_share),
        "canary": put.canary,
        "canary_share": write_number(put.canary_share),
        "evidence": put.evidence,
        "at_ms": put.at_ms,
    }
    if put.target_revision is not None:
        fields["target_revision"] = list(put.target_revision)
    return fields, []


def _read_alias(fields: Fields, vectors: bytes) -> PutAlias:
    split_rows(vectors, 0)
    texts = {name: read_text(fields[name]) for name in ("name", "target", "shadow", "canary")}
    return PutAlias(
        **texts,
        shadow_share=_share(fields["shadow_share"]),
        canary_share=_share(fields["canary_share"]),
        target_revision=read_revision(fields.get("target_revision")),
        evidence=read_text(fields["evidence"]),
        at_ms=read_count(fields["at_ms"]),
    )


def _share(value: Any) -> float:
    share = read_number(value)
    if share is None:
        raise TypeError("a share is a number")
    return share


def read_test_list(value: Any) -> tuple[SetTest, ...]:
    """Tests as lists of a text and a route."""
    return tuple(
        SetTest(read_text(text), None if route is None else read_text(route))
        for text, route in value
    )


def _write_tests(put: PutTests) -> tuple[Fields, Vectors]:
    tests = [list(test) for test in put.tests]
    return {"tests": tests, "removed": list(put.removed), "replace": put.replace}, []


def _read_tests(fields: Fields, vectors: bytes) -> PutTests:
    split_rows(vectors, 0)
    tests = read_test_list(fields["tests"])
    return PutTests(tests, read_texts(fields["removed"]), read_flag(fields["replace"]))


SET_KINDS: Final[tuple[Kind, ...]] = (
    (28, PutSet, _write_set, _read_set),
    plain_kind(29, DeleteSet, name=read_text),
    plain_kind(30, ForkSet, name=read_text, into=read_text),
    (31, PutAlias, _write_alias, _read_alias),
    plain_kind(32, DeleteAlias, name=read_text),
    (33, PutTests, _write_tests, _read_tests),
    plain_kind(34, EraseTexts, hashes=read_texts),
)
