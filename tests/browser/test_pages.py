"""Every page of the dashboard: whole, readable by everybody, on a phone and in the dark.

Method: a fleet with the example routes and clients that ask it all the time; axe-core judges
each page in light, in dark and on a phone; pictures are kept for the documents.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from dashboard_fleet import Fleet, put
from encoders import second_model
from repository import ROOT
from synaptoroute.importers import read_labels
from synaptoroute.server.documents import load_routes_file

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

PAGES = {
    "fleet": ".chart circle",
    "sets": "text=No alias yet",
    "routes/returns": ".utterances li",
    "routes/+": "#utterances",
    "query": "#query-text",
    "conflicts": "#least",
    "unmatched": "td.said",
    "learn": ".clusters li",
    "traffic": ".plot canvas",
    "settings": "#ignore",
    "encoder": "#presets td",
    "activity": "#over-time canvas",
}
OUTSIDE = """[...document.querySelectorAll("nav a:not([hidden])")]
    .filter((each) => each.getBoundingClientRect().right > innerWidth)
    .map((each) => each.textContent)"""
"""Links to pages that are beyond the edge of the screen."""
SHOTS = os.environ.get("SYNAPTOROUTE_SCREENSHOTS")
Shoot = Callable[[Any, str], None]
OpenPage = Callable[..., Any]
Audit = Callable[[Any], list[str]]


def queries() -> list[tuple[str, str | None]]:
    """Return the example queries with their routes."""
    found = read_labels("queries.txt", (ROOT / "examples" / "queries.txt").read_bytes())
    return [(each.text, each.route) for each in found]


@contextmanager
def asked(fleet: Fleet) -> Iterator[list[str]]:
    """Send the example queries to every node while the block runs; yields the failures."""
    ended, failed = threading.Event(), list[str]()

    def run(index: int) -> None:
        texts = itertools.cycle([text for text, _ in queries()])
        pauses = itertools.cycle([0.03, 0.05, 0.02, 0.08, 0.04])
        with httpx.Client(base_url=fleet.nodes[index].url, trust_env=False, timeout=20) as client:
            while not ended.wait(next(pauses)):
                text = f"{next(texts)} {'please' if next(pauses) > 0.04 else ''}"
                answer = client.post("/v1/query", json={"text": text})
                if answer.status_code != 200:
                    failed.append(answer.text)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(fleet.nodes))]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet with the example routes, under load, with a second encoder."""
    settings = {"next_model": str(second_model()), "unmatched_kept": "50"}
    duties = {"audit_seconds": "60", "scrub_seconds": "3600"}
    started = Fleet(tmp_path_factory.mktemp("fleet"), settings, duties)
    try:
        started.start()
        routes = load_routes_file(ROOT / "examples" / "routes.yaml")
        for index, route in enumerate(routes):
            put(started.nodes[index % 3], route.name, list(route.utterances))
        with asked(started) as failed:
            yield started
        assert [] == failed
    finally:
        started.end()


def visit(page: Any, place: str) -> None:
    """Go to a page and wait until it is loaded."""
    page.goto(f"{page.url.partition('#')[0]}#/{place}")
    page.wait_for_selector(PAGES[place], timeout=30_000)


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("light", 1360, "light"),
        pytest.param("dark", 1360, "dark", marks=pytest.mark.accept),
        ("phone", 390, "light"),
    ],
)
def test_every_page_is_accessible(
    fleet: Fleet,
    open_page: OpenPage,
    shoot: Shoot,
    audit: Audit,
    name: str,
    width: int,
    scheme: str,
) -> None:
    """axe-core finds no serious violation, and nothing is wider than the screen.

    Every page can be reached without scrolling sideways, and charts tell their numbers as tables.
    """
    assert fleet.coordinator is not None
    page = open_page(fleet.coordinator.url, width=width, color_scheme=scheme)
    if SHOTS:
        time.sleep(6)  # the curves of the pictures need points
    found, wide = [], []
    for place in PAGES:
        visit(page, place)
        if place == "query":
            page.fill("#query-text", "I'd like to send my headphones back")
            page.click("form button[type=submit]")
            page.wait_for_selector(".scores", timeout=20_000)
        if place == "conflicts":
            page.fill("#least", "0.6")
            page.wait_for_selector(".pair", timeout=20_000)
        if place == "traffic":
            page.click(".as-table summary >> nth=0")
            page.wait_for_selector(".as-table tbody tr", timeout=20_000)
        found += audit(page)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(place)
        wide += page.evaluate(OUTSIDE)
        shoot(page, f"dashboard-{place.replace('/', '-').replace('+', 'new')}-{name}")

    assert [] == found, "\n".join(found)
    assert [] == wide


def test_dashboard_can_be_used_by_keyboard_alone(fleet: Fleet, open_page: OpenPage) -> None:
    """Skip link, slash for search, Enter to submit; the focus is always visible."""
    assert fleet.coordinator is not None
    page = open_page(fleet.coordinator.url)
    page.keyboard.press("Tab")

    assert "Skip to the content" == page.evaluate("document.activeElement.textContent")

    visit(page, "query")
    page.keyboard.press("Escape")
    page.focus("#main")
    page.keyboard.press("/")
    page.keyboard.type("where is my order")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer h2", timeout=20_000)

    assert "order-status" == page.text_content(".answer h2")


def test_unmatched_query_becomes_a_route(fleet: Fleet, open_page: OpenPage) -> None:
    """A query to a node appears in the dashboard, one click from a new route."""
    assert fleet.coordinator is not None
    said = "do you sell aquarium fish in the shop"
    httpx.post(f"{fleet.nodes[1].url}/v1/query", json={"text": said}, trust_env=False)
    page = open_page(fleet.coordinator.url)
    visit(page, "unmatched")
    page.click(f"tr:has-text('{said}') button")
    page.wait_for_selector("#utterances", timeout=10_000)

    assert said == page.input_value("#utterances")


def test_encoder_is_changed_in_the_page(fleet: Fleet, open_page: OpenPage, shoot: Shoot) -> None:
    """Encoded, tried, switched and switched back by clicks; no query fails meanwhile."""
    assert fleet.coordinator is not None
    page = open_page(fleet.coordinator.url)
    visit(page, "encoder")
    serving = page.get_attribute(".encoder:has(.tag.ok)", "data-encoder")
    other = page.get_attribute(".encoder:not(:has(.tag.ok))", "data-encoder")
    page.click(f'.encoder[data-encoder="{other}"] button:has-text("Encode all texts")')
    page.wait_for_selector("text=ready to switch to", timeout=60_000)
    page.fill("#trial-texts", "\n".join(f"{text} => {route or ''}" for text, route in queries()))
    page.click("button:has-text('Try')")
    page.wait_for_selector(".compare", timeout=60_000)
    shoot(page, "dashboard-encoder-trial")
    for fingerprint in (other, serving):
        card = page.locator(f'.encoder[data-encoder="{fingerprint}"]')
        card.locator("summary").click()
        card.locator("button:has-text('Switch to this encoder')").click()
        page.fill("#typed-name", str(page.text_content("dialog[open] label code")))
        page.click("dialog[open] button[type=submit]")
        page.wait_for_selector(
            f'.encoder[data-encoder="{fingerprint}"]:has(.tag.ok)', timeout=60_000
        )
    fleet.until(lambda seen: all(node["health"] == "ok" for node in seen["nodes"]))
