"""Routes over HTTP: writes, preconditions and idempotency."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from http_node import PARCEL, REFUND, HttpNode, http_node

pytestmark = pytest.mark.unit


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """An empty node."""
    async with http_node(tmp_path) as started:
        yield started


def unit_vector(at: int, dim: int = 64) -> list[float]:
    """A vector along one axis."""
    return [1.0 if index == at else 0.0 for index in range(dim)]


async def test_put_creates_then_replaces(node: HttpNode) -> None:
    """201 with an ETag for a new route, 200 for the same name again."""
    first = await node.http.put("/v1/routes/refund", json=REFUND)
    second = await node.http.put("/v1/routes/refund", json={"utterances": ["other words"]})
    shown = await node.http.get("/v1/routes/refund")

    assert (201, 200) == (first.status_code, second.status_code)
    assert first.headers["etag"] != second.headers["etag"] == shown.headers["etag"]
    assert f'"{second.json()["revision"]}"' == shown.headers["etag"]
    assert second.headers["sr-version"] == shown.headers["sr-version"]
    assert second.json()["op_id"] == second.headers["sr-op-id"]
    assert ["other words"] == shown.json()["utterances"]
    assert None is shown.json()["payload"]


async def test_write_is_seen_by_the_next_query(node: HttpNode) -> None:
    """A write is visible once it has been answered."""
    await node.fill()
    answer = await node.http.post("/v1/query", json={"text": "track my order"})
    await node.http.delete("/v1/routes/parcel")
    gone = await node.http.post("/v1/query", json={"text": "track my order"})

    assert ("parcel", None) == (answer.json()["route"], gone.json()["route"])


async def test_delete_shows_the_version_of_the_write(node: HttpNode) -> None:
    """A deletion has a version, as every write has."""
    await node.fill()
    answer = await node.http.delete("/v1/routes/parcel")
    again = await node.http.delete("/v1/routes/parcel")

    assert (200, "applied") == (answer.status_code, answer.json()["status"])
    assert answer.json()["version"] == answer.headers["sr-version"]
    assert (404, "route_not_found") == (again.status_code, again.json()["code"])


async def test_patch_changes_only_what_it_names(node: HttpNode) -> None:
    """Absent fields stay; a threshold of null takes the default again."""
    await node.http.put("/v1/routes/refund", json={**REFUND, "threshold": 0.9})
    await node.http.patch("/v1/routes/refund", json={"metadata": {"team": "money"}})
    patched = (await node.http.get("/v1/routes/refund")).json()
    await node.http.patch("/v1/routes/refund", json={"threshold": None, "payload": None})
    cleared = (await node.http.get("/v1/routes/refund")).json()

    assert (0.9, {"team": "money"}) == (patched["threshold"], patched["metadata"])
    assert REFUND["payload"] == patched["payload"]
    assert (None, None) == (cleared["threshold"], cleared["payload"])
    assert {"team": "money"} == cleared["metadata"]


async def test_utterances_are_added_and_removed(node: HttpNode) -> None:
    """The count has the number of changes; existing utterances stay."""
    await node.fill()
    url = "/v1/routes/refund/utterances"
    added = await node.http.post(url, json={"utterances": ["pay me back", "I want my money back"]})
    removed = await node.http.request("DELETE", url, json={"utterances": ["pay me back"]})
    missing = await node.http.request("DELETE", url, json={"utterances": ["pay me back"]})
    last = await node.http.request("DELETE", url, json={"utterances": REFUND["utterances"]})

    assert (1, 1) == (added.json()["count"], removed.json()["count"])
    assert "utterance_not_found" == missing.json()["code"]
    assert 400 <= last.status_code < 500
    shown = (await node.http.get("/v1/routes/refund")).json()["utterances"]
    assert REFUND["utterances"] == shown


async def test_failed_if_match_shows_the_current_etag(node: HttpNode) -> None:
    """412 with the current ETag for an old one; the current one succeeds."""
    await node.fill()
    tag = (await node.http.get("/v1/routes/refund")).headers["etag"]
    url, body = "/v1/routes/refund", {"threshold": 0.4}
    passed = await node.http.patch(url, json=body, headers={"If-Match": tag})
    failed = await node.http.patch(url, json=body, headers={"If-Match": tag})

    assert 200 == passed.status_code
    assert (412, "precondition_failed") == (failed.status_code, failed.json()["code"])
    assert passed.json()["revision"] == failed.json()["current"]
    assert passed.headers["etag"] == failed.headers["etag"]


async def test_if_none_match_star_creates_only(node: HttpNode) -> None:
    """The second creation of a name fails."""
    headers = {"If-None-Match": "*"}
    first = await node.http.put("/v1/routes/refund", json=REFUND, headers=headers)
    second = await node.http.put("/v1/routes/refund", json=REFUND, headers=headers)

    assert (201, 412) == (first.status_code, second.status_code)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"If-Match": "1.2"}, (422, "invalid_parameter")),
        ({"If-Match": '"1.2", "1.3"'}, (422, "invalid_parameter")),
        ({"If-Match": 'W/"1.2"'}, (412, "precondition_failed")),
        ({"If-Match": '"another"'}, (412, "precondition_failed")),
        ({"If-Match": '"999999999999999999.1"'}, (412, "precondition_failed")),
        ({"If-None-Match": '"1.2"'}, (422, "invalid_parameter")),
        ({"Idempotency-Key": ""}, (422, "invalid_parameter")),
        ({"Idempotency-Key": "a" * 256}, (422, "invalid_parameter")),
        ({"Idempotency-Key": "\u00e9"}, (422, "invalid_parameter")),
    ],
)
async def test_unusable_precondition_is_refused(
    node: HttpNode, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    """An unusable precondition gets a 4xx and is never ignored."""
    await node.fill()
    before = await node.digest()
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = await node.http.patch(
        "/v1/routes/refund", json={"threshold": 0.1}, headers=list(raw.items())
    )

    assert expected == (answer.status_code, answer.json()["code"])
    assert before == await node.digest()


async def test_unchanged_route_is_304(node: HttpNode) -> None:
    """A read of the current revision gets 304."""
    await node.fill()
    tag = (await node.http.get("/v1/routes/refund")).headers["etag"]
    same = await node.http.get("/v1/routes/refund", headers={"If-None-Match": f'"0.0", W/{tag}'})
    other = await node.http.get("/v1/routes/refund", headers={"If-None-Match": '"0.0"'})

    assert (304, b"") == (same.status_code, same.content)
    assert (200, tag) == (other.status_code, same.headers["etag"])


@pytest.mark.parametrize("key", ["order-7", str(uuid.UUID(int=7))])
async def test_repeated_key_has_the_effect_of_one(node: HttpNode, key: str) -> None:
    """The same request gets the same response, in any order of its fields."""
    headers = {"Idempotency-Key": key}
    body = {"utterances": ["a b", "c d"], "threshold": 0.3}
    first = await node.http.put("/v1/routes/x", json=body, headers=headers)
    await node.http.put("/v1/routes/x", json={"utterances": ["newer"]})
    swapped = dict(reversed(body.items()))
    second = await node.http.put("/v1/routes/x", json=swapped, headers=headers)
    shown = await node.http.get("/v1/routes/x")

    assert first.json() == second.json()
    assert ["newer"] == shown.json()["utterances"]


async def test_one_key_for_two_requests_is_a_conflict(node: HttpNode) -> None:
    """Another body, path or method under a used key is refused."""
    headers = {"Idempotency-Key": "once"}
    await node.http.put("/v1/routes/x", json={"utterances": ["a"]}, headers=headers)
    body = await node.http.put("/v1/routes/x", json={"utterances": ["b"]}, headers=headers)
    path = await node.http.put("/v1/routes/y", json={"utterances": ["a"]}, headers=headers)
    method = await node.http.delete("/v1/routes/x", headers=headers)

    for answer in (body, path, method):
        assert (422, "idempotency_conflict") == (answer.status_code, answer.json()["code"])


async def test_outcome_of_a_write_is_remembered(node: HttpNode) -> None:
    """Applied and rejected writes are remembered under their op_id."""
    key = uuid.uuid4()
    headers = {"Idempotency-Key": str(key)}
    unknown = await node.http.get(f"/v1/ops/{key}")
    written = await node.http.put("/v1/routes/x", json=REFUND, headers=headers)
    shown = await node.http.get(f"/v1/ops/{key.hex}")
    lost = uuid.uuid4()
    await node.http.delete("/v1/routes/nothing", headers={"Idempotency-Key": str(lost)})
    rejected = await node.http.get(f"/v1/ops/{lost}")

    assert (404, "operation_not_found") == (unknown.status_code, unknown.json()["code"])
    assert written.json()["version"] == shown.json()["version"]
    assert "applied" == shown.json()["status"]
    assert 200 == rejected.status_code
    assert ("rejected", "route_not_found") == (rejected.json()["status"], rejected.json()["code"])


async def test_listing_walks_all_pages_in_order(node: HttpNode) -> None:
    """Following next_after gives every route once; Link names the same page."""
    names = [f"r {index:02}" for index in range(7)]
    for name in names:
        await node.http.put(f"/v1/routes/{name}", json={"utterances": [name]})
    seen: list[str] = []
    url: str | None = "/v1/routes?limit=3"
    while url:
        page = await node.http.get(url)
        seen += [route["name"] for route in page.json()["routes"]]
        url = page.links["next"]["url"] if "next" in page.links else None
        assert (url is None) == (page.json()["next_after"] is None)

    assert names == seen


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=1e2"])
async def test_malformed_parameter_is_named(node: HttpNode, query: str) -> None:
    """422 with the parameter's name and not its value."""
    answer = await node.http.get(f"/v1/routes?{query}")

    assert (422, "invalid_parameter") == (answer.status_code, answer.json()["code"])
    assert "limit" == answer.json()["errors"][0]["field"]


async def test_settings_are_replaced_as_a_whole(node: HttpNode) -> None:
    """A GET shows what was put; a partial document is refused."""
    settings_ = (await node.http.get("/v1/settings")).json()
    changed = {**settings_, "aggregation": "max", "threshold": 0.25}
    written = await node.http.put("/v1/settings", json=changed)
    part = await node.http.put("/v1/settings", json={"threshold": 0.1})
    tagged = await node.http.put("/v1/settings", json=changed, headers={"If-None-Match": "*"})

    assert (200, 422, 422) == (written.status_code, part.status_code, tagged.status_code)
    assert changed == (await node.http.get("/v1/settings")).json()


async def test_full_tensor_is_409(node: HttpNode) -> None:
    """Capacity is refused at apply time, with nothing changed."""
    settings_ = (await node.http.get("/v1/settings")).json()
    await node.http.put("/v1/settings", json={**settings_, "capacity_slots": 3})
    fits = await node.http.put("/v1/routes/refund", json=REFUND)
    over = await node.http.put("/v1/routes/parcel", json=PARCEL)

    assert (201, 409) == (fits.status_code, over.status_code)
    assert "capacity_exceeded" == over.json()["code"]


BAD_ROUTES: list[Any] = [
    [],
    {},
    {"utterances": []},
    {"utterances": [""]},
    {"utterances": ["a", 5]},
    {"utterances": ["a"], "name": "other"},
    {"utterances": ["a"], "threshold": "0.5"},
    {"utterances": ["a"], "threshold": 1.5},
    {"utterances": ["a"], "metadata": []},
    {"utterances": ["a"], "metadata": {"k": "x" * 20_000}},
    {"utterances": ["a"], "colour": "red"},
    {"utterances": ["a" * 8_193]},
    {"utterances": [f"u{index}" for index in range(1_001)]},
    {"utterances": ["a"], "vectors": []},
    {"utterances": ["a"], "vectors": [[1.0]]},
    {"utterances": ["a"], "vectors": [["x"] * 64]},
    {"utterances": ["a"], "vectors": [[2.0] * 64]},
    {"utterances": ["a"], "vectors": [[0.0] * 64]},
    {"utterances": ["a"], "vectors": [unit_vector(0), unit_vector(1)]},
]


@pytest.mark.parametrize("body", BAD_ROUTES, ids=[str(at) for at in range(len(BAD_ROUTES))])
async def test_malformed_route_changes_nothing(node: HttpNode, body: Any) -> None:
    """4xx with a stable code; the digest stays."""
    before = await node.digest()
    answer = await node.http.put("/v1/routes/x", json=body)

    assert 400 <= answer.status_code < 500
    assert answer.json()["code"] in ("invalid_route", "invalid_vector", "invalid_parameter")
    assert before == await node.digest()


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e39", "NaN", "Infinity"])
async def test_vector_that_is_not_finite_is_refused(node: HttpNode, number: str) -> None:
    """Neither as a literal nor by overflow of a double or a float32."""
    values = ",".join([number, *["0.0"] * 63])
    answer = await node.http.put(
        "/v1/routes/x",
        content=f'{{"utterances": ["a"], "vectors": [[{values}]]}}',
        headers={"Content-Type": "application/json"},
    )

    assert answer.json()["code"] in ("invalid_vector", "malformed_body")
    assert 0 == node.router.status().routes


async def test_given_vectors_are_stored_unchanged(node: HttpNode) -> None:
    """Unit vectors of the right length travel with their utterances."""
    body = {"utterances": ["a", "b"], "vectors": [unit_vector(0), unit_vector(1)]}
    answer = await node.http.put("/v1/routes/x", json=body)

    assert (201, 2) == (answer.status_code, answer.json()["count"])


async def test_payload_nested_beyond_the_limit_is_refused(node: HttpNode) -> None:
    """Deep nesting could exhaust the stack of a recursive reader."""
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    answer = await node.http.put("/v1/routes/x", json={"utterances": ["a"], "payload": deep})

    assert (422, "invalid_route") == (answer.status_code, answer.json()["code"])


async def test_concurrent_writes_have_distinct_versions(node: HttpNode) -> None:
    """Every concurrent write gets its own version, and every route exists."""
    names = [f"r{index}" for index in range(30)]
    answers = await asyncio.gather(
        *(node.http.put(f"/v1/routes/{name}", json={"utterances": [name]}) for name in names)
    )

    assert {201} == {answer.status_code for answer in answers}
    assert len(names) == len({answer.json()["version"] for answer in answers})
    assert len(names) == node.router.status().routes


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=140))
async def test_any_name_is_accepted_or_refused_with_4xx(node: HttpNode, name: str) -> None:
    """An accepted name can be read back."""
    raw = "".join(f"%{byte:02X}" for byte in name.encode())
    answer = await node.http.put(f"/v1/routes/{raw}", json={"utterances": ["a"]})

    if answer.status_code in (200, 201):
        assert name == (await node.http.get(f"/v1/routes/{raw}")).json()["name"]
    else:
        assert answer.status_code in (404, 405, 422)
        assert answer.json()["code"] in ("not_found", "method_not_allowed", "invalid_parameter")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(utterances=st.lists(ANY_TEXT, max_size=5), text=ANY_TEXT)
async def test_any_text_is_accepted_or_refused_with_4xx(
    node: HttpNode, utterances: list[str], text: str
) -> None:
    """Any Unicode is stored unchanged or refused; never a 5xx."""
    before = await node.digest()
    written = await node.http.put("/v1/routes/x", json={"utterances": utterances})
    asked = await node.http.post("/v1/query", json={"text": text})

    assert asked.status_code in (200, 422)
    if written.status_code in (200, 201):
        stored = (await node.http.get("/v1/routes/x")).json()["utterances"]
        assert sorted({each.strip() for each in utterances}) == sorted(stored)
    else:
        assert (422, "invalid_route") == (written.status_code, written.json()["code"])
        assert before == await node.digest()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(vector=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=60, max_size=68))
async def test_any_vector_is_of_unit_length_or_refused(node: HttpNode, vector: list[float]) -> None:
    """Length, dimension and range are checked before the write."""
    before = await node.digest()
    body = {"utterances": ["a"], "vectors": [vector]}
    answer = await node.http.put("/v1/routes/v", json=body)
    fits = len(vector) == 64 and math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-3)

    if answer.status_code in (200, 201):
        assert fits
    else:
        assert (422, "invalid_vector") == (answer.status_code, answer.json()["code"])
        assert before == await node.digest()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/v1/routes/twice", '{"utterances":["a"],\n "utterances":["b"]}'),
        ("PUT", "/v1/routes/twice", '{"utterances":["a"],\n "metadata":{"k":1, "k":2}}'),
        ("PATCH", "/v1/routes/twice", '{"threshold":0.5,\n "threshold":0.6}'),
        ("POST", "/v1/import", '[{"name":"twice",\n "name":"once","utterances":["a"]}]'),
    ],
)
async def test_key_twice_is_refused_with_its_place(
    node: HttpNode, method: str, path: str, body: str
) -> None:
    """Otherwise the first value would be lost without a word."""
    headers = {"Content-Type": "application/json"}
    answer = await node.http.request(method, path, content=body, headers=headers)

    assert (400, "malformed_body") == (answer.status_code, answer.json()["code"])
    assert "line 2, column" in answer.json()["detail"]
    assert not {"utterances", "metadata", "'k'", "'threshold'"} & set(
        answer.json()["detail"].split()
    )
    assert 404 == (await node.http.get("/v1/routes/twice")).status_code
