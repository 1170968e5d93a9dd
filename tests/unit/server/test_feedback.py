"""Feedback over HTTP: queue, redaction, resolution in one entry, scopes, expiry."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from http_node import HttpNode, http_node
from synaptoroute.core.change import RouteRecord
from synaptoroute.router.feedback import DAY_MS
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = pytest.mark.unit

TEXT = "send my headphones back"


async def switch_on(node: HttpNode, **settings: Any) -> None:
    """Switch the review queue on."""
    now = (await node.http.get("/v1/settings")).json()
    answer = await node.http.put("/v1/settings", json={**now, "feedback": settings})
    assert 200 == answer.status_code, answer.text


def stored(folder: Path) -> bytes:
    """Every byte of the files of a node."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def say(node: HttpNode, status: int = 200, **body: Any) -> dict[str, Any]:
    """Send feedback."""
    answer = await node.http.post("/v1/feedback", json=body)
    assert status == answer.status_code, answer.text
    return dict(answer.json())


async def record_of(node: HttpNode, name: str) -> RouteRecord:
    """The route as the tensor holds it."""
    found = node.router._engine().read(lambda tensor: tensor.routes[name])
    return await asyncio.wrap_future(found)


async def queue(node: HttpNode, **query: Any) -> dict[str, Any]:
    answer = await node.http.get("/v1/feedback", params=query)
    assert 200 == answer.status_code, answer.text
    return dict(answer.json())


async def test_queue_is_off_by_default(tmp_path: Path) -> None:
    """Nothing is named, nothing is kept, and the error says how to switch it on."""
    async with http_node(tmp_path) as node:
        await node.fill()
        refused = await say(node, 409, text=TEXT, route="refund")
        answer = await node.http.post("/v1/query", json={"text": TEXT})
        page = await queue(node)

    assert "feedback_off" == refused["code"]
    assert "decision_id" not in answer.json()
    assert (False, []) == (page["is_on"], page["items"])


async def test_feedback_names_an_answer_or_a_text(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node)
        answer = (await node.http.post("/v1/query", json={"text": TEXT})).json()
        cached = (await node.http.post("/v1/query", json={"text": TEXT})).json()
        by_id = await say(node, decision_id=answer["decision_id"], route="refund")
        by_text = await say(node, text=TEXT, route="refund", was=answer["route"])
        page = await queue(node)

    assert answer["decision_id"] == cached["decision_id"]
    assert (by_id["id"], 1, 2) == (by_text["id"], by_id["times"], by_text["times"])
    (item,) = page["items"]
    assert (TEXT, "refund", answer["route"], 2) == (
        item["text"],
        item["route"],
        item["was"],
        item["times"],
    )


async def test_malformed_feedback_is_refused(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node, items_max=1)
        answer = (await node.http.post("/v1/query", json={"text": TEXT})).json()
        other = "refund" if answer["route"] == "parcel" else "parcel"
        found = {
            what: (await say(node, status, **body))["code"]
            for what, status, body in (
                ("nothing", 422, {"route": None}),
                ("both", 422, {"route": None, "text": "x", "decision_id": "y"}),
                ("no route", 422, {"text": "x"}),
                ("unknown field", 422, {"text": "x", "route": None, "rating": 5}),
                ("route", 404, {"text": "x", "route": "nowhere"}),
                ("decision", 404, {"decision_id": "0" * 24, "route": None}),
                ("other was", 422, {"decision_id": answer["decision_id"], "route": "refund",
                                    "was": other}),
                ("long", 422, {"text": "x" * 8_193, "route": None}),
                ("nul", 422, {"text": "a\x00b", "route": None}),
            )
        }  # fmt: skip
        await say(node, text="x", route=None)
        full = await say(node, 409, text="y", route=None)

    assert ("decision_unknown", "route_not_found") == (found["decision"], found["route"])
    assert "feedback_full" == full["code"]
    assert {"invalid_query"} == set(found.values()) - {"decision_unknown", "route_not_found"}


async def test_resolved_item_becomes_an_utterance_in_one_entry(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node)
        one = await say(node, text=TEXT, route="refund")
        two = await say(node, text="where is the postman", route=None)
        items = [
            {"id": one["id"], "as": "utterance"},
            {"id": two["id"], "as": "utterance", "route": "post", "create": True},
        ]
        answer = await node.http.post("/v1/feedback/resolve", json={"items": items})
        again = await node.http.post(f"/v1/feedback/{one['id']}/resolve", json={"as": "dismiss"})
        routes = {
            each["name"]: each for each in (await node.http.get("/v1/routes")).json()["routes"]
        }
        match = (await node.http.post("/v1/query", json={"text": TEXT})).json()
        page = await queue(node)

    assert (200, 2) == (answer.status_code, answer.json()["count"])
    version = answer.headers["SR-Version"]
    assert {version} == {routes[name]["revision"] for name in ("refund", "post")}
    assert TEXT in routes["refund"]["utterances"]
    assert (404, "feedback_not_found") == (again.status_code, again.json()["code"])
    assert ("refund", []) == (match["route"], page["items"])


async def test_rejected_resolution_changes_nothing(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node)
        one, two = [await say(node, text=text, route="refund") for text in ("a b", "c d")]
        before = await node.digest()
        items = [
            {"id": one["id"], "as": "utterance"},
            {"id": two["id"], "as": "utterance", "route": "nowhere"},
        ]
        missing = await node.http.post("/v1/feedback/resolve", json={"items": items})
        gone = await node.http.post(
            "/v1/feedback/resolve", json={"items": [items[0], {"id": "0" * 16, "as": "dismiss"}]}
        )

        assert ("route_not_found", "feedback_not_found") == (
            missing.json()["code"],
            gone.json()["code"],
        )
        assert before == await node.digest()


async def test_texts_are_redacted_before_they_are_stored(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node, redaction=["email", "long_number", r"(?i)\bc-\d+\b"])
        await say(node, text="I am jo@example.org, card 4111 1111 1111 1111 c-17", route="refund")
        await switch_on(node, hash_only=True)
        hashed = await say(node, text="only a hash", route="refund")
        page = await queue(node)
        refused = await node.http.post(
            f"/v1/feedback/{hashed['id']}/resolve", json={"as": "utterance"}
        )
        learned = await node.http.post(
            f"/v1/feedback/{hashed['id']}/resolve", json={"as": "utterance", "text": "written anew"}
        )
        now = (await node.http.get("/v1/settings")).json()
        unknown = await node.http.put(
            "/v1/settings", json={**now, "feedback": {"redaction": ["shoe_size"]}}
        )
        malformed = await node.http.put(
            "/v1/settings", json={**now, "feedback": {"redaction": ["(a"]}}
        )

    assert {None, "I am [email], card [long_number]"} == {each["text"] for each in page["items"]}
    assert (422, 200) == (refused.status_code, learned.status_code)
    assert (422, True) == (unknown.status_code, "email" in unknown.json()["detail"])
    assert 422 == malformed.status_code
    assert b"4111 1111" not in stored(tmp_path)
    assert b" c-17" not in stored(tmp_path)
    assert b"only a hash" not in stored(tmp_path)


async def test_pages_are_newest_first_and_complete(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node)
        for number in range(7):
            await say(node, text=f"text {number}", route=["refund", "parcel"][number % 2])
        found, after = [], ""
        while True:
            page = await queue(node, limit=3, after=after)
            found += [each["text"] for each in page["items"]]
            after = page["next_after"]
            if after is None:
                break
        parcels = await queue(node, route="parcel")
        malformed = await node.http.get("/v1/feedback", params={"after": "x"})

    assert sorted(f"text {number}" for number in range(7)) == sorted(found)
    assert (3, 3) == (parcels["total"], len(parcels["items"]))
    assert 422 == malformed.status_code


async def test_old_items_are_deleted(tmp_path: Path) -> None:
    """Their texts leave the database as well, and a second node's proposal changes nothing."""
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node, retention_days=1.5)
        await say(node, text="an old text of somebody", route="refund")
        now_ms = time.time_ns() // 1_000_000
        assert 0 == await node.router.feedback.expire(now_ms + DAY_MS)
        assert 1 == await node.router.feedback.expire(now_ms + 2 * DAY_MS)
        assert 0 == await node.router.feedback.expire(now_ms + 2 * DAY_MS)
        assert [] == (await queue(node))["items"]
        assert b"an old text of somebody" in stored(tmp_path)
        await node.router.feedback.purge(now_ms + 2 * DAY_MS)
        digest = await node.digest()
    # The write-ahead log is gone with the process.
    assert b"an old text of somebody" not in stored(tmp_path)
    async with http_node(tmp_path) as node:
        assert digest == await node.digest()


async def test_revision_changes_routes_at_once(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        before = (await node.http.get("/v1/routes/parcel")).json()["revision"]
        body = {
            "routes": [
                {"name": "parcel", "utterances": ["lost parcel"], "revision": before,
                 "threshold": 0.25},
                {"name": "new one", "utterances": ["a", "b"], "create": True},
            ]
        }  # fmt: skip
        done = await node.http.post("/v1/revisions", json=body)
        again = await node.http.post("/v1/revisions", json=body)
        empty = await node.http.post("/v1/revisions", json={})
        parcel = (await node.http.get("/v1/routes/parcel")).json()

    assert (200, 3) == (done.status_code, done.json()["count"])
    assert (412, 422) == (again.status_code, empty.status_code)
    assert (0.25, True) == (parcel["threshold"], "lost parcel" in parcel["utterances"])


async def test_reading_the_queue_needs_more_than_giving_feedback(tmp_path: Path) -> None:
    keys = {}
    lines = []
    for scope in ("read", "write", "admin"):
        key = make_key()
        keys[scope] = {"X-API-Key": key}
        lines.append(key_line(key, [scope], scope))
    (tmp_path / "keys").write_text("\n".join(lines))
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        found = {
            scope: [
                (await node.http.post("/v1/feedback", json={}, headers=headers)).status_code,
                (await node.http.get("/v1/feedback", headers=headers)).status_code,
                (
                    await node.http.post(
                        f"/v1/feedback/{'0' * 16}/resolve", json={"as": "dismiss"}, headers=headers
                    )
                ).status_code,
                (await node.http.post("/v1/revisions", json={}, headers=headers)).status_code,
            ]
            for scope, headers in keys.items()
        }

    assert [403, 403, 403, 403] == found["read"]
    assert [422, 403, 403, 422] == found["write"]
    assert [422, 200, 404, 422] == found["admin"]


async def test_switching_off_empties_the_queue(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node)
        await say(node, text=TEXT, route="refund")
        now = (await node.http.get("/v1/settings")).json()
        now.pop("feedback")
        await node.http.put("/v1/settings", json=now)
        await node.router.feedback.expire()
        page = await queue(node)
        settings = (await node.http.get("/v1/settings")).json()

    assert (False, []) == (page["is_on"], page["items"])
    assert "feedback" not in settings


async def test_queue_survives_a_restart(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node)
        await say(node, text=TEXT, route=None, was="refund")
        page, digest = await queue(node), await node.digest()
    async with http_node(tmp_path) as node:
        assert (page["items"], digest) == ((await queue(node))["items"], await node.digest())


async def test_preview_shows_the_effect_and_changes_nothing(tmp_path: Path) -> None:
    """Texts of the request and of the queue, and the routes' own utterances."""
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node)
        item = await say(node, text=TEXT, route="refund")
        before = await node.digest()
        body = {
            "routes": [
                {"name": "refund", "utterances": [TEXT]},
                {"name": "moon", "utterances": ["fly me to the moon"], "create": True},
            ],
            "resolved": [item["id"]],
            "texts": [{"text": "fly me to the moon", "route": "moon"}, {"text": "track my order"}],
        }
        answer = await node.http.post("/v1/revisions/preview", json=body)
        again = await node.http.post("/v1/revisions/preview", json=body)
        unknown = {"routes": [{"name": "nowhere", "utterances": ["x"]}]}
        missing = await node.http.post("/v1/revisions/preview", json=unknown)
        assert before == await node.digest()
        applied = await node.http.post("/v1/revisions", json=body)
        moon = (await node.http.post("/v1/query", json={"text": "fly me to the moon"})).json()

    assert 200 == answer.status_code, answer.text
    found = answer.json()
    assert found == again.json()
    by_text = {each["text"]: each for each in found["texts"]}
    assert ("feedback", "refund") == (by_text[TEXT]["kind"], by_text[TEXT]["after"]["route"])
    assert ("moon", True) == (
        by_text["fly me to the moon"]["after"]["route"],
        by_text["fly me to the moon"]["is_changed"],
    )
    assert not by_text["track my order"]["is_labelled"]
    assert (2, 2) == (found["labelled"], found["labelled_right_after"])
    assert 4 == found["utterances"]
    assert 404 == missing.status_code
    assert 422 == applied.status_code  # a revision takes no texts
    assert moon["route"] != "moon"


async def test_clusters_are_named_by_their_nearest_route(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        texts = [
            {"text": "where is my parcel now", "times": 3},
            {"text": "where is my parcel today"},
            {"text": "zebra"},
        ]
        answer = await node.http.post("/v1/clusters", json={"texts": texts})
        again = await node.http.post("/v1/clusters", json={"texts": texts[::-1]})
        empty = await node.http.post("/v1/clusters", json={"texts": []})

    first, second = answer.json()["clusters"]
    assert answer.json() == again.json()
    assert (4, "parcel") == (first["size"], first["nearest"]["route"])
    assert {3, 1} == {each["times"] for each in first["texts"]}
    assert (1, [{"text": "zebra", "times": 1}]) == (second["size"], second["texts"])
    assert 422 == empty.status_code


async def test_dismissed_queries_are_forgotten(tmp_path: Path) -> None:
    async with http_node(tmp_path, unmatched_kept=10) as node:
        await node.fill()
        for text in ("zebra", "yak", "zebra"):
            await node.http.post("/v1/query", json={"text": text})
        answer = await node.http.post("/-/unmatched/dismiss", json={"texts": ["zebra"]})
        left = (await node.http.get("/-/unmatched")).json()["queries"]

    assert 2 == answer.json()["dismissed"]
    assert ["yak"] == [each["text"] for each in left]


async def test_item_becomes_a_negative_of_the_wrong_route(tmp_path: Path) -> None:
    """One item teaches two routes: what it is, and what it is not."""
    async with http_node(tmp_path) as node:
        await node.fill()
        await switch_on(node)
        item = await say(node, text="where is my money", route="refund", was="parcel")
        items = [{"id": item["id"], "as": "utterance"}, {"id": item["id"], "as": "negative"}]
        done = await node.http.post("/v1/feedback/resolve", json={"items": items})
        refund, parcel = await record_of(node, "refund"), await record_of(node, "parcel")
        both = {"name": "refund", "negatives": ["where is my money"]}
        refused = await node.http.post("/v1/revisions", json={"routes": [both]})
        previewed = await node.http.post("/v1/revisions/preview", json={"routes": [both]})
        limits = {"name": "refund", "confidence_min": 0.75, "negatives": ["not this", "nor this"]}
        limited = await node.http.post("/v1/revisions", json={"routes": [limits]})
        again = await node.http.post("/v1/revisions", json={"routes": [limits]})
        after = await record_of(node, "refund")
        history = (await node.http.get("/v1/history", params={"route": "refund"})).json()

    assert (200, 2) == (done.status_code, done.json()["count"])
    assert "where is my money" in refund.utterances
    assert ("where is my money",) == parcel.negatives
    assert (422, 422) == (refused.status_code, previewed.status_code)
    assert (200, "unchanged") == (limited.status_code, again.json()["status"])
    assert (0.75, {"not this", "nor this"}) == (after.confidence_min, set(after.negatives))
    assert 4 == sum(each["action"] == "revise_routes" for each in history["entries"])


async def test_own_utterances_are_judged_without_themselves(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        empty = (await node.http.get("/v1/evaluation")).json()
        await node.fill()
        alone = {"utterances": ["the only one of its route"]}
        await node.http.put("/v1/routes/alone", json=alone)
        digest = await node.digest()
        found = (await node.http.get("/v1/evaluation?answers=true&limit=5")).json()
        again = (await node.http.get("/v1/evaluation?answers=true&limit=5")).json()
        assert digest == await node.digest()

    assert (0, []) == (empty["texts"], empty["curve"])
    assert found == again
    assert (4, 21) == (found["texts"], len(found["curve"]))
    for each in found["utterances"]:
        nearest = [candidate["utterance"] for candidate in each["match"]["candidates"]]
        assert each["text"] not in nearest
        assert "alone" != each["route"]
    assert 4 == sum(each["count"] for each in found["reliability"])
