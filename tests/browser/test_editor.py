"""The editors of routes and settings in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from dashboard_fleet import Fleet, ask

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

NOT = "I do not want to cancel my order"
NOISE = "> where is my parcel\nPlease cancle my order"
Shoot = Callable[[Any, str], None]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    started = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        started.start()
        yield started
    finally:
        started.end()


def read(fleet: Fleet, path: str) -> Any:
    return httpx.get(f"{fleet.nodes[2].url}{path}", trust_env=False).json()


def put_route(page: Any) -> None:
    """Fill every field of a new route."""
    page.fill("#name", "cancel")
    page.fill("#utterances", "Cancel my order\nPlease stop my order")
    page.fill("#description", "Cancel an order that was placed")
    page.fill("#negatives", f"{NOT}\n")
    page.fill("#confidence-min", "0.4")
    page.click("button[type=submit]")
    page.wait_for_selector("text=is on all 3 nodes", timeout=30_000)


def test_all_fields_of_a_route_are_written_and_kept(
    fleet: Fleet, open_page: Callable[..., Any], shoot: Shoot
) -> None:
    """A later change of one field keeps the others."""
    assert fleet.coordinator is not None
    page = open_page(fleet.coordinator.url)
    page.goto(f"{page.url.partition('#')[0]}#/routes/+")
    page.wait_for_selector("#utterances", timeout=30_000)
    put_route(page)
    stored = read(fleet, "/v1/routes/cancel")
    assert stored["description"] == "Cancel an order that was placed"
    assert stored["negatives"] == [NOT]
    assert stored["confidence_min"] == 0.4
    assert [ask(node, NOT)["route"] for node in fleet.nodes] == [None] * 3

    page.wait_for_selector("text=Must not get this route", timeout=15_000)
    assert "null" not in page.inner_text("main")
    page.click("button:has-text('Change')")
    shoot(page, "dashboard-editor")
    page.fill("#utterances", "Cancel my order\nPlease stop my order\nI changed my mind")
    page.click("button[type=submit]")
    page.wait_for_selector("text=3 utterances", timeout=30_000)
    changed = read(fleet, "/v1/routes/cancel")
    for name in ("description", "negatives", "confidence_min"):
        assert changed[name] == stored[name]


def test_settings_are_tried_and_written(
    fleet: Fleet, open_page: Callable[..., Any], shoot: Shoot
) -> None:
    """A malformed pattern is named; a good one is previewed, saved, and holds on every node."""
    assert fleet.coordinator is not None
    before = read(fleet, "/v1/settings")
    page = open_page(fleet.coordinator.url)
    page.goto(f"{page.url.partition('#')[0]}#/settings")
    page.wait_for_selector("#ignore", timeout=30_000)
    page.fill("#ignore", "(")
    page.fill("#texts", NOISE)
    page.click("#try")
    page.wait_for_selector("text=is not a pattern of RE2", timeout=15_000)
    page.fill("#ignore", "(?m)^>.*$")
    page.click("#try")
    page.wait_for_selector("#read", timeout=15_000)
    assert "parcel" not in page.inner_text("#read")
    page.fill("#confidence-min", "0.35")
    page.fill("#unmatched-share", "0.2")
    shoot(page, "dashboard-settings")
    page.click("button[type=submit]")
    page.wait_for_selector("text=The settings is on all 3 nodes", timeout=30_000)

    changed = read(fleet, "/v1/settings")
    assert changed["ignore"] == ["(?m)^>.*$"]
    assert (changed["confidence_min"], changed["expected_unmatched_share"]) == (0.35, 0.2)
    for name in ("ignore", "confidence_min", "expected_unmatched_share"):
        before.pop(name, None)
        changed.pop(name)
    assert changed == before
