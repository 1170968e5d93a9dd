"""Pages of other origins: preflights, marked answers, and changes without API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from http_node import REFUND, Wire, http_node, on_socket, overloaded, request
from synaptoroute.config import HttpConfig
from synaptoroute.errors import ConfigError
from synaptoroute.web.api_keys import key_line, make_key
from synaptoroute.web.cors import cors_origins

pytestmark = pytest.mark.unit

PAGE = "https://app.example"
QUERY = {"text": "I want my money back"}


def preflight(
    method: str = "PUT", headers: str = "authorization", origin: str = PAGE
) -> dict[str, Any]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


def allowed(answer: httpx.Response) -> str | None:
    return answer.headers.get("access-control-allow-origin")


async def test_nothing_is_allowed_by_default(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node, on_socket(node) as client:
        answers = [
            await client.options("/v1/query", headers=preflight()),
            await client.get("/v1/routes", headers={"Origin": PAGE}),
            await client.post("/v1/query", json=QUERY, headers={"Origin": PAGE}),
        ]

    assert [405, 200, 403] == [answer.status_code for answer in answers]
    assert [] == [each for answer in answers for each in answer.headers if "access-control" in each]


async def test_preflight_passes_without_the_key_that_the_request_needs(tmp_path: Path) -> None:
    """A browser sends its preflight without the key, and then the request with it."""
    key = make_key()
    keys = tmp_path / "keys"
    keys.write_text(key_line(key, ["read", "write"], "page") + "\n")
    async with (
        http_node(tmp_path, cors_origins=PAGE, api_keys_file=keys) as node,
        on_socket(node) as client,
    ):
        asked = "authorization,content-type,idempotency-key,sr-min-version,traceparent"
        before = await client.options("/v1/routes/a", headers=preflight(headers=asked))
        named = {"Origin": PAGE, "Authorization": f"Bearer {key}", "Sec-Fetch-Site": "cross-site"}
        written = await client.put("/v1/routes/a", json=REFUND, headers=named)
        matched = await client.post("/v1/query", json=QUERY, headers=named)
        refused = await client.put("/v1/routes/a", json=REFUND, headers={"Origin": PAGE})
        missing = await client.get("/v1/routes/none", headers=named)

    assert (200, PAGE) == (before.status_code, allowed(before))
    assert "PUT" in before.headers["access-control-allow-methods"]
    assert "600" == before.headers["access-control-max-age"]
    assert "access-control-allow-credentials" not in before.headers
    assert [201, 200, 401, 404] == [
        each.status_code for each in (written, matched, refused, missing)
    ]
    assert {PAGE} == {allowed(each) for each in (written, matched, refused, missing)}
    for name in ("sr-version", "sr-op-id", "etag", "retry-after", "x-request-id", "location"):
        assert name in written.headers["access-control-expose-headers"].lower()
    assert "unauthorized" == refused.json()["code"]


async def test_other_origins_get_no_permission(tmp_path: Path) -> None:
    async with http_node(tmp_path, cors_origins=PAGE) as node, on_socket(node) as client:
        for origin in (
            "https://evil.example",
            "http://app.example",
            f"{PAGE}.evil.example",
            "null",
        ):
            before = await client.options("/v1/query", headers=preflight(origin=origin))
            read = await client.get("/v1/routes", headers={"Origin": origin})
            write = await client.post("/v1/query", json=QUERY, headers={"Origin": origin})

            assert (400, None, None) == (before.status_code, allowed(before), allowed(read))
            assert (403, "cross_site", None) == (
                write.status_code,
                write.json()["code"],
                allowed(write),
            )


async def test_method_that_is_not_allowed_fails_the_preflight(tmp_path: Path) -> None:
    settings = {"cors_origins": PAGE, "cors_methods": "get, post", "cors_headers": "X-Own"}
    async with http_node(tmp_path, **settings) as node, on_socket(node) as client:
        answers = [
            await client.options("/v1/routes/a", headers=preflight("DELETE")),
            await client.options("/v1/query", headers=preflight("POST", "x-own")),
            await client.options("/v1/query", headers=preflight("POST", "x-foreign")),
        ]

    assert [400, 200, 400] == [answer.status_code for answer in answers]


async def test_listed_origin_may_change_a_node_without_keys(tmp_path: Path) -> None:
    """Every origin may read with ``*``; changes without a key need an origin by name."""
    headers = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    for origins, status in ((f"https://other.example,{PAGE}/", 201), ("*", 403)):
        folder = tmp_path / str(status)
        folder.mkdir()
        async with http_node(folder, cors_origins=origins) as node, on_socket(node) as client:
            answer = await client.put("/v1/routes/a", json=REFUND, headers=headers)
            read = await client.get("/v1/routes", headers=headers)

        assert status == answer.status_code
        assert (200, True) == (read.status_code, allowed(read) in (PAGE, "*"))


async def test_every_answer_to_a_query_is_marked(tmp_path: Path) -> None:
    """Also those that the direct handlers would give: cached, malformed and refused ones."""
    async with http_node(tmp_path, cors_origins=PAGE) as node, on_socket(node) as client:
        await node.fill()
        wire = await Wire.open(client)
        found = []
        for body in (b'{"text": "x"}', b'{"text": "x"}', b"[1"):
            await wire.send(request(body, f"Origin: {PAGE}"))
            found.append(await wire.answer())
        with overloaded(node):
            await wire.send(request(b'{"text": "y"}', f"Origin: {PAGE}"))
            found.append(await wire.answer())
        for path in ("/v1/decisions", "/v1/systemone"):
            await wire.send(request(b"{}", f"Origin: {PAGE}", path=path))
            found.append(await wire.answer())
        await wire.close()

    assert [200, 200, 400, 429, 422, 422] == [status for status, _, _ in found]
    assert [PAGE] * 6 == [headers["access-control-allow-origin"] for _, headers, _ in found]


@pytest.mark.parametrize(
    "origins",
    ["app.example", "ftp://app.example", "https://", "https://a/path", "https://a?b", "https://a:x",
     "https://*.example", "https://u@a"],
)  # fmt: skip
def test_malformed_origin_is_refused(origins: str) -> None:
    with pytest.raises(ConfigError, match="cors_origins"):
        cors_origins(HttpConfig(cors_origins=origins))


def test_origins_are_written_as_browsers_do() -> None:
    config = HttpConfig(cors_origins="HTTPS://App.Example:443/, http://[::1]:3000,https://a:8443")

    assert ["https://app.example", "http://[::1]:3000", "https://a:8443"] == cors_origins(config)
