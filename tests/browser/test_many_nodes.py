"""The dashboard with 100 nodes and 1,000 routes, of which one thread tells.

What a real fleet shows is tested elsewhere; here are the pages whose size follows the fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dashboard_double import LargeFleet, serve

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
