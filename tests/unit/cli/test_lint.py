"""Each rule finds what it should and nothing else; scores equal a naive computation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from synaptoroute.cli.lint import (
    UTTERANCES_MIN,
    Finding,
    check_barred,
    check_texts,
    check_tokens,
    check_vectors,
    score_utterances,
)
from synaptoroute.encoder import Encoder
from synaptoroute.models import Route

pytestmark = pytest.mark.unit

THRESHOLD = 0.5


def unit(*numbers: float) -> NDArray[np.float32]:
    """A vector of unit length."""
    vector = np.array(numbers, dtype=np.float64)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def route(name: str, count: int = UTTERANCES_MIN, threshold: float | None = None) -> Route:
    """A route with distinct texts."""
    return Route(name=name, utterances=[f"{name} {i}" for i in range(count)], threshold=threshold)


def around(
    *centre: float, count: int = UTTERANCES_MIN, spread: float = 0.2
) -> list[NDArray[np.float32]]:
    """Vectors near a direction, some way apart from each other."""
    draw = np.random.default_rng(7)
    return [unit(*(np.array(centre) + draw.normal(0, spread, len(centre)))) for _ in range(count)]


def rules(findings: list[Finding]) -> set[tuple[str, str]]:
    """Which rule fired for which route."""
    return {(finding.code, finding.route) for finding in findings}


def naive(
    vectors: NDArray[np.float32], counts: list[int], query: int, of: int, *, out: bool
) -> float:
    """Score of one utterance for one route, by the definition."""
    starts = np.cumsum([0, *counts])
    members = [i for i in range(starts[of], starts[of + 1]) if not (out and i == query)]
    rows = vectors[members].astype(np.float64)
    centroid = rows.sum(axis=0) / np.linalg.norm(rows.sum(axis=0))
    asked = vectors[query].astype(np.float64)
    return float(((rows @ asked).max() + centroid @ asked) / 2)


def test_scores_equal_a_naive_computation() -> None:
    """With and without the utterance itself, for routes of all sizes."""
    draw = np.random.default_rng(3)
    counts = [2, 7, 300, 3]
    vectors = draw.normal(size=(sum(counts), 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    standing = score_utterances(vectors, counts)
    owners = np.repeat(np.arange(4), counts)
    for query in [0, 1, 5, 100, 308, 309, 311]:
        own = int(owners[query])
        others = [naive(vectors, counts, query, of, out=False) for of in range(4) if of != own]

        assert standing.own[query] == pytest.approx(
            naive(vectors, counts, query, own, out=False), abs=1e-6
        )
        assert standing.without[query] == pytest.approx(
            naive(vectors, counts, query, own, out=True), abs=1e-6
        )
        assert standing.other[query] == pytest.approx(max(others), abs=1e-6)


def test_sound_routes_have_no_findings() -> None:
    """Two groups of utterances far apart."""
    routes = [route("a"), route("b")]
    vectors = np.stack([*around(1, 0, 0), *around(0, 1, 0)])

    assert [*check_texts(routes), *check_vectors(routes, vectors, THRESHOLD)] == []


def test_one_text_in_two_routes_is_an_error() -> None:
    """Case and white space are ignored."""
    routes = [
        Route(name="a", utterances=["Refund me", *map(str, range(4))]),
        Route(name="b", utterances=["refund  ME", *map(str, range(10, 14))]),
    ]
    (finding,) = check_texts(routes)

    assert (finding.level, finding.code, finding.route) == ("error", "same-utterance", "b")


def with_negatives(name: str, *negatives: str) -> Route:
    return route(name).model_copy(update={"negatives": list(negatives)})


def test_negative_that_is_an_utterance_is_an_error() -> None:
    """As exact matches compare; that of another route is what negatives are for."""
    found = list(check_texts([with_negatives("a", "A 1!", "b 1"), with_negatives("b", "b  2")]))
    assert {("negative-is-utterance", "a"), ("negative-is-utterance", "b")} == rules(found)
    assert ["A 1!", "b  2"] == [each.message.split("'")[1] for each in found]


def test_negative_of_every_route_is_a_warning() -> None:
    both = [with_negatives("a", "hello"), with_negatives("b", "Hello.")]
    assert {("negative-everywhere", "a")} == rules(list(check_texts(both)))
    assert not list(check_texts([*both, route("c")]))


def test_negative_near_an_own_utterance_is_a_warning() -> None:
    routes = [with_negatives("a", "near", "far"), route("b"), with_negatives("c", "far")]
    own = np.stack([unit(1, 0, 0)] * 5 + [unit(0, 1, 0)] * 10)
    negatives = np.stack([unit(1, 0.1, 0), unit(0, 1, 0), unit(1, 0, 0)])
    found = list(check_barred(routes, own, negatives))
    assert {("negative-near-utterance", "a")} == rules(found)
    assert 5 == len(found)


def test_few_utterances_are_a_warning() -> None:
    """One below the minimum is reported, the minimum is not."""
    found = list(check_texts([route("few", UTTERANCES_MIN - 1), route("enough")]))

    assert rules(found) == {("few-utterances", "few")}


def test_names_that_differ_by_case_are_a_warning() -> None:
    assert ("similar-name", "Refund") in rules(
        list(check_texts([route("refund"), route("Refund")]))
    )


def test_near_duplicates_are_a_warning_between_routes_only() -> None:
    routes = [route("a"), route("b")]
    left, right = around(1, 0, 0), around(0, 1, 0)
    left[1] = left[0]
    assert list(check_vectors(routes, np.stack([*left, *right]), THRESHOLD)) == []

    right[2] = left[0]
    assert ("near-duplicate", "a") in rules(
        list(check_vectors(routes, np.stack([*left, *right]), THRESHOLD))
    )


def test_utterance_nearer_to_another_route_is_found() -> None:
    routes = [route("a"), route("b")]
    left, right = around(1, 0, 0), around(0, 1, 0)
    left[0] = unit(0.25, 1, 0.1)

    found = list(check_vectors(routes, np.stack([*left, *right]), THRESHOLD))
    assert ("nearer-elsewhere", "a") in rules(found)
    assert "'a 0'" in next(f.message for f in found if f.code == "nearer-elsewhere")


def test_route_above_any_score_is_unreachable() -> None:
    """None of its own utterances reaches its threshold."""
    routes = [route("a", threshold=1.0), route("b")]
    found = list(check_vectors(routes, np.stack([*around(1, 0, 0), *around(0, 1, 0)]), THRESHOLD))

    assert [("error", "unreachable", "a")] == [(f.level, f.code, f.route) for f in found]


def test_route_of_unrelated_utterances_is_hardly_reachable() -> None:
    """They reach the route only as its own utterances."""
    routes = [route("a", 3), route("b")]
    strangers = [unit(1, 0, 0, 0, 0), unit(0, 1, 0, 0, 0), unit(0, 0, 1, 0, 0)]
    found = list(check_vectors(routes, np.stack([*strangers, *around(0, 0, 0, 1, 0)]), THRESHOLD))

    assert rules(found) == {("hardly-reachable", "a")}


def test_single_utterance_is_checked() -> None:
    assert list(check_vectors([route("a", 1)], np.stack([unit(1, 0)]), THRESHOLD)) == []


def test_utterances_that_an_encoder_does_not_understand_are_found() -> None:
    """An emoji matches its equal only; two spellings with one meaning are not told apart."""
    routes = [
        Route(name="a", utterances=["\U0001f44d", "a caf\u00e9", "hello"]),
        Route(name="b", utterances=["\U0001f44e", "a cafe", "Hello!"]),
    ]
    texts = [text for each in routes for text in each.utterances]
    encoder = Encoder(providers=["CPUExecutionProvider"])
    found = list(check_tokens(routes, encoder.tokenize_utterances(texts), encoder.name))
    encoder.close()

    assert [
        ("warning", "not-understood", "a"),
        ("warning", "not-understood", "b"),
        ("warning", "same-tokens", "b"),
    ] == [(each.level, each.code, each.route) for each in found]
    assert "'a cafe' from 'a caf\u00e9' of 'a'" in found[2].message
