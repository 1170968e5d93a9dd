"""docs/coordinator.md against the code; scopes, sessions and the event feed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from synaptoroute.web.api_keys import ApiKey
from synaptoroute_coordinator.app.runtime import Sessions, cookie_of, scope_needed
from synaptoroute_coordinator.config import ENV_PREFIX, CoordinatorConfig
from synaptoroute_coordinator.events import CODES, QUEUE_MAX, Event, EventFeed

pytestmark = pytest.mark.unit

GUIDE = (Path(__file__).parents[3] / "docs" / "coordinator.md").read_text(encoding="utf-8")


def test_guide_lists_every_setting() -> None:
    """No setting is missing, and none is listed that does not exist."""
    written = set(re.findall(rf"^\| `{ENV_PREFIX}(\w+)` \|", GUIDE, re.MULTILINE))

    assert {name.upper() for name in CoordinatorConfig.model_fields} == written


def test_guide_lists_every_alarm() -> None:
    assert set(CODES) <= set(re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE))


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/", None),
        ("GET", "/metrics", None),
        ("GET", "/v1/cluster", "read"),
        ("POST", "/v1/query", "read"),
        ("PUT", "/v1/routes/a", "write"),
        ("POST", "/v1/actions/trim", "admin"),
        ("GET", "/v1/actions", "read"),
        ("POST", "/v1/unknown", "write"),
        ("POST", "/v1/feedback", "write"),
        ("GET", "/v1/feedback", "admin"),
        ("POST", "/v1/feedback/resolve", "admin"),
        ("POST", "/v1/revisions", "write"),
        ("POST", "/v1/revisions/preview", "admin"),
        ("GET", "/v1/unmatched/clusters", "admin"),
        ("POST", "/v1/unmatched/dismiss", "admin"),
        ("PUT", "/v1/settings", "admin"),
        ("GET", "/v1/settings", "read"),
    ],
)
def test_scope_of_each_endpoint(method: str, path: str, scope: str | None) -> None:
    """An unknown endpoint needs the scope of a write."""
    assert scope == scope_needed(method, path)


def test_session_ends_when_it_expires_or_is_closed() -> None:
    key = ApiKey("ops", b"", frozenset({"admin"}))
    short, long = Sessions(0.0, lambda _: True), Sessions(60.0, lambda _: True)
    cookie = long.open(key)

    assert short.find(short.open(key)) is None
    assert key == long.find(cookie)

    long.close(cookie)

    assert long.find(cookie) is None
    assert "abc" == cookie_of(b"a=b; sr_session=abc; c=d")


async def test_subscriber_that_does_not_read_is_dropped() -> None:
    feed = EventFeed()
    with feed.subscribe() as queue:
        for number in range(QUEUE_MAX + 1):
            feed.add(Event("a", "info", str(number)))

        assert not feed.is_subscribed(queue)
    assert ["255", "256"] == [each.event.message for each in feed.after(QUEUE_MAX - 1)]
