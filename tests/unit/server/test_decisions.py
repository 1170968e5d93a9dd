"""``/v1/decisions`` and ``/v1/systemone``: answers, limits and errors in both dialects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from http_node import HttpNode, Wire, http_node, logged, on_socket, overloaded
from synaptoroute.decision.starting_numbers import _shipped_tables
from synaptoroute.encoder import HashEncoder
from synaptoroute.router.decider import OptionVectors, _KnownText
from synaptoroute.web.api_keys import key_line, make_key
from synaptoroute.web.connections import HttpLimits

pytestmark = pytest.mark.unit

JSON = {"content-type": "application/json"}
OPENAI, SYSTEM_ONE = "/v1/decisions", "/v1/systemone"
SOON = {"sr-min-version-timeout": "0.05"}
TEXT = "today i want my money back"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with two routes."""
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


def known_encoder() -> HashEncoder:
    """An encoder with the fingerprint of one for which numbers ship."""
    encoder = HashEncoder(64)
    encoder.fingerprint = next(iter(_shipped_tables()))
    return encoder


def body_of(path: str, state: Any, *options: Any, **fields: Any) -> dict[str, Any]:
    """A request with one question, in the dialect of a path."""
    if path == OPENAI:
        choices = [{"value": each} for each in options]
        question = {"type": "choice", "name": "q", "instructions": "Which?", "choices": choices}
        return {"model": "default", "input": state, "questions": [question], **fields}
    question = {"type": "choice", "instructions": "Which?", "criteria": dict.fromkeys(options)}
    return {"model": "default", "state": state, "questions": {"q": question}, **fields}


async def answered(node: HttpNode, path: str, state: Any, *options: Any) -> dict[str, Any]:
    """The answer to one question; probabilities as a dictionary in both dialects."""
    response = await node.http.post(path, json=body_of(path, state, *options))
    assert 200 == response.status_code, response.text
    document = response.json()
    if path == SYSTEM_ONE:
        return {**document["answers"]["q"], "usage": document["usage"]}
    found = document["answers"][0]
    spread = {json.dumps(each["value"]): each["probability"] for each in found["probabilities"]}
    return {**found, "probabilities": spread, "usage": document["usage"]}


@pytest.mark.parametrize("path", [OPENAI, SYSTEM_ONE])
async def test_choice_has_the_confidence_of_the_query(node: HttpNode, path: str) -> None:
    """Bit for bit, over the routes among the options, with and without an option for none."""
    query = {"text": TEXT, "routes": ["refund", "parcel"], "explain": True}
    match = (await node.http.post("/v1/query", json=query)).json()
    for options in (("parcel", "refund"), ("refund", "none", "parcel")):
        answer = await answered(node, path, TEXT, *options)

        assert match["candidates"][0]["route"] == answer["choice"] == "refund"
        if match["candidates"][0]["confidence"] is not None:
            assert match["candidates"][0]["confidence"] == answer["confidence"]
        assert 1.0 == pytest.approx(sum(answer["probabilities"].values()))


async def test_descriptions_of_routes_are_ignored(node: HttpNode) -> None:
    """Clients send samples of utterances there."""
    plain = body_of(SYSTEM_ONE, TEXT, "refund", "parcel")
    described = json.loads(json.dumps(plain))
    described["questions"]["q"]["criteria"] = {"refund": "where is my parcel", "parcel": TEXT}
    first = await node.http.post(SYSTEM_ONE, json=plain)
    second = await node.http.post(SYSTEM_ONE, json=described)

    assert first.json() == second.json()


@pytest.mark.parametrize("path", [OPENAI, SYSTEM_ONE])
async def test_options_that_are_no_routes_are_encoded_once(node: HttpNode, path: str) -> None:
    """Their tokens count; when they are known, they are cached tokens."""
    first = await answered(node, path, "zebra quantum violin", "zebra quantum", "parcel")
    again = await answered(node, path, "another text", "zebra quantum", "parcel")

    assert "zebra quantum" == first["choice"]
    assert first["usage"]["input_tokens"] > again["usage"]["input_tokens"] > 2
    if path == OPENAI:
        assert 0 == first["usage"]["input_tokens_details"]["cached_tokens"]
        assert 0 < again["usage"]["input_tokens_details"]["cached_tokens"]


async def test_boolean_and_string_options_are_distinct(node: HttpNode) -> None:
    """The answer has the type of the option."""
    options = (True, "true", False)
    answer = await answered(node, OPENAI, "false", *options)

    assert {"true", '"true"', "false"} == set(answer["probabilities"])
    assert answer["choice"] is False


async def test_all_questions_of_a_request_are_one_query(node: HttpNode) -> None:
    """400 questions of up to 255 options are answered in order, and encoded once."""
    before = node.router._engine().status().counters.queries
    questions = [
        {"type": "choice", "name": f"q{at}", "choices": [{"value": "refund"}, {"value": "parcel"}]}
        for at in range(399)
    ]
    many = [{"value": "refund"}, *({"value": f"option {at}"} for at in range(254))]
    questions.append({"type": "choice", "name": "last", "choices": many})
    body = {"model": "default", "input": TEXT, "questions": questions}
    answers = (await node.http.post(OPENAI, json=body)).json()["answers"]

    assert [*(f"q{at}" for at in range(399)), "last"] == [each["name"] for each in answers]
    assert {"refund"} == {each["choice"] for each in answers}
    assert 255 == len(answers[-1]["probabilities"])
    # One pass finds out which options are no routes, another scores them.
    assert before + 2 == node.router._engine().status().counters.queries


def too_much(path: str) -> list[dict[str, Any]]:
    """Requests over a limit, or malformed."""
    good = body_of(path, TEXT, "refund", "parcel")
    one = good["questions"][0] if path == OPENAI else good["questions"]["q"]
    predicate = {"type": "predicate", "instructions": "x"}
    score = {"type": "score", "instructions": "x", "levels": [{"label": "a"}, {"label": "b"}]}
    if path == OPENAI:
        doubled = {**one, "choices": one["choices"] * 2}
        lists = [[], [one] * 401, [doubled], [predicate], [score]]
    else:
        lists = [
            {},
            {f"q{at}": one for at in range(401)},
            {"q": {"type": "noul", "instructions": "x"}},
            {"q": {"type": "score", "criteria": ["low", "high"]}},
            {"q": {"type": "box", "instructions": "x"}},
        ]
    state = "input" if path == OPENAI else "state"
    return [
        body_of(path, TEXT, "refund"),
        body_of(path, TEXT, *(f"o{at}" for at in range(256))),
        body_of(path, TEXT, "refund", " "),
        body_of(path, "", "refund", "parcel"),
        body_of(path, "x" * 40_000, "refund", "parcel"),
        body_of(path, 17, "refund", "parcel"),
        body_of(path, TEXT, "refund", "parcel", images=["data:,x"]),
        {name: value for name, value in good.items() if name != state},
        {**good, "model": 3},
        *({**good, "questions": each} for each in lists),
    ]


@pytest.mark.parametrize("path", [OPENAI, SYSTEM_ONE])
async def test_limits_are_errors_of_the_dialect(node: HttpNode, path: str) -> None:
    """422, with a field that is at fault, in the shape of the caller."""
    for body in too_much(path):
        response = await node.http.post(path, json=body)
        error = checked(path, response)
        assert 422 == response.status_code, body
        assert error["code"] in ("invalid_query", "unsupported_question")


async def test_two_described_sides_are_answered(tmp_path: Path) -> None:
    """In both dialects alike; a side is never a route, and the other side has the rest."""
    sides = {"true": "the money of a refund", "false": "a parcel that is late"}
    instructions = "?\n\nAnswer true when: {true}\n\nAnswer false when: {false}".format(**sides)
    turned = {"true": sides["false"], "false": sides["true"]}
    async with http_node(tmp_path, encoder=known_encoder()) as node:
        await node.fill()
        noul = {
            "state": "the refund money",
            "questions": {
                "a": {"type": "noul", "criteria": sides},
                "b": {"type": "noul", "instructions": "?", "criteria": turned},
            },
        }
        predicate = {"type": "predicate", "name": "a", "instructions": instructions}
        body = {"input": "the refund money", "questions": [predicate]}
        first = (await node.http.post(SYSTEM_ONE, json=noul)).json()["answers"]
        second = (await node.http.post(OPENAI, json=body)).json()["answers"]

    assert first["a"]["noul"] > 0.5
    assert 1.0 == pytest.approx(first["a"]["noul"] + first["b"]["noul"])
    assert [{"type": "predicate", "name": "a", "probability": first["a"]["noul"]}] == second


async def test_sides_need_an_encoder_with_numbers(node: HttpNode) -> None:
    """Without any the probabilities would be arbitrary."""
    question = {"type": "noul", "criteria": {"true": "a", "false": "b"}}
    response = await node.http.post(SYSTEM_ONE, json={"state": TEXT, "questions": {"q": question}})

    assert (422, "unsupported_question") == (response.status_code, response.json()["code"])


def checked(path: str, response: httpx.Response) -> dict[str, Any]:
    """Check the shape of an error; returns its code and its message."""
    document = response.json()
    if path == OPENAI:
        assert "application/json" == response.headers["content-type"]
        assert {"message", "type", "param", "code"} <= document["error"].keys()
        assert ["error"] == list(document)
        error = document["error"]
        return {"code": error["code"], "message": error["message"], "type": error["type"]}
    assert "application/problem+json" == response.headers["content-type"]
    assert response.status_code == document["status"]
    return {"code": document["code"], "message": document["detail"], "type": document["type"]}


@pytest.mark.parametrize("path", [OPENAI, SYSTEM_ONE])
async def test_errors_of_all_layers_have_the_shape_of_the_dialect(
    tmp_path: Path, path: str
) -> None:
    """Keys, bodies, media types, methods, versions: whichever layer refuses."""
    reader, writer = make_key(), make_key()
    keys = tmp_path / "keys"
    keys.write_text(f"{key_line(reader, ['read'], 'r')}\n{key_line(writer, ['write'], 'w')}\n")
    keys.chmod(0o600)
    good = json.dumps(body_of(path, TEXT, "refund", "parcel")).encode()
    async with http_node(tmp_path, api_keys_file=keys, body_bytes_max=4_096) as node:
        bearer = {"authorization": f"Bearer {reader}", **JSON}
        async with on_socket(node) as client:
            for status, method, content, headers in (
                (401, "POST", good, JSON),
                (401, "POST", good, {"x-api-key": "sk-wrong", **JSON}),
                (403, "POST", good, {"x-api-key": writer, **JSON}),
                (400, "POST", b"{", bearer),
                (413, "POST", b" " * 5_000, bearer),
                (415, "POST", good, {**bearer, "content-type": "text/plain"}),
                (415, "POST", good, {**bearer, "content-encoding": "gzip"}),
                (422, "POST", good, {**bearer, "sr-deadline-ms": "soon"}),
                (422, "POST", good, {**bearer, "sr-min-version": "x"}),
                (503, "POST", good, {**bearer, "sr-min-version": "9.9", **SOON}),
                (405, "GET", b"", bearer),
                (404, "POST", good.replace(b'"default"', b'"gpt-9"'), bearer),
                (200, "POST", good, bearer),
                (200, "POST", good, {"x-api-key": reader, **JSON}),
                (200, "POST", good, {**bearer, "sr-min-version": "0.0"}),
            ):
                response = await client.request(method, path, content=content, headers=headers)
                assert status == response.status_code, (response.text, headers)
                if status >= 400:
                    error = checked(path, response)
                    assert ("retry-after" in response.headers) == (status in (429, 503))
                if status == 404:
                    assert "model_not_found" == error["code"]
                if status == 401:
                    assert "www-authenticate" in response.headers


@pytest.mark.parametrize("path", [OPENAI, SYSTEM_ONE])
async def test_overload_is_429_with_retry_after(node: HttpNode, path: str) -> None:
    """Before the body is parsed."""
    with overloaded(node):
        response = await node.http.post(path, content=b"{", headers=JSON)
    assert 429 == response.status_code
    assert "overloaded" == checked(path, response)["code"]
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", [OPENAI, SYSTEM_ONE])
async def test_slow_body_is_refused_in_the_dialect(node: HttpNode, path: str) -> None:
    """The HTTP layer knows the path of a request whose body does not come."""
    limits = HttpLimits(body_pause_seconds=0.1)
    async with on_socket(node, limits) as client:
        wire = await Wire.open(client)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        await wire.send(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        status, _, body = await wire.answer()
        await wire.close()
    assert 408 == status
    document = json.loads(body)
    assert "request_timeout" == (document["error"] if path == OPENAI else document)["code"]


async def test_names_of_the_model(tmp_path: Path) -> None:
    """The set, the product, the namespace, further names, with a prefix of a provider."""
    async with http_node(tmp_path, namespace="shop", model_names="support, triage") as node:
        await node.fill()
        for name in (None, "default", "synaptoroute", "shop", "triage", "hosted_vllm/support"):
            body = body_of(SYSTEM_ONE, TEXT, "refund", "parcel", model=name)
            response = await node.http.post(SYSTEM_ONE, json=body)
            assert 200 == response.status_code, name
            assert (name or "default") == response.json()["model"]
        for name in ("gpt-6", "other/support", "typesafe/", "support, triage", " "):
            body = body_of(SYSTEM_ONE, TEXT, "refund", "parcel", model=name)
            assert 404 == (await node.http.post(SYSTEM_ONE, json=body)).status_code, name


@pytest.mark.parametrize("path", [OPENAI, SYSTEM_ONE])
async def test_equal_requests_are_answered_from_the_cache(node: HttpNode, path: str) -> None:
    """Until the visible state changes; all its tokens are cached then."""
    content = json.dumps(body_of(path, TEXT, "refund", "parcel")).encode()
    first = (await node.http.post(path, content=content, headers=JSON)).json()
    again = (await node.http.post(path, content=content, headers=JSON)).json()
    assert first["answers"] == again["answers"]
    if path == OPENAI:
        usage = again["usage"]
        assert usage["input_tokens"] == usage["input_tokens_details"]["cached_tokens"]

    put = {"utterances": [TEXT]}
    await node.http.put("/v1/routes/parcel", json=put)
    changed = (await node.http.post(path, content=content, headers=JSON)).json()
    answer = changed["answers"][0] if path == OPENAI else changed["answers"]["q"]
    assert ("parcel", 1.0) == (answer["choice"], answer["confidence"])


async def test_text_of_a_request_is_not_logged(node: HttpNode) -> None:
    """Neither its state nor its options."""
    with logged() as stream:
        body = body_of(SYSTEM_ONE, "a private sentence", "refund", "private option")
        async with on_socket(node) as client:
            await client.post(SYSTEM_ONE, json=body)
            await client.post(SYSTEM_ONE, json={**body, "model": "unknown"})
    assert "private" not in stream.getvalue()
    assert SYSTEM_ONE in stream.getvalue()


async def test_client_that_leaves_takes_its_request_along(node: HttpNode) -> None:
    """The connection is closed, and the next one is served."""
    async with on_socket(node) as client:
        wire = await Wire.open(client)
        content = json.dumps(body_of(SYSTEM_ONE, TEXT, "x", "y")).encode()
        head = f"POST {SYSTEM_ONE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        await wire.send(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        await wire.close()
        await asyncio.sleep(0.05)
        assert 200 == (await client.post(SYSTEM_ONE, content=content, headers=JSON)).status_code
    assert 0 == node.runtime.bodies.held_bytes
    assert 0 == node.runtime.metrics.in_flight_count


def test_vectors_of_options_are_bounded() -> None:
    """The least recently used is dropped; another encoder starts anew."""
    vectors = OptionVectors(kept=2)
    vectors.use("a")
    known = _KnownText(np.zeros(4, np.float32), 3)
    for text in ("x", "y"):
        vectors.put("a", text, known)
    assert vectors.get("x") is known
    vectors.put("a", "z", known)
    assert (None, 2) == (vectors.get("y"), len(vectors))
    vectors.put("b", "w", known)
    vectors.use("b")
    assert 0 == len(vectors)
