"""Shadows of aliases: what another set would have answered, beside the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from set_nodes import PLAIN, WAIT_SECONDS, SetNode
from synaptoroute.core.feedback import FeedbackSettings, write_feedback_settings
from synaptoroute.core.mutation import PutSettings
from synaptoroute.ports import ShadowFigures
from synaptoroute.serving import shadow as shadow_module

pytestmark = pytest.mark.unit

TEXTS = [f"question {number}" for number in range(12)]


@pytest.fixture
def node() -> Iterator[SetNode]:
    """An alias whose target and shadow disagree about every third text."""
    node = SetNode()
    node.engine.start()
    for name in ("old", "new"):
        node.put_set(name)
        for number, text in enumerate(TEXTS):
            route = f"{name}{number}" if number % 3 == 0 else f"same{number}"
            node.put(route, text, route_set=name)
    node.alias("live", "old", shadow="new", shadow_share=1.0)
    yield node
    node.engine.stop()


def figures(node: SetNode) -> ShadowFigures:
    """The counts, once everything before is scored."""

    def settle() -> None:
        # Whoever answers holds the lock until its shadows wait.
        node.engine.read(lambda tensor: tensor.revision).result(WAIT_SECONDS)

    settle()
    until = time.monotonic() + WAIT_SECONDS
    while node.engine.scorer.sets.shadows:
        assert time.monotonic() < until
        time.sleep(0.001)
    settle()
    found = node.engine.shadow_figures("live")
    assert found is not None
    return found


def test_shadow_counts_disagreements_by_pair_of_routes(node: SetNode) -> None:
    answers = node.ask(*TEXTS, TEXTS[0], route_set="live")
    found = figures(node)

    assert {"old"} == {match.route_set for match in answers}
    assert (8, 5, 0, 0) == (found.agreed, found.disagreed, found.skipped, found.other)
    assert ("old0", "new0") == found.pairs[0][0]
    assert 2 == found.pairs[0][1]
    assert {("old3", "new3"), ("old6", "new6"), ("old9", "new9")} == {
        pair for pair, count in found.pairs if count == 1
    }
    assert () == found.sample


def test_further_pairs_are_counted_together(node: SetNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_module, "PAIRS_MAX", 1)
    for text in (TEXTS[0], TEXTS[3], TEXTS[0]):
        node.ask(text, route_set="live")
    found = figures(node)

    assert ((("old0", "new0"), 2),) == found.pairs
    assert 1 == found.other


@pytest.mark.parametrize("changed", ["old", "new"])
def test_counts_are_about_the_present_content_of_both_sets(node: SetNode, changed: str) -> None:
    node.ask(*TEXTS, route_set="live")
    before = figures(node)
    node.put("later", "a later text", route_set=changed)
    after = figures(node)

    assert 12 == before.compared
    assert 0 == after.compared
    revisions = [(found.target_revision, found.shadow_revision) for found in (before, after)]
    assert revisions[0] != revisions[1]
    node.ask(TEXTS[0], route_set="live")
    assert 1 == figures(node).compared


def test_only_the_share_of_texts_is_compared_and_the_same_ones_each_time(node: SetNode) -> None:
    node.alias("live", "old", shadow="new", shadow_share=0.4)
    counts = []
    for _ in range(2):
        for text in TEXTS:
            node.ask(text, route_set="live")
        counts.append(figures(node).compared)

    assert counts[1] == 2 * counts[0]
    assert 0 < counts[0] < len(TEXTS)


def test_texts_that_the_shadow_reads_otherwise_are_skipped(node: SetNode) -> None:
    node.apply(PutSettings(replace(PLAIN, ignore=(r"^question ",))), "new")
    node.ask(*TEXTS, route_set="live")
    found = figures(node)

    assert (0, 12) == (found.compared, found.skipped)


def test_answers_of_a_canary_and_probes_are_not_compared(node: SetNode) -> None:
    node.put_set("third")
    node.alias("live", "old", shadow="new", shadow_share=1.0, canary="third", canary_share=1.0)
    node.ask(TEXTS[0], route_set="live", session="a")
    node.ask(TEXTS[1], route_set="live", is_probe=True)

    assert 0 == figures(node).compared


@pytest.mark.parametrize("is_hash_only", [False, True])
def test_sample_is_kept_and_redacted_as_the_review_queue_says(
    node: SetNode, is_hash_only: bool
) -> None:
    feedback = write_feedback_settings(
        FeedbackSettings(is_hash_only=is_hash_only, redaction=("email",))
    )
    node.apply(PutSettings(replace(PLAIN, feedback=feedback, threshold=None)), "old")
    node.ask(f"{TEXTS[0]} for ada@example.org", TEXTS[3], TEXTS[1], route_set="live")
    found = figures(node)

    texts = {each.text for each in found.sample}
    assert (set() if is_hash_only else {f"{TEXTS[0]} for [email]", TEXTS[3]}) == texts
    node.engine.forget_shadowed()
    assert ((), found.disagreed) == (figures(node).sample, figures(node).disagreed)


def test_shadow_that_fails_harms_no_answer(node: SetNode, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow = node.engine.scorer.sets.by_name["new"]

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(shadow, "score", fail)
    answers = node.ask(*TEXTS, route_set="live")

    assert ["old0", "same1"] == [match.route for match in answers[:2]]
    assert 12 == figures(node).skipped


def test_answer_leaves_before_the_shadow_is_scored(
    node: SetNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop has the answer while the shadow is still being compared."""
    shadow, score = node.engine.scorer.sets.by_name["new"], None
    events: list[str] = []
    score = shadow.score

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()

        def held(*arguments: object, **options: object) -> object:
            waiting = asyncio.run_coroutine_threadsafe(answered.wait(), loop)
            waiting.result(WAIT_SECONDS)
            events.append("shadow")
            return score(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(shadow, "score", held)
        await node.submit(TEXTS[0], "live")
        events.append("answer")
        answered.set()
        await loop.run_in_executor(None, figures, node)

    asyncio.run(ask())

    assert ["answer", "shadow"] == events


def test_alias_without_a_shadow_has_no_counts(node: SetNode) -> None:
    node.ask(*TEXTS, route_set="live")
    node.alias("live", "new")

    assert node.engine.shadow_figures("live") is None
    assert node.engine.shadow_figures("nobody") is None
    node.alias("live", "old", shadow="new", shadow_share=1.0)
    assert 0 == figures(node).compared
