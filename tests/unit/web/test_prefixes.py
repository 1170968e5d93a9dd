"""Serving below a path prefix, which a setting or a trusted proxy names."""

from __future__ import annotations

from pathlib import Path

import pytest

from http_node import REFUND, Wire, http_node, on_socket, request
from synaptoroute.config import HttpConfig
from synaptoroute.web.prefixes import forwarded_prefix, with_prefix

pytestmark = pytest.mark.unit

TRUSTED = {"trusted_proxies": "127.0.0.0/8"}
QUERY = b'{"text": "I want my money back"}'


@pytest.mark.parametrize(
    ("values", "prefix"),
    [
        ([], ""),
        (["/router"], "/router"),
        (["/router/"], "/router"),
        (["/a/b.c_d~e-f"], "/a/b.c_d~e-f"),
        (["/outer, /inner"], "/outer/inner"),
        (["/outer", "/inner"], "/outer/inner"),
        (["/"], ""),
        (["router"], ""),
        (["//evil.example"], ""),
        (["/a/../b"], ""),
        (["/.hidden"], ""),
        (['/"><script>'], ""),
        (["/%2e"], ""),
        (["/a\\b"], ""),
        (["/good, bad"], ""),
        (["/" + "x" * 300], ""),
    ],
)
def test_forwarded_prefix_is_read(values: list[str], prefix: str) -> None:
    headers = [(b"x-forwarded-prefix", value.encode()) for value in values]

    assert prefix == forwarded_prefix([(b"host", b"node"), *headers])


def test_only_own_links_get_the_prefix() -> None:
    headers = [
        (b"location", b"/v1/ops/1"),
        (b"link", b'</v1/routes?after=x>; rel="next"'),
        (b"location", b"https://elsewhere/v1/"),
        (b"x-other", b"/v1/"),
    ]

    assert with_prefix(headers, "/a") == [
        (b"location", b"/a/v1/ops/1"),
        (b"link", b'</a/v1/routes?after=x>; rel="next"'),
        *headers[2:],
    ]


@pytest.mark.parametrize(
    "root_path", ["router", "/router/", "/a//b", "/../a", "/v1", "/peer/x", "/-"]
)
def test_malformed_root_path_is_refused(root_path: str) -> None:
    with pytest.raises(ValueError, match="root_path"):
        HttpConfig(root_path=root_path)


async def test_root_path_is_taken_off_every_request(tmp_path: Path) -> None:
    """With and without it the same is served, by the direct handler and by the application."""
    async with http_node(tmp_path, root_path="/router") as node, on_socket(node) as client:
        written = await client.put("/router/v1/routes/a%20b", json=REFUND)
        assert 201 == written.status_code
        for prefix in ("/router", ""):
            assert 200 == (await client.get(f"{prefix}/v1/routes/a%20b")).status_code
            assert 200 == (await client.get(f"{prefix}/readyz")).status_code
            wire = await Wire.open(client)
            await wire.send(request(QUERY, path=f"{prefix}/v1/query"))
            status, _, body = await wire.answer()
            assert (200, True) == (status, b'"a b"' in body)
            await wire.close()
        for path in ("/routerx/v1/routes", "/router/router/v1/routes", "/router"):
            assert 404 == (await client.get(path)).status_code


async def test_key_is_needed_below_the_root_path(tmp_path: Path) -> None:
    """Rules that go by the path see it without the prefix."""
    keys = tmp_path / "keys"
    keys.write_text(f"read {'0' * 64} nobody\n")
    async with (
        http_node(tmp_path, root_path="/router", api_keys_file=keys) as node,
        on_socket(node) as client,
    ):
        assert 401 == (await client.get("/router/-/state")).status_code
        assert 401 == (await client.get("/router/v1/routes")).status_code
        assert 200 == (await client.get("/router/livez")).status_code


async def test_addresses_begin_with_the_prefix(tmp_path: Path) -> None:
    """Of the document, of the next page, and of the outcome of a write."""
    header = {"X-Forwarded-Prefix": "/edge"}
    async with http_node(tmp_path, root_path="/router", **TRUSTED) as node:
        await node.fill()
        async with on_socket(node) as client:
            for headers, prefix in (({}, "/router"), (header, "/edge")):
                document = (await client.get("/v1/openapi.json", headers=headers)).json()
                page = await client.get("/v1/routes?limit=1", headers=headers)
                assert [prefix] == [each["url"] for each in document["servers"]]
                assert page.headers["link"].startswith(f"<{prefix}/v1/routes?")


async def test_forwarded_prefix_counts_from_trusted_proxies_only(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node, on_socket(node) as client:
        answer = await client.get("/v1/openapi.json", headers={"X-Forwarded-Prefix": "/edge"})

    assert ["/"] == [each["url"] for each in answer.json()["servers"]]
