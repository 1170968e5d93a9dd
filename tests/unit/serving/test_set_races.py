"""Sets and aliases that change while queries are on their way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from routers import HeldEncoder
from set_nodes import PLAIN, WAIT_SECONDS, SetNode
from synaptoroute.config import EngineConfig
from synaptoroute.core.imports import generation_id
from synaptoroute.core.mutation import (
    DeleteSet,
    ImportBegin,
    ImportChunk,
    PutRoute,
    PutSettings,
    SwitchEncoder,
)
from synaptoroute.encoder import HashEncoder
from synaptoroute.engine import Engine
from synaptoroute.errors import SetNotFound
from synaptoroute.models import Match
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit


@pytest.fixture
def held() -> HeldEncoder:
    return HeldEncoder()


@pytest.fixture
def node(held: HeldEncoder) -> Iterator[SetNode]:
    node = SetNode(encoder=held)
    node.engine.start()
    yield node
    held.gate.set()
    node.engine.stop()


def in_thread(task: object) -> threading.Thread:
    """Run a function beside the test."""
    assert callable(task)
    thread = threading.Thread(target=task)
    thread.start()
    return thread


def test_alias_switched_between_preparation_and_scoring(node: SetNode, held: HeldEncoder) -> None:
    """The text is read and answered as the new target does it, never half and half."""
    node.put_set("old", replace(PLAIN, ignore=(r"^please ",)))
    node.put("old", "pay the bill", route_set="old")
    node.put_set("new", replace(PLAIN, ignore=(r" bill$",)))
    node.put("new", "please pay the", route_set="new")
    node.alias("live", "old")
    assert "exact" == node.ask("please pay the bill", route_set="live")[0].reason
    held.hold()
    found: list[Match] = []
    thread = in_thread(
        lambda: found.extend(
            node.ask("please pay the bill", route_set="live", use_cache=False, explain=True)
        )
    )
    assert held.is_busy.wait(WAIT_SECONDS)
    node.alias("live", "new")
    held.gate.set()
    thread.join(WAIT_SECONDS)

    assert ("new", "new", "exact") == (found[0].route, found[0].route_set, found[0].reason)
    assert "please pay the" == found[0].encoded_text
    assert str(node.engine.aliases["live"].revision) == found[0].version


def test_set_removed_while_its_queries_wait(node: SetNode, held: HeldEncoder) -> None:
    """They fail each with the name; those of other sets in the batch are answered."""
    for name in ("gone", "kept"):
        node.put_set(name)
        node.put(name, "some text", route_set=name)
    held.hold()
    errors: list[BaseException | Match] = []

    async def ask() -> None:
        asked = [
            node.submit("some text", name, use_cache=False) for name in ("gone", "kept", "gone")
        ]
        errors.extend(await asyncio.gather(*asked, return_exceptions=True))

    thread = in_thread(lambda: asyncio.run(ask()))
    assert held.is_busy.wait(WAIT_SECONDS)
    node.apply(DeleteSet("gone"))
    node.put_set("next")  # it gets the number of the one that went
    node.put("wrong", "some text", route_set="next")
    held.gate.set()
    thread.join(WAIT_SECONDS)

    assert isinstance(errors[0], SetNotFound)
    assert isinstance(errors[2], SetNotFound)
    assert isinstance(errors[1], Match)
    assert "kept" == errors[1].route


def test_fork_while_writes_and_queries_arrive(node: SetNode) -> None:
    """The copy holds what the log holds before it, and nothing of what comes after."""
    node.put_set("source")
    for number in range(20):
        texts = [f"text {number} {place}" for place in range(100)]
        node.put(f"r{number}", *texts, route_set="source")
    stop = threading.Event()
    failures: list[object] = []

    def query() -> None:
        while not stop.is_set():
            found = node.ask("text 3 3", "text 9 9", route_set="source")
            if [match.route for match in found] != ["r3", "r9"]:
                failures.append(found)

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            node.put("late", f"late {number}", route_set="source")

    threads = [in_thread(query), in_thread(write)]
    for number in range(5):
        node.fork("source", f"copy{number}")
    stop.set()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    state = node.engine.applier.replica.sets
    served = {
        name: node.engine.read(
            lambda tensor: {each.name: each.utterances for each in tensor.routes.values()}, name
        ).result(WAIT_SECONDS)
        for name in node.engine.set_names
    }
    sums = node.checksums()

    assert [] == failures
    for name, number in state.numbers.items():
        expected = {each.name: each.utterances for each in state.tables[number].routes.values()}
        assert expected == served[name]
    node.put("late", "the end", route_set="source")
    assert {"copy0": sums["copy0"]} == {"copy0": node.checksums()["copy0"]}


def test_switched_alias_answers_every_query_from_one_side(node: SetNode) -> None:
    """The version of an answer says which side it has to be of."""
    for name in ("a", "b"):
        node.put_set(name)
        node.put(name, "some text", "another text", route_set=name)
    node.alias("live", "a")
    switches = {node.engine.aliases["live"].revision: "a"}
    stop = threading.Event()
    answers: list[Match] = []

    def query() -> None:
        while not stop.is_set():
            answers.extend(node.ask("some text", "another text", "unknown", route_set="live"))

    threads = [in_thread(query) for _ in range(2)]
    for number in range(60):
        side = "ab"[number % 2 == 0]
        node.alias("live", side)
        switches[node.engine.aliases["live"].revision] = side
    stop.set()
    for thread in threads:
        thread.join(WAIT_SECONDS)

    for match in answers:
        epoch, seq = match.version.split(".")
        at = (int(epoch), int(seq))
        side = switches[max(place for place in switches if tuple(place) <= at)]
        assert side == match.route_set
        assert match.route in (side, None)
    assert {"a", "b"} == {match.route_set for match in answers}


def test_encoder_is_switched_for_all_sets_at_one_place() -> None:
    """Empty sets, too; sets made afterwards have the new dimension."""
    first, second = HashEncoder(dim=64), HashEncoder(dim=32)
    node = SetNode(encoder=first)
    node.engine.stop()
    node.engine = Engine(
        first, SQLiteStorage(":memory:"), EngineConfig.model_validate({"lanes": 2}), spare=second
    )
    node.engine.start()
    node.put_set("full")
    node.put_set("empty")
    node.put("in default", "a text of default")
    node.put("in full", "a text of full", route_set="full")
    generation = generation_id(second.fingerprint, second.dim)
    texts = ("a text of default", "a text of full")
    rows = tuple(each.tobytes() for each in second.encode_utterances(texts))
    node.apply(ImportBegin(generation))
    node.apply(ImportChunk(generation, 0, (PutRoute("rows", texts, rows),)))
    node.apply(SwitchEncoder(generation))
    found = {
        name: node.engine.read(lambda tensor: (tensor.dim, tensor.fingerprint), name).result(5)
        for name in node.engine.set_names
    }
    node.encoder = second
    node.put("later", "a later text", route_set="empty")
    node.put_set("next")
    node.put("last", "the last text", route_set="next")
    asked = [("a text of default", ""), ("a text of full", "full"), ("a later text", "empty"),
             ("the last text", "next")]  # fmt: skip
    routes = [node.ask(text, route_set=name)[0].route for text, name in asked]
    node.engine.stop()

    assert {(32, second.fingerprint)} == set(found.values())
    assert ["in default", "in full", "later", "last"] == routes


def test_settings_of_one_set_do_not_change_how_another_reads_texts(node: SetNode) -> None:
    node.put_set("a")
    node.put_set("b")
    node.put("r", "hello there", route_set="a")
    node.put("r", "hello there", route_set="b")
    node.apply(PutSettings(replace(PLAIN, ignore=("hello ",))), "a")
    read = {name: node.engine.prepare("hello you", route_set=name).text for name in ("a", "b", "")}

    assert {"a": "you", "b": "hello you", "": "hello you"} == read


def test_equal_texts_of_several_sets_in_one_batch_are_encoded_once(held: HeldEncoder) -> None:
    node = SetNode(encoder=held, lanes=1)
    node.engine.start()
    names = [f"s{number}" for number in range(5)]
    for name in names:
        node.put_set(name)
        node.put(name, "the same text", route_set=name)
    held.hold()
    found: list[Match] = []

    async def ask() -> None:
        first = asyncio.ensure_future(node.submit("something else", use_cache=False))
        await held.held_up()
        rest = [asyncio.ensure_future(node.submit("the same text", name)) for name in names]
        alone = asyncio.ensure_future(node.submit("the same text", "s0", use_cache=False))
        await asyncio.sleep(0)
        held.gate.set()
        found.extend(await asyncio.gather(*rest, alone))
        await first

    asyncio.run(ask())
    node.engine.stop()

    assert [*names, "s0"] == [match.route for match in found]
    assert 2 == held.count_of("the same text")
