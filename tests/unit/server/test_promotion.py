"""Tests of a route set, comparisons, gated promotions and roll backs over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from http_node import HttpNode, http_node
from routers import until
from synaptoroute.core.mutation import DeleteRoute, ForkSet, Proposal
from synaptoroute.router import WriteOptions
from synaptoroute.router.queries import answer_queries, make_query

pytestmark = pytest.mark.unit

TESTS = [
    {"text": "I want my money back", "route": "refund"},
    {"text": "where is my parcel", "route": "parcel"},
    {"text": "track my order", "route": "parcel"},
]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """Two routes, and three tests that they answer right."""
    async with http_node(tmp_path) as node:
        await node.fill()
        answer = await node.http.put("/v1/tests", json={"tests": TESTS})
        assert 200 == answer.status_code, answer.text
        yield node


async def fork(node: HttpNode, into: str) -> None:
    writer = node.router._writer()
    await writer.write(ForkSet("default", into), WriteOptions())


async def put_alias(node: HttpNode, body: dict[str, Any], **headers: str) -> httpx.Response:
    return await node.http.put("/v1/aliases/support", json=body, headers=headers)


async def listed(node: HttpNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await node.http.get("/v1/tests")).json()["tests"]
    return found


async def worsen(node: HttpNode) -> None:
    """Let `default` answer one test wrong."""
    changed = {"utterances": ["I want my money back", "track my order"]}
    await node.http.delete("/v1/routes/parcel")
    await node.http.put("/v1/routes/refund", json=changed)
    await node.http.put("/v1/routes/parcel", json={"utterances": ["where is my parcel"]})


# --- tests ---


async def test_tests_are_replaced_patched_and_removed(node: HttpNode) -> None:
    patched = await node.http.patch(
        "/v1/tests",
        json={
            "tests": [
                {"text": "track my order", "route": None},
                {"text": "hello", "route": None},
            ],
            "removed": ["where is my parcel", "absent"],
        },
    )
    after_patch = await listed(node)
    replaced = await node.http.put("/v1/tests", json={"tests": TESTS[:1]})
    after_put = await listed(node)
    emptied = await node.http.delete("/v1/tests")

    assert (200, 3) == (patched.status_code, patched.json()["count"])
    assert [
        {"text": "I want my money back", "route": "refund"},
        {"text": "hello", "route": None},
        {"text": "track my order", "route": None},
    ] == after_patch
    assert 200 == replaced.status_code
    assert TESTS[:1] == after_put
    assert 200 == emptied.status_code
    assert [] == await listed(node)


async def test_tests_are_listed_in_pages(node: HttpNode) -> None:
    first = (await node.http.get("/v1/tests", params={"limit": 2})).json()
    after = first["next_after"]
    second = (await node.http.get("/v1/tests", params={"limit": 2, "after": after})).json()

    assert ([2, 1], 3) == ([len(first["tests"]), len(second["tests"])], first["total"])
    assert second["next_after"] is None


async def test_long_tests_with_one_beginning_are_listed_in_pages(node: HttpNode) -> None:
    texts = [f"{'ü' * 4_000}{number}" for number in range(5)]
    tests = [{"text": text, "route": None} for text in texts]
    await node.http.put("/v1/tests", json={"tests": tests})
    found, after = [], ""
    while after is not None:
        page = await node.http.get("/v1/tests", params={"limit": 2, "after": after})
        assert 200 == page.status_code, page.text
        found += [each["text"] for each in page.json()["tests"]]
        after = page.json()["next_after"]

    assert sorted(found) == sorted(texts)


async def test_many_tests_are_written_by_several_entries(node: HttpNode) -> None:
    many = [{"text": f"{number} " + "x" * 400, "route": "refund"} for number in range(1_000)]
    answer = await node.http.put("/v1/tests", json={"tests": many})
    page = (await node.http.get("/v1/tests", params={"limit": 1_000})).json()

    assert (200, 1_003) == (answer.status_code, answer.json()["count"]), answer.text
    assert sorted(each["text"] for each in many) == [each["text"] for each in page["tests"]]


@pytest.mark.parametrize(
    "body",
    [
        {"tests": [{"text": "x"}]},
        {"tests": [{"text": "", "route": None}]},
        {"tests": [{"text": "x", "route": "a/b"}]},
        {"tests": [{"text": "x" * 9_000, "route": None}]},
        {"tests": [{"text": "x", "route": None, "more": 1}]},
        {},
    ],
)
async def test_malformed_tests_are_refused(node: HttpNode, body: dict[str, Any]) -> None:
    answer = await node.http.put("/v1/tests", json=body)

    assert 422 == answer.status_code, answer.text
    assert 3 == len(await listed(node))


async def test_evaluation_names_wrong_answers(node: HttpNode) -> None:
    await worsen(node)
    own = (await node.http.post("/v1/evaluation")).json()
    given = {"texts": [{"text": "where is my parcel", "route": "parcel"}]}
    other = (await node.http.post("/v1/evaluation", json=given)).json()

    assert (3, 2, 0.666667) == (own["tests"], own["right"], own["accuracy"])
    (failure,) = own["failures"]
    assert ("track my order", "parcel", "refund") == tuple(
        failure[name] for name in ("text", "expected", "got")
    )
    assert [
        {"route": "parcel", "tests": 2, "right": 1},
        {"route": "refund", "tests": 1, "right": 1},
    ] == own["routes"]
    assert own["is_current"]
    assert (1, 1.0, []) == (other["tests"], other["accuracy"], other["failures"])
    assert 3 == len(await listed(node))


async def test_tests_do_not_count_as_unmatched(tmp_path: Path) -> None:
    async with http_node(tmp_path, unmatched_kept=10) as node:
        await node.fill()
        tests = {"tests": [{"text": "do you sell gift cards", "route": None}]}
        await node.http.put("/v1/tests", json=tests)
        await node.http.post("/v1/evaluation")

        assert [] == node.router._engine().unmatched.newest


# --- comparisons ---


async def test_diff_shows_changed_decisions_and_routes(node: HttpNode) -> None:
    await fork(node, "before")
    await worsen(node)
    found = (await node.http.post("/v1/diff", json={"from": "before", "to": "default"})).json()

    assert (1.0, 0.666667) == (found["before"]["accuracy"], found["after"]["accuracy"])
    assert (3, 1, 0, 1) == tuple(
        found[name] for name in ("labelled", "broken", "fixed", "changed_total")
    )
    (changed,) = found["changed"]
    assert ("track my order", "broken", "parcel", "refund") == (
        changed["text"],
        changed["verdict"],
        changed["before"]["route"],
        changed["after"]["route"],
    )
    shown = {each["route"]: (each["before"], each["after"]) for each in found["routes"]}
    assert {"parcel": (2, 1), "refund": (1, 2)} == shown


async def test_diff_of_given_texts(node: HttpNode) -> None:
    await fork(node, "before")
    await worsen(node)
    texts = [{"text": "track my order"}, {"text": "where is my parcel", "route": "parcel"}]
    body = {"from": "before", "to": "default", "texts": texts}
    found = (await node.http.post("/v1/diff", json=body)).json()

    assert (2, 1) == (found["texts"], found["labelled"])
    assert ["unlabelled"] == [each["verdict"] for each in found["changed"]]


async def test_diff_of_an_unknown_set_is_not_found(node: HttpNode) -> None:
    answer = await node.http.post("/v1/diff", json={"from": "default", "to": "absent"})

    assert (404, "set_not_found") == (answer.status_code, answer.json()["code"])


# --- promotions ---


async def test_alias_is_promoted_where_the_gate_is_met(node: HttpNode) -> None:
    await fork(node, "v1")
    created = await put_alias(node, {"set": "v1"})
    gate = {"min_accuracy": 1.0, "max_regressions": 0, "min_tests": 3}
    moved = await put_alias(node, {"set": "default", "gate": gate})
    record = await node.router.changes.promotions.alias("support")
    history = (await node.router.sets.alias("support")).history

    assert (201, 200) == (created.status_code, moved.status_code), moved.text
    assert (1.0, 3, 0) == tuple(
        moved.json()["evidence"][name] for name in ("accuracy", "tests", "regressions")
    )
    assert "default" == record.target
    assert [("v1", "default"), (None, "v1")] == [(each.before, each.set) for each in history]
    assert history[0].evidence is not None
    assert gate == history[0].evidence["gate"]
    assert history[1].evidence is None


async def test_gate_refuses_a_worse_set_with_the_failing_queries(node: HttpNode) -> None:
    await fork(node, "v1")
    await put_alias(node, {"set": "v1"})
    await worsen(node)
    by_accuracy = await put_alias(node, {"set": "default", "gate": {"min_accuracy": 0.9}})
    by_regressions = await put_alias(node, {"set": "default", "gate": {"max_regressions": 0}})
    by_count = await put_alias(node, {"set": "default", "gate": {"min_tests": 4}})
    record = await node.router.changes.promotions.alias("support")

    for answer in (by_accuracy, by_regressions, by_count):
        assert (409, "gate_failed") == (answer.status_code, answer.json()["code"]), answer.text
        assert answer.json()["evidence"]["unmet"]
    (failure,) = by_accuracy.json()["evidence"]["failures"]
    assert ("track my order", "parcel", "refund", True) == tuple(
        failure[name] for name in ("text", "expected", "got", "is_regression")
    )
    assert 1 == by_regressions.json()["evidence"]["regressions"]
    assert ("v1", 1) == (record.target, len(record.history))


async def test_gate_without_tests_is_not_met(node: HttpNode) -> None:
    await node.http.delete("/v1/tests")
    answer = await put_alias(node, {"set": "default", "gate": {"min_accuracy": 0.0}})

    assert (409, "gate_failed") == (answer.status_code, answer.json()["code"])


async def test_shadow_agreement_needs_compared_queries(node: HttpNode) -> None:
    answer = await put_alias(node, {"set": "default", "gate": {"min_shadow_agreement": 0.5}})

    assert (409, "gate_failed") == (answer.status_code, answer.json()["code"])


async def test_shadow_agreement_is_that_of_the_present_content(node: HttpNode) -> None:
    """Agreement that was counted before the shadow changed is no evidence."""
    await fork(node, "v1")
    await put_alias(node, {"set": "default", "shadow": "v1", "shadow_share": 1.0})
    engine = node.router._engine()
    for number in range(4):
        query = make_query(f"where is my parcel {number}", is_checked=True)
        query.route_set = "support"
        await answer_queries(engine, [query], 10.0, "")
    gate = {"min_shadow_agreement": 0.9, "min_shadow_queries": 4}
    await until(lambda: engine.shadow_figures("support").compared == 4)
    op_id = b"o" * 16
    outcome = engine.expect_outcome(op_id)
    engine.propose([Proposal(op_id, DeleteRoute("refund"), route_set="v1")])
    await asyncio.wrap_future(outcome)
    late = await put_alias(node, {"set": "v1", "gate": gate})
    for number in range(4):
        query = make_query(f"where is my parcel {number}", is_checked=True)
        query.route_set = "support"
        await answer_queries(engine, [query], 10.0, "")
    await until(lambda: engine.shadow_figures("support").compared == 4)
    passed = await put_alias(node, {"set": "v1", "gate": gate})

    assert (409, "gate_failed") == (late.status_code, late.json()["code"])
    assert 200 == passed.status_code, passed.text
    assert 1.0 == passed.json()["evidence"]["shadow_agreement"]


async def test_set_that_changes_while_it_is_measured_is_measured_again(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias moves only to a content that was measured."""
    from synaptoroute.router import promotion

    measured = promotion.answers_of
    runs = 0

    async def answers_of(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        found = await measured(*arguments)
        if runs == 1:
            await worsen(node)
        return found

    monkeypatch.setattr(promotion, "answers_of", answers_of)
    gate = {"min_accuracy": 0.9}
    answer = await put_alias(node, {"set": "default", "gate": gate})

    assert (409, "gate_failed") == (answer.status_code, answer.json()["code"]), answer.text
    assert 2 == runs
    assert 0.6667 == round(answer.json()["evidence"]["accuracy"], 4)


async def test_set_that_never_rests_is_refused(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synaptoroute.router import promotion

    measured, runs = promotion.answers_of, 0

    async def answers_of(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        found = await measured(*arguments)
        await node.http.put(f"/v1/routes/r{runs}", json={"utterances": [f"x {runs}"]})
        return found

    monkeypatch.setattr(promotion, "answers_of", answers_of)
    answer = await put_alias(node, {"set": "default", "gate": {"min_accuracy": 0.1}})

    assert (409, "gate_failed") == (answer.status_code, answer.json()["code"]), answer.text
    assert promotion.TRIES_MAX == runs


async def test_alias_that_moves_during_a_gate_is_compared_with_again(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regressions are counted against the set that answers when the alias moves."""
    from synaptoroute.router import promotion

    await fork(node, "good")
    await worsen(node)
    await fork(node, "bad")
    await put_alias(node, {"set": "bad"})
    measured, runs = promotion.answers_of, 0

    async def answers_of(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        found = await measured(*arguments)
        if runs == 1:
            await put_alias(node, {"set": "good"})
        return found

    monkeypatch.setattr(promotion, "answers_of", answers_of)
    answer = await put_alias(node, {"set": "default", "gate": {"max_regressions": 0}})
    shown = (await node.http.get("/v1/aliases/support")).json()

    assert (409, "gate_failed") == (answer.status_code, answer.json()["code"]), answer.text
    assert ("good", 1) == (
        answer.json()["evidence"]["base"],
        len(answer.json()["evidence"]["failures"]),
    )
    assert "good" == shown["set"]


async def test_alias_that_is_created_during_a_gate_is_compared_with(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synaptoroute.router import promotion

    await fork(node, "good")
    await worsen(node)
    measured, runs = promotion.answers_of, 0

    async def answers_of(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        found = await measured(*arguments)
        if runs == 1:
            await put_alias(node, {"set": "good"})
        return found

    monkeypatch.setattr(promotion, "answers_of", answers_of)
    answer = await put_alias(node, {"set": "default", "gate": {"max_regressions": 0}})

    assert (409, "gate_failed") == (answer.status_code, answer.json()["code"]), answer.text


async def test_repeated_promotion_has_one_effect(node: HttpNode) -> None:
    await fork(node, "v1")
    await put_alias(node, {"set": "v1"})
    key = {"Idempotency-Key": "promote-1"}
    body = {"set": "default", "gate": {"min_accuracy": 1.0}}
    first = await put_alias(node, body, **key)
    second = await put_alias(node, body, **key)
    other = await put_alias(node, {"set": "v1", "gate": {"min_accuracy": 1.0}}, **key)

    assert (200, 200) == (first.status_code, second.status_code), second.text
    assert first.json()["version"] == second.json()["version"]
    assert (422, "idempotency_conflict") == (other.status_code, other.json()["code"])


async def test_promotion_is_conditional_on_the_alias(node: HttpNode) -> None:
    await fork(node, "v1")
    first = await put_alias(node, {"set": "v1"})
    stale = {"If-Match": '"1.1"'}
    current = {"If-Match": first.headers["ETag"]}
    gate = {"min_accuracy": 1.0}
    plain = await put_alias(node, {"set": "default"}, **stale)
    gated = await put_alias(node, {"set": "default", "gate": gate}, **stale)
    moved = await put_alias(node, {"set": "default", "gate": gate}, **current)

    assert (412, 412, 200) == (plain.status_code, gated.status_code, moved.status_code)


async def test_rollback_restores_the_state_before(node: HttpNode) -> None:
    await fork(node, "v1")
    await fork(node, "v2")
    first = await put_alias(node, {"set": "v1", "shadow": "v2", "shadow_share": 0.5})
    await put_alias(node, {"set": "v2"})
    await put_alias(node, {"set": "default"})
    back = await node.http.post("/v1/aliases/support/rollback")
    one = await node.router.changes.promotions.alias("support")
    version = {"version": first.json()["version"]}
    further = await node.http.post("/v1/aliases/support/rollback", json=version)
    two = await node.router.changes.promotions.alias("support")

    assert (200, 200) == (back.status_code, further.status_code), further.text
    assert "v2" == one.target
    assert ("v1", "v2", 0.5) == (two.target, two.shadow, two.shadow_share)


async def test_set_that_was_created_again_is_not_rolled_back_to(node: HttpNode) -> None:
    """It may be empty; only its name is that of the set that answered."""
    await fork(node, "v1")
    await fork(node, "v2")
    await put_alias(node, {"set": "v1"})
    await put_alias(node, {"set": "default", "shadow": "v2", "shadow_share": 1.0})
    await put_alias(node, {"set": "default"})
    for name in ("v1", "v2"):
        assert 200 == (await node.http.delete(f"/v1/sets/{name}")).status_code
        assert 201 == (await node.http.put(f"/v1/sets/{name}")).status_code
    history = (await node.http.get("/v1/aliases/support")).json()["history"]
    path = "/v1/aliases/support/rollback"
    refused = await node.http.post(path, json={"version": history[2]["version"]})
    without = await node.http.post(path)
    shown = (await node.http.get("/v1/aliases/support")).json()

    assert (409, "nothing_to_roll_back") == (refused.status_code, refused.json()["code"])
    assert 200 == without.status_code, without.text
    assert ("default", None) == (shown["set"], shown["shadow"])


async def test_alias_without_an_earlier_state_is_not_rolled_back(node: HttpNode) -> None:
    absent = await node.http.post("/v1/aliases/support/rollback")
    await put_alias(node, {"set": "default"})
    first = await node.http.post("/v1/aliases/support/rollback")
    unknown = await node.http.post("/v1/aliases/support/rollback", json={"version": "1.1"})

    assert (404, "alias_not_found") == (absent.status_code, absent.json()["code"])
    for answer in (first, unknown):
        assert (409, "nothing_to_roll_back") == (answer.status_code, answer.json()["code"])


async def test_alias_answers_from_its_new_set_after_a_promotion(node: HttpNode) -> None:
    """With the version of the promotion, the old set never answers."""
    await fork(node, "v1")
    await put_alias(node, {"set": "v1"})
    await worsen(node)
    texts = [each["text"] for each in TESTS]

    async def ask() -> list[str | None]:
        from synaptoroute.router.set_answers import answers_of

        engine = node.router._engine()
        found = await answers_of(engine, node.router._config, "support", texts)
        return [each.route for each in found]

    before = await ask()
    await put_alias(node, {"set": "default"})
    after = await ask()

    assert ["refund", "parcel", "parcel"] == before
    assert ["refund", "parcel", "refund"] == after


async def test_history_shows_promotions_and_tests(node: HttpNode) -> None:
    await fork(node, "v1")
    await put_alias(node, {"set": "v1"})
    await put_alias(node, {"set": "default"})
    await node.http.patch("/v1/tests", json={"tests": [{"text": "hi", "route": None}]})
    entries = (await node.http.get("/v1/history", params={"limit": 4})).json()["entries"]
    tests, moved, created, forked = entries

    assert ["put_tests", "put_alias", "put_alias", "fork_set"] == [
        each["action"] for each in entries
    ]
    assert ({}, {"hi": None}) == (
        tests["changes"][0]["before"],
        tests["changes"][0]["after"],
    )
    assert ("support", "v1", "default") == (
        moved["alias"],
        moved["changes"][0]["before"]["target"],
        moved["changes"][0]["after"]["target"],
    )
    assert created["changes"][0]["before"] is None
    assert "v1" == forked["route_set"]


async def test_concurrent_promotions_leave_one_complete_state(node: HttpNode) -> None:
    await fork(node, "v1")
    await fork(node, "v2")
    bodies = [{"set": "v1", "shadow": "v2", "shadow_share": 1.0}, {"set": "v2"}]
    answers = await asyncio.gather(*(put_alias(node, bodies[i % 2]) for i in range(10)))
    record = await node.router.changes.promotions.alias("support")

    assert {200, 201} >= {each.status_code for each in answers}
    assert (record.target, record.shadow) in {("v1", "v2"), ("v2", "")}


# --- shadows ---


async def test_shadow_report_counts_pairs_and_is_reset(node: HttpNode) -> None:
    await fork(node, "v1")
    await worsen(node)
    none = await node.http.get("/v1/aliases/support/shadow")
    await put_alias(node, {"set": "v1"})
    without = (await node.http.get("/v1/aliases/support/shadow")).json()
    await put_alias(node, {"set": "v1", "shadow": "default", "shadow_share": 1.0})
    for each in TESTS:
        answer = await node.http.post("/v1/sets/support/query", json={"text": each["text"]})
        assert 200 == answer.status_code, answer.text
    for _ in range(100):
        report = (await node.http.get("/v1/aliases/support/shadow")).json()
        if report["compared"] + report["skipped"] >= len(TESTS):
            break
        await asyncio.sleep(0.02)
    reset = (await node.http.delete("/v1/aliases/support/shadow")).json()

    assert (404, "alias_not_found") == (none.status_code, none.json()["code"])
    assert (None, 0) == (without["shadow"], without["compared"])
    assert ("v1", "default", 3, 2) == tuple(
        report[name] for name in ("set", "shadow", "compared", "agreed")
    )
    assert [{"answered": "parcel", "shadowed": "refund", "count": 1}] == report["pairs"]
    assert 0.666667 == report["agreement"]
    assert (0, None) == (reset["compared"], reset["agreement"])
