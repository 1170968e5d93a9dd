"""Route sets over HTTP: paths, aliases, and keys to which other sets do not exist."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from http_node import HttpNode, http_node, logged, on_socket
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = pytest.mark.unit

SCOPES = {
    "root": ["admin"],
    "a": ["read@a", "write@a", "write@a-*", "read@a-*", "read@live"],
    "b": ["admin@b"],
    "reader": ["read@a"],
    "plain": ["read", "write"],
}
MONEY = {"utterances": ["I want my money back", "refund my order please"]}
PARCEL = {"utterances": ["where is my parcel", "track my order"]}
TEXT = "I want my money back"


@asynccontextmanager
async def tenants(folder: Path, **settings: Any) -> AsyncIterator[tuple[HttpNode, dict[str, Any]]]:
    """A node with the sets ``a`` and ``b`` of two tenants, and a client for each key."""
    keys = {name: make_key() for name in SCOPES}
    lines = [key_line(key, SCOPES[name], name) for name, key in keys.items()]
    (folder / "keys").write_text("\n".join(lines))
    async with http_node(folder, api_keys_file=folder / "keys", **settings) as node:
        transport = httpx.ASGITransport(node.app)
        clients = {
            name: httpx.AsyncClient(
                transport=transport, base_url="http://node", headers={"X-API-Key": key}
            )
            for name, key in keys.items()
        }
        for name, route in (("a", MONEY), ("b", PARCEL)):
            made = await clients["root"].put(f"/v1/sets/{name}")
            assert 201 == made.status_code, made.text
            put = await clients["root"].put(f"/v1/sets/{name}/routes/r-{name}", json=route)
            assert 201 == put.status_code, put.text
        yield node, clients
        for client in clients.values():
            await client.aclose()


async def test_a_set_answers_from_its_own_routes(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.fill()
        assert 201 == (await node.http.put("/v1/sets/support")).status_code
        empty = await node.http.post("/v1/sets/support/query", json={"text": TEXT})
        await node.http.put("/v1/sets/support/routes/refund", json=PARCEL)
        found = await node.http.post("/v1/sets/support/query", json={"text": TEXT})
        parcel = await node.http.post("/v1/sets/support/query", json={"text": "where is my parcel"})
        default = await node.http.post("/v1/query", json={"text": "where is my parcel"})
        as_default = await node.http.post(
            "/v1/sets/default/query", json={"text": "where is my parcel"}
        )
        listed = (await node.http.get("/v1/sets/support/routes")).json()["routes"]
        own = (await node.http.get("/v1/routes")).json()["routes"]

    assert "no_routes" == empty.json()["reason"]
    assert "exact" != found.json()["reason"]
    assert ("refund", "support") == (parcel.json()["route"], parcel.json()["route_set"])
    assert "support" == parcel.headers["sr-route-set"]
    assert "parcel" == default.json()["route"] == as_default.json()["route"]
    assert "route_set" not in default.json()
    assert "sr-route-set" not in default.headers
    assert ["refund"] == [each["name"] for each in listed]
    assert ["parcel", "refund"] == [each["name"] for each in own]


async def test_the_query_socket_answers_for_a_set(tmp_path: Path) -> None:
    """Responses of one set are not those of another one with the same body."""
    async with http_node(tmp_path) as node, on_socket(node) as http:
        for name, route in (("a", MONEY), ("b", PARCEL)):
            await http.put(f"/v1/sets/{name}")
            await http.put(f"/v1/sets/{name}/routes/r-{name}", json=route)
        body = {"text": TEXT}
        seen = [
            [(await http.post(f"{path}/query", json=body)).json().get("route") for _ in range(3)]
            for path in ("/v1/sets/a", "/v1/sets/b", "/v1", "/v1/sets/a")
        ]
        missing = await http.post("/v1/sets/c/query", json=body)

    assert [["r-a"] * 3, [None] * 3, [None] * 3, ["r-a"] * 3] == seen
    assert (404, "set_not_found") == (missing.status_code, missing.json()["code"])


async def test_every_operation_of_a_set_works_there(tmp_path: Path) -> None:
    """Import, export, settings, history, operations and links stay inside the set."""
    async with http_node(tmp_path) as node:
        http = node.http
        await http.put("/v1/sets/s 1@x")
        base = "/v1/sets/s%201%40x"
        lines = "".join(
            json.dumps({"name": f"r{each}", "utterances": [f"text number {each}"]}) + "\n"
            for each in range(3)
        )
        imported = await http.post(
            f"{base}/import", content=lines, headers={"Content-Type": "application/x-ndjson"}
        )
        page = await http.get(f"{base}/routes", params={"limit": 2})
        exported = await http.get(f"{base}/export")
        settings = (await http.get(f"{base}/settings")).json()
        changed = await http.put(f"{base}/settings", json={**settings, "topk": 7})
        again = (await http.get(f"{base}/settings")).json()
        default = (await http.get("/v1/settings")).json()
        history = (await http.get(f"{base}/history")).json()["entries"]
        operation = await http.get(f"{base}/ops/{changed.json()['op_id']}")
        shown = (await http.get(base)).json()
        for path in ("conflicts", "evaluation", "imports", "settings/calibration", "unmatched"):
            answer = await http.get(f"{base}/{path}")
            assert 200 == answer.status_code, answer.text
        nothing = (await http.get("/v1/export")).text

    assert 3 == imported.json()["routes"]
    assert f'<{base}/routes?after=r1&limit=2>; rel="next"' == page.headers["link"]
    assert 3 == len(exported.text.splitlines())
    assert (7, 3) == (again["topk"], default["topk"])
    assert {"s 1@x"} == {each["route_set"] for each in history}
    assert "applied" == operation.json()["status"]
    assert (3, 3) == (shown["routes"], shown["utterances"])
    assert "" == nothing


async def test_alias_is_for_queries_alone(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        http = node.http
        for name, route in (("a", MONEY), ("b", PARCEL)):
            await http.put(f"/v1/sets/{name}")
            await http.put(f"/v1/sets/{name}/routes/r-{name}", json=route)
        made = await http.put("/v1/aliases/live", json={"set": "a"})
        first = await http.post("/v1/sets/live/query", json={"text": TEXT})
        stale = await http.put("/v1/aliases/live", json={"set": "b"}, headers={"If-Match": '"1.1"'})
        moved = await http.put(
            "/v1/aliases/live", json={"set": "b"}, headers={"If-Match": made.headers["etag"]}
        )
        second = await http.post("/v1/sets/live/query", json={"text": TEXT})
        reads = await http.get("/v1/sets/live/routes")
        write = await http.put("/v1/sets/live/routes/x", json=MONEY)
        in_use = await http.delete("/v1/sets/b")
        taken = await http.put("/v1/sets/live")
        alias = (await http.get("/v1/aliases/live")).json()
        gone = await http.delete("/v1/aliases/live")
        after = await http.post("/v1/sets/live/query", json={"text": TEXT})
        removed = await http.delete("/v1/sets/b")

    assert 201 == made.status_code
    assert ("r-a", "a") == (first.json()["route"], first.json()["route_set"])
    assert (412, 200) == (stale.status_code, moved.status_code)
    assert (None, "b") == (second.json()["route"], second.json()["route_set"])
    assert (404, 404) == (reads.status_code, write.status_code)
    assert "set_in_use" == in_use.json()["code"]
    assert "name_taken" == taken.json()["code"]
    assert ["b", "a"] == [each["set"] for each in alias["history"]]
    assert 200 == gone.status_code
    assert (404, "set_not_found") == (after.status_code, after.json()["code"])
    assert 200 == removed.status_code


async def test_hidden_set_is_one_that_does_not_exist(tmp_path: Path) -> None:
    """Every call about another tenant's set has the answer for a name that nobody uses."""
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/v1/sets/{}", None),
        ("PUT", "/v1/sets/{}", None),
        ("PATCH", "/v1/sets/{}", {"limits": {"routes_max": 1}}),
        ("DELETE", "/v1/sets/{}", None),
        ("POST", "/v1/sets/{}/fork", {"as": "a-2"}),
        ("POST", "/v1/sets/{}/query", {"text": TEXT}),
        ("POST", "/v1/sets/{}/query/batch", {"texts": [TEXT]}),
        ("POST", "/v1/sets/{}/decisions", {"input": TEXT, "questions": []}),
        ("POST", "/v1/sets/{}/systemone", {"state": TEXT}),
        ("GET", "/v1/sets/{}/routes", None),
        ("GET", "/v1/sets/{}/routes/r-b", None),
        ("PUT", "/v1/sets/{}/routes/x", MONEY),
        ("DELETE", "/v1/sets/{}/routes/r-b", None),
        ("GET", "/v1/sets/{}/export", None),
        ("GET", "/v1/sets/{}/history", None),
        ("GET", "/v1/sets/{}/settings", None),
        ("GET", "/v1/sets/{}/imports", None),
        ("GET", "/v1/sets/{}/ops/" + "0" * 32, None),
        ("GET", "/v1/sets/{}/tests", None),
        ("GET", "/v1/sets/{}/unmatched", None),
        ("GET", "/v1/aliases/{}", None),
        ("DELETE", "/v1/aliases/{}", None),
        ("PUT", "/v1/aliases/a-live", {"set": "{}"}),
        ("PUT", "/v1/aliases/{}", {"set": "a"}),
        ("POST", "/v1/diff", {"from": "a", "to": "{}", "texts": [{"text": TEXT}]}),
        ("POST", "/v1/decisions", {"model": "{}", "input": TEXT, "questions": [
            {"type": "choice", "name": "q", "choices": [{"value": "x"}, {"value": "y"}]}]}),
    ]  # fmt: skip
    async with tenants(tmp_path) as (_, clients):
        for method, path, body in calls:
            answers = []
            for name in ("b", "c"):
                document = json.loads(json.dumps(body).replace("{}", name)) if body else None
                answer = await clients["a"].request(method, path.format(name), json=document)
                text = answer.text.replace(f"'{name}'", "'?'")
                seen = json.loads(text)
                seen.pop("instance", None)
                headers = {
                    key: value
                    for key, value in answer.headers.items()
                    if key not in ("x-request-id", "date")
                }
                answers.append((answer.status_code, seen, headers))
            assert 404 == answers[0][0], (method, path, answers[0])
            assert answers[0] == answers[1], (method, path)


async def test_lists_and_histories_show_own_sets_alone(tmp_path: Path) -> None:
    async with tenants(tmp_path) as (_, clients):
        a, root = clients["a"], clients["root"]
        await root.put("/v1/aliases/live", json={"set": "b"})
        sets = (await a.get("/v1/sets")).json()["sets"]
        aliases = (await a.get("/v1/aliases")).json()["aliases"]
        others = (await clients["b"].get("/v1/aliases")).json()["aliases"]
        histories = [
            (await clients[name].get(f"/v1/sets/{name}/history")).json()["entries"]
            for name in ("a", "b")
        ]
        forked = await a.post("/v1/sets/a/fork", json={"as": "a-2"})
        fork = (await a.get("/v1/sets/a-2")).json()
        through = await a.post("/v1/sets/live/query", json={"text": "where is my parcel"})
        key = (await a.get("/v1/key")).json()
        refused = [
            (await a.get(path)).status_code
            for path in ("/v1/routes", "/v1/history", "/v1/cluster", "/-/state", "/v1/export")
        ]

    assert ["a"] == [each["name"] for each in sets]
    assert ["live"] == [each["name"] for each in aliases]
    assert [] == others
    assert [{"a"}, {"b"}] == [{each["route_set"] for each in own} for own in histories]
    assert 201 == forked.status_code
    assert "a" == fork["forked_from"]
    assert "r-b" == through.json()["route"]
    assert sorted(SCOPES["a"]) == key["grants"]
    assert [403] * 5 == refused


async def test_key_needs_its_scope_in_the_set(tmp_path: Path) -> None:
    async with tenants(tmp_path) as (_, clients):
        reader, b, plain = clients["reader"], clients["b"], clients["plain"]
        seen = {
            "read": await reader.get("/v1/sets/a/routes"),
            "write": await reader.put("/v1/sets/a/routes/x", json=MONEY),
            "fork": await reader.post("/v1/sets/a/fork", json={"as": "a"}),
            "settings": await b.put(
                "/v1/sets/b/settings", json=(await b.get("/v1/sets/b/settings")).json()
            ),
            "limits": await b.put("/v1/sets/b", json={"limits": {"routes_max": 100}}),
            "same": await b.put("/v1/sets/b"),
            "plain": await plain.get("/v1/sets/b/routes"),
            "create": await plain.put("/v1/sets/new"),
        }

    assert {
        "read": 200, "write": 403, "fork": 403, "settings": 200, "limits": 403, "same": 200,
        "plain": 200, "create": 403,
    } == {name: answer.status_code for name, answer in seen.items()}  # fmt: skip


async def test_idempotency_keys_of_two_sets_do_not_meet(tmp_path: Path) -> None:
    """Nothing tells a tenant that another one used its key: no conflict, no outcome."""
    identity = "7f9c24e5-2f31-4a8b-9c3a-9d1f5b0e6a11"
    headers = {"Idempotency-Key": identity}
    async with tenants(tmp_path) as (_, clients):
        a, b, root = clients["a"], clients["b"], clients["root"]
        first = await a.put("/v1/sets/a/routes/x", json=MONEY, headers=headers)
        other = await b.put("/v1/sets/b/routes/x", json=PARCEL, headers=headers)
        repeated = await a.put("/v1/sets/a/routes/x", json=MONEY, headers=headers)
        conflict = await a.put("/v1/sets/a/routes/x", json=PARCEL, headers=headers)
        default = await root.put("/v1/routes/x", json=MONEY, headers=headers)
        own = await a.get(f"/v1/sets/a/ops/{identity}")
        foreign = [
            await b.get(f"/v1/sets/b/ops/{first.json()['op_id']}"),
            await b.get(f"/v1/ops/{first.json()['op_id']}"),
        ]

    assert [201, 201, 201] == [each.status_code for each in (first, other, default)]
    assert first.json()["version"] == repeated.json()["version"]
    assert (422, "idempotency_conflict") == (conflict.status_code, conflict.json()["code"])
    assert first.json()["op_id"] != other.json()["op_id"]
    assert identity.replace("-", "") == default.json()["op_id"]
    assert first.json()["version"] == own.json()["version"]
    assert [404, 403] == [each.status_code for each in foreign]


async def test_imports_of_one_identity_in_two_sets(tmp_path: Path) -> None:
    line = '{"name":"i","utterances":["a text of the import"]}\n'
    kind = {"Content-Type": "application/x-ndjson"}
    async with tenants(tmp_path) as (_, clients):
        answers = [
            await clients[name].post(
                f"/v1/sets/{name}/import", params={"import_id": "one"}, content=line, headers=kind
            )
            for name in ("a", "b", "a")
        ]

    assert [200] * 3 == [each.status_code for each in answers]
    versions = [each.json()["version"] for each in answers]
    assert versions[0] == versions[2] != versions[1]


async def test_model_of_decisions_names_a_set(tmp_path: Path) -> None:
    question = {
        "type": "choice",
        "name": "q",
        "choices": [{"value": "r-a"}, {"value": "r-b"}],
    }
    body = {"input": TEXT, "questions": [question]}
    async with tenants(tmp_path) as (_, clients):
        a = clients["a"]
        by_model = await a.post("/v1/decisions", json={"model": "a", **body})
        cached = await a.post("/v1/decisions", json={"model": "a", **body})
        stolen = await clients["b"].post("/v1/decisions", json={"model": "a", **body})
        by_path = await a.post("/v1/sets/a/decisions", json=body)
        default = await a.post("/v1/decisions", json=body)
        unknown = await clients["root"].post("/v1/decisions", json={"model": "zz", **body})

    assert [200, 200, 200] == [each.status_code for each in (by_model, cached, by_path)]
    assert "r-a" == by_model.json()["answers"][0]["choice"]
    assert (404, "model_not_found") == (stolen.status_code, stolen.json()["error"]["code"])
    assert 403 == default.status_code
    assert 404 == unknown.status_code


async def test_cached_tokens_tell_nothing_of_another_tenant(tmp_path: Path) -> None:
    body = {"state": "a secret question", "questions": {"q": {
        "type": "choice", "criteria": {"x": "one thing", "y": "another"}}}}  # fmt: skip
    openai = {"input": "a secret question", "questions": [
        {"type": "choice", "name": "q", "choices": [
            {"value": "x", "description": "one thing"}, {"value": "y"}]}]}  # fmt: skip
    async with tenants(tmp_path) as (_, clients):
        await clients["b"].post("/v1/sets/b/systemone", json=body)
        await clients["b"].post("/v1/sets/b/decisions", json=openai)
        found = await clients["a"].post("/v1/sets/a/decisions", json=openai)
        again = await clients["a"].post(
            "/v1/sets/a/decisions", json=openai, headers={"Cache-Control": "no-cache"}
        )

    assert 0 == found.json()["usage"]["input_tokens_details"]["cached_tokens"]
    assert 200 == again.status_code


async def test_limits_of_a_key(tmp_path: Path) -> None:
    key = make_key()
    limits = ["requests_per_second=3", "concurrent_queries=1"]
    (tmp_path / "keys").write_text(key_line(key, ["read"], "app", limits=limits))
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        answers = [await node.http.get("/v1/routes", headers={"X-API-Key": key}) for _ in range(5)]
    statuses = [each.status_code for each in answers]
    refused = answers[-1]

    assert [200, 200, 200, 429, 429] == statuses
    assert ("limit_exceeded", "requests_per_second") == (
        refused.json()["code"],
        refused.json()["limit"],
    )
    assert "1" == refused.headers["retry-after"]


async def test_limit_of_texts_counts_what_is_encoded(tmp_path: Path) -> None:
    key = make_key()
    line = key_line(key, ["read", "write"], "app", limits=["texts_per_second=4"])
    (tmp_path / "keys").write_text(line)
    headers = {"X-API-Key": key}
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        http = node.http
        batch = await http.post("/v1/query/batch", json={"texts": ["a"] * 3}, headers=headers)
        one = await http.post("/v1/query", json={"text": "b"}, headers=headers)
        put = await http.put("/v1/routes/r", json=MONEY, headers=headers)
        listed = await http.get("/v1/routes", headers=headers)

    assert [200, 200, 429, 200] == [each.status_code for each in (batch, one, put, listed)]
    assert "texts_per_second" == put.json()["limit"]


async def test_given_vectors_do_not_count_as_texts_and_descriptions_do(tmp_path: Path) -> None:
    key = make_key()
    line = key_line(key, ["read", "write"], "app", limits=["texts_per_second=2"])
    (tmp_path / "keys").write_text(line)
    vector = [1.0] + [0.0] * 63
    given = {"utterances": ["one", "two", "three"], "vectors": [vector] * 3}
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        http, headers = node.http, {"X-API-Key": key}
        own = [await http.put("/v1/routes/r", json=given, headers=headers) for _ in range(4)]
        more = {"utterances": ["four"], "vectors": [vector]}
        own.append(await http.post("/v1/routes/r/utterances", json=more, headers=headers))
        described = [
            await http.patch("/v1/routes/r", json={"description": str(each)}, headers=headers)
            for each in range(4)
        ]

    assert {200, 201} >= {each.status_code for each in own}
    assert [200, 200, 429] == [each.status_code for each in described[:3]]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/query"),
        ("POST", "/v1/query/batch"),
        ("POST", "/v1/decisions"),
        ("POST", "/v1/preview"),
        ("POST", "/v1/clusters"),
        ("PUT", "/v1/routes/r"),
        ("POST", "/v1/routes/r/utterances"),
    ],
)
async def test_body_over_the_limit_of_texts_is_not_parsed(
    tmp_path: Path, method: str, path: str
) -> None:
    """A refused request costs less than its body would."""
    key = make_key()
    line = key_line(key, ["read", "write"], "app", limits=["texts_per_second=4"])
    (tmp_path / "keys").write_text(line)
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        batch = await node.http.post("/v1/query/batch", json={"texts": ["a"] * 64}, headers=headers)
        refused = await node.http.request(method, path, content=b"not JSON", headers=headers)

    assert 200 == batch.status_code
    assert 429 == refused.status_code
    assert "texts_per_second" in refused.text
    assert "retry-after" in refused.headers


async def test_requests_beyond_the_scopes_of_a_key_count(tmp_path: Path) -> None:
    """A set that is hidden from the key and a missing scope are refused no faster."""
    keys = {name: make_key() for name in ("rate", "held")}
    lines = [
        key_line(keys["rate"], ["read@a"], "rate", limits=["requests_per_second=2"]),
        key_line(keys["held"], ["read@a"], "held", limits=["concurrent_queries=1"]),
    ]
    (tmp_path / "keys").write_text("\n".join(lines))
    async with (
        http_node(tmp_path, api_keys_file=tmp_path / "keys") as node,
        on_socket(node) as http,
    ):
        statuses: dict[str, list[int]] = {"rate": [], "held": []}
        for name, found in statuses.items():
            for method, path in (("POST", "b/query"), ("PUT", "a/routes/r")) * 2:
                answer = await http.request(
                    method,
                    f"/v1/sets/{path}",
                    json={"text": TEXT},
                    headers={"X-API-Key": keys[name]},
                )
                found.append(answer.status_code)

    assert [404, 403, 429, 429] == statuses["rate"]
    assert [404, 403, 404, 403] == statuses["held"]


async def test_refusals_over_a_limit_are_logged_once_a_second(tmp_path: Path) -> None:
    """Lines for each refused request would cost more than the refusals."""
    key = make_key()
    limits = ["requests_per_second=1"]
    (tmp_path / "keys").write_text(key_line(key, ["read", "write"], "app", limits=limits))
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        with logged() as lines:
            for _ in range(20):
                await node.http.put("/v1/routes/r", json=MONEY, headers={"X-API-Key": key})
    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    told = [line for line in found if line["message"] == "requests_refused"]
    each = [line["level"] for line in found if line["message"] == "request"]

    assert 1 == told[0]["count"]
    assert len(told) < 10
    assert each.count("info") < 10


async def test_limits_of_a_set(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        http = node.http
        await http.put("/v1/sets/s", json={"limits": {"routes_max": 1, "utterances_max": 3}})
        first = await http.put("/v1/sets/s/routes/x", json=MONEY)
        more = await http.put("/v1/sets/s/routes/y", json={"utterances": ["one text"]})
        await http.patch("/v1/sets/s", json={"limits": {"routes_max": 0}})
        rows = await http.put("/v1/sets/s/routes/y", json=PARCEL)
        limits = (await http.get("/v1/sets/s")).json()["limits"]
        await http.patch("/v1/sets/s", json={"limits": {"writes_per_second_max": 2}})
        fast = [
            await http.patch("/v1/sets/s/routes/x", json={"threshold": each / 10})
            for each in range(4)
        ]
        other = await http.put("/v1/routes/x", json=MONEY)
        malformed = await http.patch("/v1/sets/s", json={"limits": {"speed": 1}})

    assert 201 == first.status_code
    assert (429, "routes_max") == (more.status_code, more.json()["limit"])
    assert (429, "utterances_max") == (rows.status_code, rows.json()["limit"])
    assert (0, 3) == (limits["routes_max"], limits["utterances_max"])
    assert [200, 200, 429, 429] == [each.status_code for each in fast]
    assert "writes_per_second_max" == fast[-1].json()["limit"]
    assert 201 == other.status_code
    assert 422 == malformed.status_code


async def test_concurrent_changes_of_limits_are_all_kept(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.http.put("/v1/sets/a", json={"limits": {"utterances_max": 7}})
        names = ("routes_max", "bytes_max", "writes_per_second_max", "write_bytes_per_second_max")
        patches = [node.http.patch("/v1/sets/a", json={"limits": {name: 1_000}}) for name in names]
        answers = await asyncio.gather(*patches, node.http.put("/v1/sets/a"))
        shown = (await node.http.get("/v1/sets/a")).json()["limits"]
        history = (await node.http.get("/v1/history", params={"set": "a", "limit": 10})).json()

    assert {200} == {each.status_code for each in answers}
    assert {"utterances_max": 7, **dict.fromkeys(names, 1_000)} == shown
    latest = next(entry for entry in history["entries"] if entry["status"] == "applied")
    assert shown == latest["changes"][0]["after"]["limits"]


async def test_a_set_that_is_created_again_keeps_its_limits(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.http.put("/v1/sets/a", json={"limits": {"utterances_max": 7}})
        again = await asyncio.to_thread(node.router.create_set, "a")
        shown = (await node.http.get("/v1/sets/a")).json()["limits"]

    assert ("unchanged", 7) == (again.status, shown["utterances_max"])


async def test_note_is_in_the_history(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        http = node.http
        note = "ticket 12, größer"
        await http.put("/v1/routes/x", json=MONEY, headers={"SR-Note": note.encode()})
        await http.put("/v1/sets/s", headers={"SR-Note": "new team"})
        history = (await http.get("/v1/history")).json()["entries"]
        refused = [
            (await http.put("/v1/routes/x", json=PARCEL, headers={"SR-Note": bad})).json()["code"]
            for bad in (b"", b"a" * 513, b"\xff", b"a\x01b")
        ]

    assert ["new team", note] == [each["note"] for each in history[:2]]
    assert ["invalid_parameter"] * 4 == refused


async def test_malformed_names_are_refused(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        codes = {}
        for name in ("@a", "a%20", "%00", "a" * 129, "a%2Fb", "%F0%9F%91%8D"):
            answer = await node.http.put(f"/v1/sets/{name}")
            codes[name] = answer.status_code
        valid = await node.http.put("/v1/sets/gr%C3%B6%C3%9Fe%20a@1.2:x-y_z")
        found = (await node.http.get("/v1/sets")).json()["sets"]

    assert {422} == {codes[name] for name in ("@a", "a%20", "a" * 129, "%F0%9F%91%8D")}
    assert all(400 <= code < 500 for code in codes.values())
    assert 201 == valid.status_code
    assert ["default", "größe a@1.2:x-y_z"] == [each["name"] for each in found]


async def test_set_pages_follow_each_other(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        for each in range(5):
            await node.http.put(f"/v1/sets/s{each}")
        names: list[str] = []
        path: str | None = "/v1/sets?limit=2"
        while path is not None:
            page = await node.http.get(path)
            names += [each["name"] for each in page.json()["sets"]]
            link = page.headers.get("link")
            path = None if link is None else link[1 : link.index(">")]

    assert ["default", "s0", "s1", "s2", "s3", "s4"] == names


async def test_a_removed_set_leaves_nothing(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        http = node.http
        await http.put("/v1/sets/s")
        await http.put("/v1/sets/s/routes/x", json=MONEY)
        await http.post("/v1/sets/s/query", json={"text": TEXT})
        await http.delete("/v1/sets/s")
        gone = await http.post("/v1/sets/s/query", json={"text": TEXT})
        await http.put("/v1/sets/s")
        empty = await http.post("/v1/sets/s/query", json={"text": TEXT})
        default = await http.delete("/v1/sets/default")
        await asyncio.sleep(0)

    assert 404 == gone.status_code
    assert "no_routes" == empty.json()["reason"]
    assert 400 <= default.status_code < 500


async def test_metrics_name_sets_to_those_who_may_know_them(tmp_path: Path) -> None:
    async with tenants(tmp_path, metrics_sets_max=2) as (node, clients):
        await clients["a"].post("/v1/sets/a/query", json={"text": TEXT})
        by_key = {name: (await http.get("/metrics")).text for name, http in clients.items()}
        bare = (await node.http.get("/metrics")).text

    named = {name for name, text in by_key.items() if 'set="' in text}
    assert {"root", "plain"} == named
    assert 'set="' not in bare
    assert "synaptoroute_sets 3.0" in by_key["root"]
    assert 'synaptoroute_set_decisions_total{set="a"} 1.0' in by_key["root"]
    assert 'synaptoroute_set_routes{set="other"} 1.0' in by_key["root"]
    assert 'set="b"' not in by_key["root"]
