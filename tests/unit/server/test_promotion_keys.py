"""What a key for one route set may test, compare, promote, revert and erase."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from http_node import HttpNode, http_node
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = pytest.mark.unit

SECRET = "the plan of the other tenant"
RIGHTS = {
    "all": ["admin"],
    "ours": ["write@ours*", "read@ours*"],
    "reader": ["read@ours"],
    "theirs": ["admin@theirs*"],
    "outsider": ["write@ours"],
}


@dataclass
class Tenants:
    """A node with the sets of two tenants, and a client for each key."""

    node: HttpNode
    keys: dict[str, str]

    async def ask(self, key: str, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"X-API-Key": self.keys[key]}
        return await self.node.http.request(method, path, json=body, headers=headers)


@pytest.fixture
async def tenants(tmp_path: Path) -> AsyncIterator[Tenants]:
    keys = {name: make_key() for name in RIGHTS}
    lines = [key_line(key, RIGHTS[name], name) for name, key in keys.items()]
    (tmp_path / "keys").write_text("\n".join(lines))
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        tenants = Tenants(node, keys)
        for name, text in (("ours@1", "our text"), ("ours@2", "our text"), ("theirs", SECRET)):
            base = f"/v1/sets/{name}"
            assert 201 == (await tenants.ask("all", "PUT", base)).status_code
            route = {"utterances": [text]}
            put = f"{base}/routes/a?ack_timeout=30"
            assert 201 == (await tenants.ask("all", "PUT", put, route)).status_code
            tests = {"tests": [{"text": f"test of {text}", "route": "a"}]}
            assert 200 == (await tenants.ask("all", "PUT", f"{base}/tests", tests)).status_code
        done = await tenants.ask("all", "PUT", "/v1/aliases/ours", {"set": "ours@1"})
        assert 201 == done.status_code, done.text
        yield tenants


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


NOT_FOUND = (404, "set_not_found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/sets/theirs/tests", None),
        ("PUT", "/v1/sets/theirs/tests", {"tests": []}),
        ("PATCH", "/v1/sets/theirs/tests", {"tests": []}),
        ("DELETE", "/v1/sets/theirs/tests", None),
        ("POST", "/v1/sets/theirs/evaluation", {}),
        ("POST", "/v1/diff", {"from": "ours@1", "to": "theirs"}),
        ("POST", "/v1/diff", {"from": "theirs", "to": "ours@1"}),
        ("PUT", "/v1/aliases/ours", {"set": "theirs"}),
        ("PUT", "/v1/aliases/ours", {"set": "ours@1", "shadow": "theirs", "shadow_share": 1}),
        ("PUT", "/v1/aliases/ours", {"set": "ours@1", "canary": "theirs", "canary_share": 1}),
        ("PUT", "/v1/aliases/ours", {"set": "theirs", "gate": {"min_accuracy": 0}}),
        ("GET", "/v1/sets/theirs/history", None),
    ],
)
async def test_set_of_another_tenant_is_like_one_that_does_not_exist(
    tenants: Tenants, method: str, path: str, body: Any
) -> None:
    found = await tenants.ask("ours", method, path, body)
    twin = path.replace("theirs", "absent")
    other = None if body is None else {
        name: "absent" if value == "theirs" else value for name, value in body.items()
    }  # fmt: skip
    absent = await tenants.ask("ours", method, twin, other)

    assert NOT_FOUND == refusal(found), found.text
    assert NOT_FOUND == refusal(absent), absent.text
    assert found.json()["detail"].replace("theirs", "absent") == absent.json()["detail"]


async def test_reader_of_an_alias_does_not_read_the_tests_behind_it(tenants: Tenants) -> None:
    """It may query what the alias points to, and it may compare answers to texts of its own."""
    answers = [
        await tenants.ask("reader", "GET", "/v1/sets/ours/tests"),
        await tenants.ask("reader", "POST", "/v1/sets/ours/evaluation", {}),
        await tenants.ask("reader", "POST", "/v1/diff", {"from": "ours", "to": "ours"}),
    ]
    texts = {"from": "ours", "to": "ours", "texts": [{"text": "our text"}]}
    compared = await tenants.ask("reader", "POST", "/v1/diff", texts)

    assert [NOT_FOUND] * 3 == [refusal(each) for each in answers]
    assert 200 == compared.status_code, compared.text


async def test_evidence_names_tests_to_those_who_may_read_them(tenants: Tenants) -> None:
    await tenants.ask("all", "DELETE", "/v1/sets/ours@2/routes/a")
    body = {"set": "ours@2", "gate": {"min_tests": 1}}
    moved = await tenants.ask("ours", "PUT", "/v1/aliases/ours", body)
    full = (await tenants.ask("ours", "GET", "/v1/aliases/ours")).json()["history"][0]
    less = (await tenants.ask("reader", "GET", "/v1/aliases/ours")).json()["history"][0]

    assert 200 == moved.status_code, moved.text
    assert ["test of our text"] == [each["text"] for each in full["evidence"]["failures"]]
    assert [None] == [each["text"] for each in less["evidence"]["failures"]]


async def test_routes_of_a_shadow_are_shown_to_its_readers_alone(tenants: Tenants) -> None:
    await tenants.ask("all", "PUT", "/v1/sets/theirs/routes/hidden", {"utterances": ["our text"]})
    await tenants.ask("all", "DELETE", "/v1/sets/theirs/routes/a")
    body = {"set": "ours@1", "shadow": "theirs", "shadow_share": 1}
    assert 200 == (await tenants.ask("all", "PUT", "/v1/aliases/ours", body)).status_code
    await tenants.ask("reader", "POST", "/v1/sets/ours/query", {"text": "our text"})
    for _ in range(200):
        full = (await tenants.ask("all", "GET", "/v1/aliases/ours/shadow")).json()
        if full["compared"]:
            break
        await asyncio.sleep(0.02)
    less = (await tenants.ask("reader", "GET", "/v1/aliases/ours/shadow")).json()

    assert [{"answered": "a", "shadowed": "hidden", "count": 1}] == full["pairs"]
    assert (1, 1, [], 1) == tuple(less[k] for k in ("compared", "disagreed", "pairs", "other"))


async def test_key_for_an_alias_alone_does_not_let_other_sets_answer(tenants: Tenants) -> None:
    """Neither by a promotion nor by a roll back."""
    await tenants.ask("all", "PUT", "/v1/aliases/ours", {"set": "ours@2"})
    promoted = await tenants.ask("outsider", "PUT", "/v1/aliases/ours", {"set": "ours@1"})
    rolled = await tenants.ask("outsider", "POST", "/v1/aliases/ours/rollback")
    by_owner = await tenants.ask("ours", "POST", "/v1/aliases/ours/rollback")

    assert [NOT_FOUND, NOT_FOUND] == [refusal(promoted), refusal(rolled)]
    assert 200 == by_owner.status_code, by_owner.text


async def test_change_of_another_set_is_not_reverted(tenants: Tenants) -> None:
    entries = (await tenants.ask("all", "GET", "/v1/history?set=theirs")).json()["entries"]
    version = next(each["version"] for each in entries if each["action"] == "put_route")
    answers = [
        await tenants.ask("ours", "POST", f"/v1/sets/ours@1/history/{version}/revert"),
        await tenants.ask("all", "POST", f"/v1/sets/ours@1/history/{version}/revert"),
    ]
    own = (await tenants.ask("ours", "GET", "/v1/sets/ours@1/history")).json()["entries"]
    put = next(each["version"] for each in own if each["action"] == "put_route")
    reverted = await tenants.ask("ours", "POST", f"/v1/sets/ours@1/history/{put}/revert")

    assert [(404, "change_not_found")] * 2 == [refusal(each) for each in answers]
    assert 200 == reverted.status_code, reverted.text
    assert {"ours@1", "ours"} == {each["route_set"] or each["alias"] for each in own}
    assert SECRET not in str(own)


async def test_erasure_needs_the_whole_cluster(tenants: Tenants) -> None:
    for key in ("ours", "theirs"):
        for method, body in (("POST", {"texts": [SECRET]}), ("GET", None)):
            answer = await tenants.ask(key, method, "/v1/erase", body)
            assert (403, "forbidden") == refusal(answer), answer.text
    allowed = await tenants.ask("all", "POST", "/v1/erase", {"texts": [SECRET]})

    assert 200 == allowed.status_code
