"""Hosts that a server answers for, and sites that may send it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from http_node import http_node
from synaptoroute.config import HttpConfig
from synaptoroute.web.api_keys import key_line, make_key
from synaptoroute.web.problems import CrossSite, MisdirectedRequest
from synaptoroute.web.site_rules import SiteRules

pytestmark = pytest.mark.unit

OWN = ["localhost", "LOCALHOST:8080", "a.localhost", "127.0.0.1:8080", "[::1]:8080", "10.1.2.3",
       "node-1:8080", "localhost."]  # fmt: skip
FOREIGN = ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
           "a.b", "1.2.3", "[::1].evil.example", "evil.example."]  # fmt: skip


def rules(has_keys: bool = False, urls: tuple[str, ...] = (), **settings: Any) -> SiteRules:
    return SiteRules.of(HttpConfig(**settings), has_keys=has_keys, urls=urls)


def is_allowed(site: SiteRules, host: str) -> bool:
    try:
        site.check("GET", {b"host": host.encode()}, is_keyless=True)
    except MisdirectedRequest:
        return False
    return True


@pytest.mark.parametrize("insecure", [False, True])
def test_keyless_server_on_the_loopback_answers_for_itself_only(insecure: bool) -> None:
    site = rules(insecure=insecure)
    for _ in range(2):
        assert [True] * len(OWN) == [is_allowed(site, host) for host in OWN]
        assert [False] * len(FOREIGN) == [is_allowed(site, host) for host in FOREIGN]


def test_any_host_passes_where_keys_protect_or_the_server_is_public_on_purpose() -> None:
    for site in (rules(has_keys=True), rules(host="0.0.0.0", insecure=True)):
        assert is_allowed(site, "router.example")


def test_list_of_hosts_holds_with_keys_too() -> None:
    site = rules(True, allowed_hosts="router.example, *.svc.cluster.local", host="0.0.0.0")

    for host in ("router.example:80", "Router.Example", "a.b.svc.cluster.local", "10.0.0.1:8080"):
        assert is_allowed(site, host)
    for host in ("svc.cluster.local", "other.example", "a.router.example"):
        assert not is_allowed(site, host)


def test_own_addresses_pass() -> None:
    site = rules(host="node.example", urls=("https://peer.example:8443", ""))

    assert is_allowed(site, "node.example")
    assert is_allowed(site, "peer.example:8443")
    assert is_allowed(rules(allowed_hosts="*"), "anything.example")


@pytest.mark.parametrize(
    ("headers", "is_foreign"),
    [
        ({}, False),
        ({"origin": "http://localhost:8080"}, False),
        ({"origin": "http://LOCALHOST:8080"}, False),
        ({"sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://localhost:3000"}, True),
        ({"origin": "http://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": ""}, True),
        ({"origin": "http://localhost:bad"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost:8080"}, True),
    ],
)
def test_change_of_another_site_is_refused(headers: dict[str, str], is_foreign: bool) -> None:
    site = rules()
    sent = {b"host": b"localhost:8080"}
    sent |= {name.encode(): value.encode() for name, value in headers.items()}
    for method in ("POST", "PUT", "PATCH", "DELETE", "BREW"):
        if is_foreign:
            with pytest.raises(CrossSite):
                site.check(method, sent, is_keyless=True)
        else:
            site.check(method, sent, is_keyless=True)
        # No page can add an API key to a request to another site.
        site.check(method, sent, is_keyless=False)
    site.check("GET", sent, is_keyless=True)


def test_default_port_of_the_origin_is_the_ports_of_the_host() -> None:
    site = rules(allowed_hosts="r.example")
    for origin, host in (
        ("https://r.example", "r.example"),
        ("https://r.example", "r.example:443"),
        ("http://r.example:80", "r.example"),
    ):
        headers = {b"host": host.encode(), b"origin": origin.encode()}
        site.check("POST", headers, is_keyless=True)


async def test_keyless_node_refuses_other_hosts_and_other_sites(tmp_path: Path) -> None:
    evil = {"host": "evil.example:8080"}
    page = {"origin": "http://evil.example", "content-type": "application/json"}
    async with http_node(tmp_path) as node:
        await node.fill()
        digest = await node.digest()
        refused = [
            await node.http.put("/v1/routes/x", json={"utterances": ["a"]}, headers=evil),
            await node.http.get("/v1/routes", headers=evil),
            await node.http.post("/v1/query", json={"text": "a"}, headers=evil),
            await node.http.delete("/v1/routes/refund", headers=page),
            await node.http.post("/v1/import", content=b'{"name":"x"}', headers=page),
        ]
        assert digest == await node.digest()
        # A probe asks by address.
        probe = await node.http.get("/readyz", headers={"host": "10.0.0.7:8080"})

    assert [421, 421, 421, 403, 403] == [answer.status_code for answer in refused]
    assert ["host_not_allowed"] * 3 + ["cross_site"] * 2 == [a.json()["code"] for a in refused]
    assert 200 == probe.status_code


async def test_node_with_keys_answers_for_any_host(tmp_path: Path) -> None:
    key = make_key()
    path = tmp_path / "keys"
    path.write_text(key_line(key, ["admin"], "ops") + "\n")
    path.chmod(0o600)
    headers = {"host": "router.example", "authorization": f"Bearer {key}", "origin": "http://x.y"}
    async with http_node(tmp_path, api_keys_file=path) as node:
        answer = await node.http.put("/v1/routes/x", json={"utterances": ["a"]}, headers=headers)

    assert 201 == answer.status_code
