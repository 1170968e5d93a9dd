"""API keys: scopes, log lines and reloading of the file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from http_node import http_node, logged
from synaptoroute.errors import ConfigError
from synaptoroute.web.api_keys import ApiKeys, key_line, make_key, parse_keys

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
    ],
)
def test_malformed_keys_file_is_refused(text: str) -> None:
    """A typing error must not silently grant or deny access."""
    with pytest.raises(ConfigError):
        parse_keys(text)
