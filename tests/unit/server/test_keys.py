"""API keys: scopes, log lines and reloading of the file."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from http_node import http_node, logged, on_socket
from synaptoroute.errors import ConfigError
from synaptoroute.web.api_keys import ApiKeys, add_line, key_line, make_key, parse_keys

pytestmark = pytest.mark.unit

REQUESTS = [
    ("GET", "/livez", None),
    ("GET", "/readyz", None),
    ("GET", "/metrics", None),
    ("POST", "/v1/query", "read"),
    ("POST", "/v1/query/batch", "read"),
    ("GET", "/v1/routes", "read"),
    ("GET", "/v1/export", "read"),
    ("GET", "/v1/settings", "read"),
    ("GET", "/v1/openapi.json", "read"),
    ("PUT", "/v1/routes/x", "write"),
    ("PATCH", "/v1/routes/x", "write"),
    ("DELETE", "/v1/routes/x", "write"),
    ("POST", "/v1/routes/x/utterances", "write"),
    ("POST", "/v1/import", "write"),
    ("PUT", "/v1/settings", "admin"),
    ("GET", "/-/state", "admin"),
    ("GET", "/-/settings", "admin"),
    ("GET", "/-/digest", "admin"),
    ("POST", "/v1/unknown", "write"),
]
HASH = hashlib.sha256(b"key").hexdigest()


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """One key for each scope, and their file."""
    made = {scope: make_key() for scope in ("read", "write", "admin")}
    lines = ["# keys", *(key_line(key, [scope], f"{scope}er") for scope, key in made.items())]
    (tmp_path / "keys").write_text("\n".join(lines))
    return made


@pytest.mark.parametrize(("method", "path", "needed"), REQUESTS)
async def test_scope_is_needed(
    tmp_path: Path, keys: dict[str, str], method: str, path: str, needed: str | None
) -> None:
    """401 without a valid key, 403 with the wrong scope; admin includes every scope."""
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        bare = (await node.http.request(method, path)).status_code
        wrong = (
            await node.http.request(method, path, headers={"X-API-Key": make_key()})
        ).status_code
        by_scope = {
            scope: (
                await node.http.request(method, path, headers={"Authorization": f"Bearer {key}"})
            ).status_code
            for scope, key in keys.items()
        }

    if needed is None:
        assert {200} == {bare, wrong, *by_scope.values()}
        return
    assert (401, 401) == (bare, wrong)
    for scope, status in by_scope.items():
        assert (status == 403) == (scope not in (needed, "admin"))
        assert status != 401


async def test_key_is_described_to_its_holder(tmp_path: Path, keys: dict[str, str]) -> None:
    """Name, scopes and expiry; a node without keys allows everything."""
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        answer = await node.http.get("/v1/key", headers={"X-API-Key": keys["read"]})
        refused = await node.http.get("/v1/key")
    async with http_node(tmp_path) as node:
        open_to_all = await node.http.get("/v1/key")

    assert {"name": "reader", "scopes": ["read"], "expires_at": None} == answer.json()
    assert 401 == refused.status_code
    everything = {"name": None, "scopes": ["read", "write", "admin"], "expires_at": None}
    assert everything == open_to_all.json()


async def test_missing_or_unknown_key_is_refused_and_not_logged(
    tmp_path: Path, keys: dict[str, str]
) -> None:
    """The log contains the name of a key, never the key."""
    with logged() as log_lines:
        async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
            unknown = await node.http.get(
                "/v1/routes", headers={"Authorization": "Bearer guess-me"}
            )
            await node.http.get("/v1/routes", headers={"Authorization": f"Bearer {keys['read']}"})

    assert "Bearer" in unknown.headers["www-authenticate"]
    assert '"reader"' in log_lines.getvalue()
    assert "guess-me" not in log_lines.getvalue() + unknown.text
    assert keys["read"] not in log_lines.getvalue()


def test_changed_keys_file_is_reloaded(tmp_path: Path) -> None:
    """A new key is valid, a removed one is not; malformed content leaves the old keys valid."""
    path, first, second = tmp_path / "keys", make_key(), make_key()
    path.write_text(key_line(first, ["read"], "first"))
    ring = ApiKeys(path)
    path.write_text(key_line(second, ["read", "write"], "second"))
    os.utime(path, ns=(1, 1))

    assert ring.reload()
    assert not ring.reload()
    assert None is ring.find(first)
    found = ring.find(second)
    assert found is not None
    assert found.may("write")
    assert not found.may("admin")

    path.write_text("nonsense")
    with pytest.raises(ConfigError):
        ring.reload()
    assert "second" == getattr(ring.find(second), "name", None)
    assert not ring.reload()
    path.unlink()
    with pytest.raises(ConfigError):
        ring.reload(force=True)
    assert None is not ring.find(second)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        f"read {HASH}",
        f"reed {HASH} name",
        f"read,read {HASH} name",
        f"read {HASH[1:]} name",
        f"read {HASH} na/me",
        f"read {HASH} name more",
        f"read {HASH} name sets=shop-*",
        f"read {HASH} name expires=",
        f"read {HASH} name expires=tomorrow",
        f"read {HASH} name expires=2027-01-31",
        f"read {HASH} name expires=2027-01-31T00:00:00",
        f"read {HASH} name expires=2027-13-31T00:00:00Z",
        f"read {HASH} name expires=2027-01-31T00:00:00Z expires=2028-01-31T00:00:00Z",
        f"read {HASH} one\nwrite sha256:{HASH} other",
        f"read sha512:{HASH} name",
        f"read {HASH} na\x07me",
    ],
)
def test_malformed_keys_file_is_refused(text: str) -> None:
    """A typing error must not silently grant or deny access."""
    with pytest.raises(ConfigError):
        parse_keys(text)


def test_line_may_name_its_hash_and_its_expiry() -> None:
    """The plain hash of earlier releases stays valid; times are read with their zone."""
    plain, dated = parse_keys(
        f"read {HASH} old\nadmin sha256:{HASH[::-1]} new expires=2027-01-31T02:00:00+02:00"
    )

    assert (plain.key_hash.hex(), plain.expires_at) == (HASH, None)
    assert dated.expires_at == datetime(2027, 1, 31, tzinfo=UTC).timestamp()
    assert "expires=2027-01-31T00:00:00Z" in key_line(
        make_key(), ["read"], "n", datetime(2027, 1, 31, tzinfo=UTC)
    )


def test_key_is_valid_until_the_second_of_its_expiry(tmp_path: Path) -> None:
    path, key, now = tmp_path / "keys", make_key(), 1_000.0
    path.write_text(key_line(key, ["read"], "n", datetime.fromtimestamp(1_002, UTC)))
    ring = ApiKeys(path, clock=lambda: now)
    found = ring.find(key)

    assert found is not None
    assert ring.is_in_force(found)

    now = 1_002.0

    assert ring.find(key) is None
    assert not ring.is_in_force(found)
    assert ring.look_up(key) == found
    assert (1, 1, None) == (ring.status.keys, ring.status.expired, ring.status.next_expiry_at)


def test_rewrite_of_equal_size_and_time_is_noticed(tmp_path: Path) -> None:
    """Two changes may fall into one tick of the file system's clock."""
    path, first, second = tmp_path / "keys", make_key(), make_key()
    path.write_text(key_line(first, ["read"], "name"))
    os.utime(path, ns=(1, 1))
    ring = ApiKeys(path)
    path.write_text(key_line(second, ["read"], "name"))
    os.utime(path, ns=(1, 1))

    assert ring.reload()
    assert ring.find(first) is None


def test_key_with_other_scopes_is_not_in_force_any_more(tmp_path: Path) -> None:
    """A later expiry leaves it in force."""
    path, key = tmp_path / "keys", make_key()
    path.write_text(key_line(key, ["admin"], "name"))
    ring = ApiKeys(path)
    found = ring.find(key)
    assert found is not None
    path.write_text(key_line(key, ["admin"], "name", datetime.now(UTC) + timedelta(days=1)))
    ring.reload()

    assert ring.is_in_force(found)

    path.write_text(key_line(key, ["read"], "name"))
    ring.reload()

    assert not ring.is_in_force(found)


def test_key_that_comes_back_does_not_bring_back_what_it_began(tmp_path: Path) -> None:
    """Though nobody asked while it was away; other keys that stay go on."""
    path, key, other = tmp_path / "keys", make_key(), make_key()
    lines = [key_line(other, ["read"], "other"), key_line(key, ["admin"], "name")]
    path.write_text("\n".join(lines))
    ring = ApiKeys(path)
    before, stays = ring.find(key), ring.find(other)
    assert before is not None
    assert stays is not None
    for text in (lines[0], "\n".join(lines)):
        path.write_text(text)
        ring.reload()
    again = ring.find(key)

    assert again is not None
    assert not ring.is_in_force(before)
    assert ring.is_in_force(again)
    assert ring.is_in_force(stays)


def test_refused_and_exposed_files_are_in_the_status(tmp_path: Path) -> None:
    """The status says why the content of a file is not in force, and who else can read it."""
    path, key = tmp_path / "keys", make_key()
    add_line(path, key_line(key, ["read"], "name"))
    ring = ApiKeys(path)

    assert ("", "") == (ring.status.error, ring.status.warning)
    assert 0o600 == path.stat().st_mode & 0o777

    path.write_text("nonsense")
    path.chmod(0o644)
    with pytest.raises(ConfigError):
        ring.reload()

    assert "line 1" in ring.status.error
    assert "chmod 600" in ring.status.warning
    assert ring.find(key) is not None

    path.write_text(key_line(key, ["read"], "name"))
    ring.reload()

    assert ring.status.error == ""


async def test_expired_key_is_unauthorized_and_only_its_holder_learns_why(tmp_path: Path) -> None:
    path, expired, valid = tmp_path / "keys", make_key(), make_key()
    past = datetime(2020, 1, 1, tzinfo=UTC)
    lines = [key_line(expired, ["read"], "old", past), key_line(valid, ["read"], "new")]
    path.write_text("\n".join(lines))
    async with http_node(tmp_path, api_keys_file=path) as node:
        answers = [
            await node.http.get("/v1/routes", headers={"X-API-Key": key})
            for key in (expired, make_key(), valid)
        ]
        metrics = (await node.http.get("/metrics")).text

    assert [401, 401, 200] == [answer.status_code for answer in answers]
    assert {"unauthorized"} == {answer.json()["code"] for answer in answers[:2]}
    assert "expired" in answers[0].json()["detail"]
    assert "expired" not in answers[1].json()["detail"]
    assert "old" not in answers[0].text
    assert "synaptoroute_api_keys_expired 1.0" in metrics
    assert "synaptoroute_api_keys_file_valid 1.0" in metrics


async def test_revocation_ends_a_running_import(tmp_path: Path) -> None:
    """The key is asked again for each piece of a body; nothing of the import is visible."""
    path, key, other = tmp_path / "keys", make_key(), make_key()
    path.write_text(key_line(key, ["write"], "name"))
    headers = {"X-API-Key": key, "Content-Type": "application/x-ndjson"}

    async def lines() -> AsyncIterator[bytes]:
        for number in range(40):
            if number == 3:
                path.write_text(key_line(other, ["write"], "name"))
            if number > 3:
                await asyncio.sleep(0.05)
            yield b'{"name": "r%d", "utterances": ["text %d"]}\n' % (number, number)

    async with http_node(tmp_path, api_keys_file=path) as node, on_socket(node) as client:
        try:
            answer = await client.post("/v1/import", content=lines(), headers=headers)
            status = answer.status_code
        except httpx.TransportError:
            status = 0
        routes = node.router.status().routes

    assert status in (0, 401)
    assert 0 == routes


async def test_revocation_breaks_off_a_running_export(tmp_path: Path) -> None:
    """The connection of a stream ends when its key does."""
    path, key, other = tmp_path / "keys", make_key(), make_key()
    path.write_text(key_line(key, ["admin"], "name"))
    headers = {"X-API-Key": key}
    async with http_node(tmp_path, api_keys_file=path) as node, on_socket(node) as client:
        body = b"".join(
            b'{"name": "r%d", "utterances": ["t%d"], "payload": "%b"}\n' % (n, n, b"x" * 16_000)
            for n in range(1_000)
        )
        ndjson = {**headers, "Content-Type": "application/x-ndjson"}
        filled = await node.http.post("/v1/import", content=body, headers=ndjson)
        assert 200 == filled.status_code, filled.text

        async def export() -> None:
            async with client.stream("GET", "/v1/export", headers=headers) as answer:
                assert 200 == answer.status_code
                path.write_text(key_line(other, ["read"], "name"))
                await asyncio.sleep(0.8)
                async for _ in answer.aiter_bytes():
                    pass

        with pytest.raises(httpx.TransportError):
            await export()


async def test_new_key_takes_over_without_a_failed_request(tmp_path: Path) -> None:
    """Rotation: add the new key, switch the clients, remove the old key."""
    path, old, new = tmp_path / "keys", make_key(), make_key()
    lines = [key_line(old, ["read"], "app"), key_line(new, ["read"], "app")]
    path.write_text(lines[0])
    statuses: list[int] = []
    present = old

    async def ask(client: httpx.AsyncClient, rounds: asyncio.Event) -> None:
        while not rounds.is_set():
            answer = await client.get("/v1/routes", headers={"X-API-Key": present})
            statuses.append(answer.status_code)

    async with http_node(tmp_path, api_keys_file=path) as node, on_socket(node) as client:
        done = asyncio.Event()
        asking = asyncio.create_task(ask(client, done))
        path.write_text("\n".join(lines))
        await asyncio.sleep(1.0)
        present = new
        path.write_text(lines[1])
        await asyncio.sleep(1.0)
        done.set()
        await asking
        refused = await client.get("/v1/routes", headers={"X-API-Key": old})

    assert {200} == set(statuses)
    assert 401 == refused.status_code


@pytest.mark.parametrize("name", ["b ad", "", "a expires=2000-01-01T00:00:00Z", "a\nb", "x" * 65])
def test_line_of_a_malformed_name_is_not_made(name: str) -> None:
    """The message is about the name, not about what its second word would be in the file."""
    with pytest.raises(ConfigError, match="a name is 1 to 64 letters"):
        key_line(make_key(), ["read"], name)
