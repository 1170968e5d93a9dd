"""The index of texts follows every change, and costs what the change touches."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from route_sets import DIM, Node, exact_matches, put, row
from synaptoroute.core.mutation import AddUtterances, DeleteRoute, PutRoute, RemoveUtterances
from synaptoroute.tensor.text_index import TextIndex, text_keys

pytestmark = pytest.mark.unit


def texts_put(name: str, *texts: str) -> PutRoute:
    """A route with these utterances."""
    return PutRoute(name, texts, tuple(row(seed).tobytes() for seed in range(len(texts))))


def test_random_changes_leave_the_index_of_a_boot() -> None:
    """Routes are put, replaced and deleted; utterances are added, moved and removed."""
    draw, node = random.Random(5), Node()
    for _ in range(300):
        name, text = f"r{draw.randrange(4)}", f"text {draw.randrange(30)}"
        known = node.table.routes.get(name)
        if known is None or draw.random() < 0.3:
            start = draw.randrange(20)
            seeds = range(start, start + draw.randrange(1, 9))
            if known is None or set(known.utterances) != {f"text {seed}" for seed in seeds}:
                node.put(name, seeds)
        elif text not in known.utterances:
            node.apply(AddUtterances(name, (text,), (row(1).tobytes(),)))
        elif len(known.utterances) > 1 and draw.random() < 0.8:
            node.apply(RemoveUtterances(name, (text,)))
        else:
            node.apply(DeleteRoute(name))
    node.assert_as_rebuilt()


def test_index_of_deleted_routes_is_empty() -> None:
    """Nothing is left behind, however often routes are replaced."""
    node = Node()
    for seed in range(50):
        node.put("a", range(seed, seed + 20))
    node.apply(DeleteRoute("a"))

    assert 0 == len(node.tensor.texts)


def test_write_reads_its_own_texts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many utterances there are."""
    node = Node()
    node.put("many", range(200))
    hashed: list[str] = []

    def watched(texts: Iterable[str]) -> list[int]:
        hashed.extend(kept := list(texts))
        return text_keys(kept)

    monkeypatch.setattr("synaptoroute.tensor.tensor.text_keys", watched)
    node.apply(put("few", range(300, 303)))
    node.apply(DeleteRoute("few"))

    assert ["text 300", "text 301", "text 302"] == hashed


def test_same_spelling_comes_first_then_the_name() -> None:
    """Neither slots nor the order of writes decide which of two routes has a text."""
    node = Node()
    node.apply(texts_put("pronoun", "us", "we"))
    node.apply(texts_put("country", "US"))
    node.apply(texts_put("b", "go on"))
    node.apply(texts_put("a", "Go on!"))
    names = {record.route_id: name for name, record in node.tensor.routes.items()}
    found = exact_matches(node.tensor, ["us", "US", "Us", "go on", "GO ON"])

    assert {
        "us": "pronoun",
        "US": "country",
        "Us": "country",
        "go on": "b",
        "GO ON": "a",
    } == {text: names[match[0]] for text, match in found.items() if match}


def test_filter_of_routes_is_respected() -> None:
    """A route outside of the filter has no text."""
    node = Node()
    node.apply(texts_put("a", "hello"))
    node.apply(texts_put("b", "hello"))
    tensor = node.tensor
    slots = tensor.texts.find("hello")
    own = tensor.routes["b"].route_id

    assert own == (tensor.exact_match("hello", slots, frozenset({own})) or (None,))[0]
    assert tensor.exact_match("hello", slots, frozenset()) is None


def test_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index nominates; the text decides."""
    monkeypatch.setattr("synaptoroute.tensor.tensor.text_keys", lambda texts: [7 for _ in texts])
    node = Node()
    node.apply(texts_put("a", "one"))
    node.apply(texts_put("b", "two"))
    slots = (0, 1)

    assert DIM == node.tensor.dim
    assert (
        node.tensor.routes["b"].route_id
        == (node.tensor.exact_match("two", slots, None) or (None,))[0]
    )
    assert node.tensor.exact_match("three", slots, None) is None


def test_slots_of_one_text_are_counted_once() -> None:
    """A slot that is put again or freed twice does no harm."""
    index = TextIndex()
    index.put([3, 5, 9], text_keys("aaA"))
    index.put([5], text_keys("A"))
    index.free([9, 9, 700])
    found = index.find("A")
    index.put([3], text_keys("b"))

    assert (3, 5) == found
    assert (5,) == index.find("a")
    assert (3,) == index.find("b!")
    assert ["B"] == index.known(["B", "c"])


def test_texts_that_come_at_once_are_found_as_one_by_one() -> None:
    """Also where two slots have one text, and in an index that was emptied."""
    draw = random.Random(0)
    for _ in range(300):
        slots = draw.sample(range(40), draw.randrange(0, 20))
        texts = [f"text {draw.randrange(12)}" for _ in slots]
        at_once, one_by_one = TextIndex(), TextIndex()
        if draw.random() < 0.5:
            for index in (at_once, one_by_one):
                index.put([50], text_keys(["gone"]))
                index.free([50])
        at_once.put(slots, text_keys(texts))
        for slot, key in zip(slots, text_keys(texts), strict=True):
            one_by_one.put([slot], [key])
        for text in {*texts, "gone"}:
            assert at_once.find(text) == one_by_one.find(text)
        at_once.free(slots)
        assert 0 == len(at_once)
