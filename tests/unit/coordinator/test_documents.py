"""docs/coordinator.md against the code, and the small parts of the coordinator's door."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from synaptoroute.web.keys import ApiKey
from synaptoroute_coordinator.app.middleware import scope_needed
from synaptoroute_coordinator.app.sessions import Sessions, cookie_of
from synaptoroute_coordinator.config import ENV_PREFIX, CoordinatorConfig
from synaptoroute_coordinator.fleet.alarms import CODES
from synaptoroute_coordinator.fleet.events import Event
from synaptoroute_coordinator.reconciler.feed import QUEUE_MAX, Feed

pytestmark = pytest.mark.unit

GUIDE = (Path(__file__).parents[3] / "docs" / "coordinator.md").read_text(encoding="utf-8")


def test_every_setting_stands_in_the_guide() -> None:
    """Each variable, and none that is not there."""
    written = set(re.findall(rf"^\| `{ENV_PREFIX}(\w+)` \|", GUIDE, re.MULTILINE))

    assert {name.upper() for name in CoordinatorConfig.model_fields} == written


def test_every_alarm_stands_in_the_guide() -> None:
    """Each code has its line."""
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
    ],
)
def test_scopes(method: str, path: str, scope: str | None) -> None:
    """What is not known to be harmless needs more."""
    assert scope == scope_needed(method, path)


def test_session_ends() -> None:
    """By itself, and when it is closed."""
    key = ApiKey("ops", b"", frozenset({"admin"}))
    short, long = Sessions(0.0), Sessions(60.0)
    cookie = long.open(key)

    assert short.find(short.open(key)) is None
    assert key == long.find(cookie)

    long.close(cookie)

    assert long.find(cookie) is None
    assert "abc" == cookie_of(b"a=b; sr_session=abc; c=d")


async def test_watcher_that_does_not_read_loses_its_queue() -> None:
    """The coordinator's memory is not its watchers'."""
    feed = Feed()
    with feed.watch() as queue:
        for number in range(QUEUE_MAX + 1):
            feed.add(Event("a", "info", str(number)))

        assert not feed.is_watching(queue)
    assert ["255", "256"] == [each.event.message for each in feed.after(QUEUE_MAX - 1)]
