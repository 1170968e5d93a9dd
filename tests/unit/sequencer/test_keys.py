"""Goal: keys of two namespaces never collide, and malformed URLs are refused."""

from __future__ import annotations

import pytest

from synaptoroute.errors import ConfigError
from synaptoroute.sequencer.client import Connector
from synaptoroute.sequencer.keys import META_FIELDS, Keys
from synaptoroute.sequencer.scripts import TEXTS, Script

pytestmark = pytest.mark.unit


def test_every_key_carries_the_namespace_as_hash_tag() -> None:
    """So one shard holds a namespace, and one ACL pattern covers it."""
    keys = Keys("prod-1")
    names = [keys.meta, keys.log(3), keys.bus, keys.positions(3), keys.nodes]
    names += [keys.heartbeats, keys.reports, keys.lease("beat"), keys.fence]

    assert all(name.startswith("sr:{prod-1}:") for name in names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("namespace", ["", "a b", "a}", "{a", "a:b", "*", "x" * 65, "é"])
def test_namespace_that_could_escape_is_refused(namespace: str) -> None:
    """Braces, colons and patterns could address keys of other clusters."""
    with pytest.raises(ConfigError):
        Keys(namespace)


@pytest.mark.parametrize("script", list(Script))
def test_script_declares_its_flags(script: Script) -> None:
    """The flags decide whether a script runs without memory or without replicas."""
    first = TEXTS[script].splitlines()[0]

    assert first in (b"#!lua", b"#!lua flags=no-writes", b"#!lua flags=allow-oom")


def test_founding_writes_every_field_of_the_header() -> None:
    """The documented fields are the fields that the founding script writes."""
    text = TEXTS[Script.OPEN].decode()

    assert all(f"'{field}'," in text for field in META_FIELDS)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1",
        "redis://",
        "redis://host:port",
        "redis://host/name",
        "redis://host/0?ssl_cert_reqs=none",
        "unix://",
        "redis+sentinel://host:1",
        "redis+sentinel://host:1/routes/x",
        "",
    ],
)
def test_url_of_unknown_form_is_refused(url: str) -> None:
    """A URL with an unknown part is refused."""
    with pytest.raises(ConfigError):
        Connector(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:p%40ss@host:6380/2",
        "rediss://[::1]:6380",
        "unix:///run/redis.sock",
        "redis+sentinel://one:26379,two/routes/1",
    ],
)
def test_label_names_the_server_without_its_password(url: str) -> None:
    """The label contains no credentials."""
    connector = Connector(url)

    assert "p%40ss" not in connector.label + repr(connector)
    assert connector.label.startswith(url.split(":")[0])
