"""Several route sets on one node: each answers from its own rows, at one position."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from set_nodes import PLAIN, WAIT_SECONDS, SetNode
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import (
    DeleteAlias,
    DeleteRoute,
    DeleteSet,
    PutSettings,
    Revision,
    Settings,
)
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import SetNotFound
from synaptoroute.serving.served_set import ServedSet
from synaptoroute.serving.served_sets import share_of
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.unit


@pytest.fixture
def node() -> Iterator[SetNode]:
    node = SetNode()
    node.engine.start()
    yield node
    node.engine.stop()


def test_sets_with_equal_texts_and_names_answer_apart(node: SetNode) -> None:
    node.apply(PutSettings(PLAIN))
    node.put_set("a")
    node.put_set("b")
    node.put("billing", "pay my bill")
    node.put("other", "pay my bill", route_set="a")
    node.put("billing", "reset my password", route_set="b")
    found = {name: node.ask("pay my bill", route_set=name)[0] for name in ("", "a", "b")}

    assert ["billing", "other", None] == [match.route for match in found.values()]
    assert [None, "a", "b"] == [match.route_set for match in found.values()]
    assert 1 == len({match.version for match in found.values()})


def test_equal_texts_in_flight_to_several_sets_are_not_joined(node: SetNode) -> None:
    for number in range(5):
        node.put_set(f"s{number}")
        node.put(f"route{number}", "the same text", route_set=f"s{number}")

    async def ask_all() -> list[str | None]:
        asked = [node.submit("the same text", f"s{number % 5}") for number in range(100)]
        return [match.route for match in await asyncio.gather(*asked)]

    assert [f"route{number % 5}" for number in range(100)] == asyncio.run(ask_all())


def test_unknown_name_is_refused_for_its_query_alone(node: SetNode) -> None:
    node.put("a", "one")

    with pytest.raises(SetNotFound) as error:
        node.ask("one", route_set="nobody")
    assert "set_not_found" == error.value.code
    assert "a" == node.ask("one")[0].route
    with pytest.raises(SetNotFound):
        node.engine.read(lambda tensor: tensor, "nobody").result(WAIT_SECONDS)
    with pytest.raises(SetNotFound):
        node.engine.published_of("nobody")
    with pytest.raises(SetNotFound):
        node.engine.known_texts(["one"], "nobody")


def test_alias_answers_from_its_target_until_it_is_switched(node: SetNode) -> None:
    for name in ("support@1", "support@2"):
        node.put_set(name)
        node.put(f"of_{name[-1]}", "help me", route_set=name)
    node.alias("support", "support@1")
    first = node.ask("help me", route_set="support")[0]
    node.alias("support", "support@2")
    second = node.ask("help me", route_set="support")[0]
    node.apply(DeleteAlias("support"))

    assert ("of_1", "support@1") == (first.route, first.route_set)
    assert ("of_2", "support@2") == (second.route, second.route_set)
    with pytest.raises(SetNotFound):
        node.ask("help me", route_set="support")


def test_sessions_of_a_canary_stay_on_their_side(node: SetNode) -> None:
    for name in ("old", "new"):
        node.put_set(name)
        node.put(name, "help me", route_set=name)
    node.alias("live", "old", canary="new", canary_share=0.3)
    sides = {}
    for number in range(40):
        session = f"session {number}"
        found = {node.ask("help me", route_set="live", session=session)[0].route for _ in range(2)}
        sides[session] = found
    expected = {
        session: {"new" if share_of("canary", "live", session) < 0.3 else "old"}
        for session in sides
    }

    assert expected == sides
    assert {"old"} == {node.ask("help me", route_set="live")[0].route}
    assert 5 <= sum(side == {"new"} for side in sides.values()) <= 20


def test_removed_set_answers_no_more_and_its_number_is_used_again(node: SetNode) -> None:
    node.put_set("a")
    node.put("from a", "some text", route_set="a")
    node.apply(DeleteSet("a"))
    with pytest.raises(SetNotFound):
        node.ask("some text", route_set="a")
    node.put_set("b")

    assert {"default": 0, "b": 1} == node.engine.set_names
    assert "no_routes" == node.ask("some text", route_set="b")[0].reason


def test_fork_is_a_copy_that_goes_its_own_way(node: SetNode) -> None:
    node.put_set("a")
    for number in range(30):
        texts = [f"text {number} {place}" for place in range(20)]
        node.put(f"r{number}", *texts, route_set="a")
    node.fork("a", "b")
    before = node.checksums()
    same = [match.route for match in node.ask("text 3 1", "text 7 2", route_set="b")]
    node.apply(DeleteRoute("r3"), "a")
    node.put("new", "brand new text", route_set="b")

    assert before["a"] == before["b"]
    assert ["r3", "r7"] == same
    assert "r3" == node.ask("text 3 1", route_set="b")[0].route
    assert "r3" != node.ask("text 3 1", route_set="a")[0].route
    assert "new" == node.ask("brand new text", route_set="b")[0].route
    assert "new" not in node.engine.read(lambda tensor: dict(tensor.routes), "a").result(5)


def test_fork_of_the_default_set_before_the_threads_start(tmp_path: Path) -> None:
    node = SetNode(tmp_path / "node.sqlite")
    node.put("a", "one", "two")
    node.fork("default", "copy")
    answers = node.engine.answer_now([])
    sums = node.checksums()
    node.engine.stop()

    assert [] == answers
    assert sums["default"] == sums["copy"]


def test_boot_serves_every_set_and_alias_as_before(tmp_path: Path) -> None:
    node = SetNode(tmp_path / "node.sqlite")
    node.engine.start()
    node.put("a", "one", "two")
    node.put_set("big")
    for number in range(12):
        texts = [f"text {number} {place}" for place in range(60)]
        node.put(f"r{number}", *texts, route_set="big")
    node.put_set("empty")
    node.put_set("gone")
    node.put("x", "y", route_set="gone")
    node.fork("big", "small")
    node.apply(DeleteSet("gone"))
    node.alias("live", "small")
    before = node.checksums(), node.engine.published_of("live")
    answers = node.ask("text 4 4", "nothing like it", route_set="live")
    node.engine.stop()
    again = SetNode(tmp_path / "node.sqlite")
    again.engine.start()
    after = again.checksums(), again.engine.published_of("live")
    same = again.ask("text 4 4", "nothing like it", route_set="live")
    again.engine.stop()

    assert before == after
    assert answers == same


def test_boot_builds_a_small_set_when_it_is_first_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a query, or by many threads at once; a change that comes first finds the set as it was."""
    node = SetNode(tmp_path / "node.sqlite")
    node.engine.start()
    names = [f"s{number}" for number in range(6)]
    for name in names:
        node.put_set(name)
        node.put(f"of_{name}", "help me", f"only in {name}", route_set=name)
    before = node.checksums()
    node.engine.stop()
    loaded: list[Tensor] = []
    load = Tensor.load

    def watched(tensor: Tensor, *parts: Any, **named: Any) -> None:
        loaded.append(tensor)
        load(tensor, *parts, **named)

    monkeypatch.setattr(Tensor, "load", watched)
    again = SetNode(tmp_path / "node.sqlite")
    sets = again.engine.scorer.sets
    at_boot = len(loaded)
    with ThreadPoolExecutor(8) as pool:
        tensors = list(pool.map(lambda _: sets.by_name["s0"].tensor, range(64)))
    at_once = len(loaded)
    again.put("more", "another", route_set="s1")
    again.engine.start()
    answers = [again.ask("help me", route_set=name)[0].route for name in names]
    deadline = time.monotonic() + WAIT_SECONDS
    while sets.behind and time.monotonic() < deadline:
        time.sleep(0.01)
    built = len(loaded)
    again.put("more", "help me too", route_set="s1")
    again.apply(DeleteRoute("more"), "s1")
    after = again.checksums()
    again.engine.stop()

    assert (1, 2, 7) == (at_boot, at_once, built)
    assert 1 == len(set(map(id, tensors)))
    assert [f"of_{name}" for name in names] == answers
    assert before == after


def test_reads_of_a_set_are_of_the_newest_place_of_the_log(node: SetNode) -> None:
    """A set that did not change is as new as one that did."""
    node.put_set("a")
    node.put("r", "one", route_set="a")
    node.put("other", "two")
    at = node.engine.published.position.revision
    revisions = [
        node.engine.read(lambda tensor: tensor.revision, name).result(WAIT_SECONDS)
        for name in ("", "a", "default")
    ]

    assert [at] * 3 == revisions
    assert (1, 1) == tuple(node.engine.published_of(each).routes_count for each in ("a", ""))
    assert node.engine.published_of("a").version == node.engine.published.version
    assert ["one"] == node.engine.known_texts(["one", "two"], "a")


def test_unmatched_queries_and_counts_are_kept_apart() -> None:
    node = SetNode(unmatched_kept=10)
    node.engine.start()
    node.put_set("a")
    node.put_set("b")
    node.put("r", "one", route_set="a")
    node.put("r", "one", route_set="b")
    node.ask("something else entirely", route_set="a")
    node.ask("one", route_set="b")
    kept = [len(node.engine.unmatched_of(name).newest) for name in ("a", "b", "")]
    counts = [dict(node.engine.decision_figures_of(name).reasons) for name in ("a", "b")]
    node.engine.stop()

    assert [1, 0, 0] == kept
    assert (1, 0) == (counts[0]["below_threshold"], counts[1]["below_threshold"])
    assert (0, 1) == (counts[0]["exact"], counts[1]["exact"])


def test_counts_of_a_node_keep_those_of_removed_sets(node: SetNode) -> None:
    """Totals never fall, and they cost the same with any number of sets."""
    node.put_set("a")
    node.put("r", "one", route_set="a")
    node.fork("a", "b")
    node.ask("one", route_set="a")
    node.ask("one", route_set="b")
    node.put("r", "one")
    node.ask("one")
    node.apply(DeleteSet("a"))
    node.apply(DeleteSet("b"))

    assert 3 == dict(node.engine.status().counters.decisions.reasons)["exact"]


def test_embeddings_of_a_scope_are_not_shared_with_others(node: SetNode) -> None:
    """Whether a text was asked before shows only inside the scope that asked it."""
    node.put("r", "one")
    encoder = node.engine.encoders.cached(node.encoder.fingerprint)
    hits = [encoder.cache.hits]
    for scope in ("", "", "tenant a", "tenant a", "tenant b", ""):
        node.ask("some question", cache_scope=scope)
        hits.append(encoder.cache.hits)

    assert [0, 1, 0, 1, 0, 1] == [after - before for before, after in pairwise(hits)]


def traced_bytes(make: Callable[[], object], count: int) -> float:
    """Bytes that each of many objects keeps, those of numpy included."""
    make()
    tracemalloc.start()
    kept = [make() for _ in range(count)]
    size = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    assert len(kept) == count
    return size


@pytest.mark.parametrize("rows", [0, 30])
def test_small_set_takes_little_more_memory_than_its_rows(rows: int) -> None:
    """At most 64 KiB, beside the rows and what every route has."""
    encoder, dim = EncoderWithWords(dim=384), 384
    slots = np.arange(rows)
    routes = [
        RouteRecord(
            number,
            f"r{number}",
            tuple(range(10 * number, 10 * number + 10)),
            tuple(f"text {number} {place}" for place in range(10)),
            None,
            "{}",
            "null",
            Revision(1, 1),
        )
        for number in range(rows // 10)
    ]
    vectors = encoder.encode_utterances([text for each in routes for text in each.utterances])
    vectors = vectors.reshape(rows, dim)
    settings = Settings(repair_words=True)

    def make() -> ServedSet:
        tensor = Tensor(dim, settings, is_small=True)
        tensor.load(slots, vectors, routes, settings, Revision(1, 1), is_owner=False)
        served = ServedSet(tensor, encoder, number=1, name="a")
        tensor.view()
        return served

    per_route = dim * (4 + 8)
    assert traced_bytes(make, 50) - rows * dim * 4 - len(routes) * per_route < 64 * 1024


class EncoderWithWords(HashEncoder):
    """An encoder that knows as many words as the bundled one."""

    def whole_words(self) -> dict[str, int]:
        return {f"word{number}": number for number in range(20_000)}
