"""The dashboard with 100 nodes and 1,000 routes, of which one thread tells.

What a real fleet shows is tested elsewhere; here are the pages whose size follows the fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dashboard_double import EVENTS, LargeFleet, serve

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

NODES, ROUTES = 100, 1_000
PLACES = {
    "fleet": f".node >> nth={NODES - 1}",
    "routes/route-0500": ".utterances li",
    "traffic?range=7d": ".plot canvas",
    "activity": "#over-time canvas",
}
OpenPage = Callable[..., Any]
Audit = Callable[[Any], list[str]]
WATCH = """() => {
    window.moved = 0;
    new MutationObserver((all) => { window.moved += all.length; })
        .observe(document.querySelector(".nodes"), { childList: true });
}"""

WATCH_PULSE = """() => {
    window.said = [];
    const pulse = document.getElementById("pulse");
    const look = () => { if (!pulse.matches(".live")) window.said.push(pulse.textContent); };
    new MutationObserver(look)
        .observe(pulse, { childList: true, attributes: true, characterData: true, subtree: true });
}"""
COUNT_EVENT_LINES = """window.lines = 0;
new MutationObserver((all) => {
    for (const each of all.filter((one) => one.target.matches?.("ol.events")))
        window.lines += each.addedNodes.length;
}).observe(document, { childList: true, subtree: true });"""
MARK_CONTROLS = """() => {
    const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
        .filter((each) => !each.disabled && each.checkVisibility());
    for (const each of all) each.dataset.control = "1";
    return all.length;
}"""
NOT_REACHED = """[...document.querySelectorAll("[data-control]:not([data-reached])")]
    .map((each) => each.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def large() -> Iterator[tuple[LargeFleet, str]]:
    fleet = LargeFleet(NODES, ROUTES)
    with serve(fleet) as url:
        yield fleet, url


@pytest.mark.parametrize(("width", "scheme"), [(1360, "light"), (390, "dark")])
def test_pages_of_a_large_fleet_are_accessible(
    width: int, scheme: str, large: tuple[LargeFleet, str], open_page: OpenPage, audit: Audit
) -> None:
    page = open_page(large[1], width=width, color_scheme=scheme)
    found = []
    for place, wanted in PLACES.items():
        page.goto(f"{large[1]}/#/{place}")
        page.wait_for_selector(wanted, timeout=60_000)
        found += audit(page)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{place} is wider than the screen")

    assert [] == found, "\n".join(found)


def test_update_of_one_node_moves_no_card(
    large: tuple[LargeFleet, str], open_page: OpenPage
) -> None:
    """A card that is moved loses the focus, and all 100 are laid out anew."""
    fleet, url = large
    page = open_page(url)
    page.evaluate(WATCH)
    fleet.next_view()
    wanted = f".node[data-node='node-7'] dd:has-text('{10 + fleet.step}')"
    page.wait_for_selector(wanted, timeout=60_000)

    assert 0 == page.evaluate("window.moved")


def test_missed_answer_of_redis_makes_no_node_unknown(
    large: tuple[LargeFleet, str], open_page: OpenPage
) -> None:
    """One view without it is not shown; a lasting one is, and it ends at once."""
    fleet, url = large
    page = open_page(url)
    page.wait_for_selector("#pulse.live")
    page.evaluate(WATCH_PULSE)
    fleet.send_missed_answer()
    wanted = f".node[data-node='node-7'] dd:has-text('{10 + fleet.step}')"
    page.wait_for_selector(wanted, timeout=60_000)
    assert [] == page.evaluate("window.said")
    fleet.is_away = True
    fleet.send()
    page.wait_for_selector("#pulse:has-text('log away')", timeout=60_000)
    fleet.is_away = False
    fleet.send()
    page.wait_for_selector("#pulse.live", timeout=60_000)


def test_events_of_a_new_stream_are_drawn_together(
    large: tuple[LargeFleet, str], open_page: OpenPage
) -> None:
    """Hundreds come at once; a list that is drawn for each of them blocks the page."""
    page = open_page(large[1])
    page.add_init_script(COUNT_EVENT_LINES)
    page.goto(f"{large[1]}/?again#/activity")
    page.wait_for_selector(f"ol.events li:nth-child({EVENTS})", timeout=60_000)

    assert 10 * EVENTS > page.evaluate("window.lines")


def test_every_control_is_reached_by_the_keyboard(
    large: tuple[LargeFleet, str], open_page: OpenPage
) -> None:
    """Tab goes through all that can be used, in the order of the page."""
    page = open_page(large[1])
    for place, wanted in (("activity", "#over-time canvas"), ("traffic", ".plot canvas")):
        page.goto(f"{large[1]}/#/{place}")
        page.wait_for_selector(wanted, timeout=60_000)
        left = page.evaluate(MARK_CONTROLS)
        page.focus(".skip")
        for _ in range(left + 20):
            page.evaluate("document.activeElement.dataset.reached = '1'")
            page.keyboard.press("Tab")

        assert left > 20
        assert [] == page.evaluate(NOT_REACHED), place


def test_long_list_of_routes_is_shown_in_parts(
    large: tuple[LargeFleet, str], open_page: OpenPage
) -> None:
    """The search finds all; the focus goes to the first of the next part."""
    page = open_page(large[1])
    page.goto(f"{large[1]}/#/routes")
    page.wait_for_selector(".route-list .more", timeout=60_000)
    assert "1,000 routes" in page.inner_text("main")
    page.click(".route-list .more")
    assert "route-0200" in page.evaluate("document.activeElement.textContent")
    page.fill("#route-search", "route-0999 text 4")
    page.wait_for_selector(".route-list li:has-text('route-0999')", timeout=60_000)

    assert 1 == page.locator(".route-list li").count()


def test_alarms_tell_since_when_and_lead_to_the_sets(
    large: tuple[LargeFleet, str], open_page: OpenPage
) -> None:
    """One that is over says so until it is cleared; cleared ones are on the page Activity."""
    page = open_page(large[1])
    drift = page.locator(".alarm[data-code=drift]")
    assert "since" in drift.inner_text()
    assert "#/learn?set=support%401" in drift.locator("a").all()[0].get_attribute("href")
    assert "over; cleared soon" in page.inner_text(".alarm[data-code=lag]")
    page.goto(f"{large[1]}/#/activity")
    page.wait_for_selector("#alarm-list tr:has-text('node gone')", timeout=60_000)

    assert "cleared" in page.inner_text("#alarm-list tr:has-text('node gone')")
