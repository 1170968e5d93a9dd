"""The correction loop in a real browser: a miss is seen, added, previewed and answered everywhere.

Method: the example routes are imported, a question is asked that no route takes; then what the
page offers is used as a person would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from dashboard_fleet import Fleet, ask
from repository import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

MISSED = "where can I leave my bicycle when I come to see you"
SAID = "the headphones don't fit, how do I give them back"
REPEATED = [
    "is there a job for me at your company",
    "are you hiring people at your company",
    "do you have a job for a student at your company",
]
Shoot = Callable[[Any, str], None]
Audit = Callable[[Any], list[str]]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three nodes with the example routes, which keep unmatched queries."""
    started = Fleet(tmp_path_factory.mktemp("fleet"), settings={"unmatched_kept": "50"})
    try:
        started.start()
        examples = (ROOT / "examples" / "routes.yaml").read_bytes()
        answer = httpx.post(
            f"{started.nodes[0].url}/v1/import?ack=all",
            content=examples,
            headers={"Content-Type": "application/yaml"},
            timeout=60,
            trust_env=False,
        )
        assert 200 == answer.status_code, answer.text
        yield started
    finally:
        started.end()


def in_light_and_dark(page: Any, audit: Audit) -> list[str]:
    """Findings of axe-core in both schemes."""
    found = []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(300)  # colours change gradually
        found += [f"{scheme}: {each}" for each in audit(page)]
    return found


def test_settings_are_accessible_in_light_and_dark(
    fleet: Fleet, open_page: Callable[..., Any], audit: Audit
) -> None:
    """With a pattern that was tried, and its result."""
    assert fleet.coordinator is not None
    page = open_page(fleet.coordinator.url)
    page.goto(f"{page.url.partition('#')[0]}#/settings")
    page.wait_for_selector("#ignore", timeout=30_000)
    assert [] == in_light_and_dark(page, audit)


def test_miss_becomes_an_answer_on_every_node(
    fleet: Fleet, open_page: Callable[..., Any], shoot: Shoot, audit: Audit
) -> None:
    """Import, ask, see the miss, add it, preview, apply: three nodes answer at once.

    axe-core judges the page while it shows all that it can, in light and in dark.
    """
    assert fleet.coordinator is not None
    assert [None] * 3 == [ask(node, MISSED)["route"] for node in fleet.nodes]
    for index, text in enumerate(REPEATED):
        ask(fleet.nodes[index], text)
    page = open_page(fleet.coordinator.url)
    page.goto(f"{page.url.partition('#')[0]}#/learn")

    # The queue is switched on in the page, and somebody says what is right.
    page.click("#queue-on")
    page.wait_for_selector("text=Nothing waits for a review", timeout=15_000)
    said = httpx.post(
        f"{fleet.nodes[2].url}/v1/feedback?ack=all",
        json={"text": SAID, "route": "returns", "was": "stock-and-prices"},
        trust_env=False,
    )
    assert 200 == said.status_code, said.text
    page.reload()

    page.wait_for_selector(f"tr[data-item='{said.json()['id']}']", timeout=15_000)
    page.fill("#learn-text", MISSED)
    page.click("form.ask button[type=submit]")
    page.wait_for_selector(".tag:has-text('no route')", timeout=15_000)
    page.select_option("select[aria-label='Right route of the question']", "+")
    page.fill("input[aria-label^='Right route of the question: name']", "visits")
    page.click("#learn-add")
    page.check(f"tr[data-item='{said.json()['id']}'] input[type=checkbox]")
    page.click(f"tr[data-item='{said.json()['id']}'] button:has-text('Add')")
    cluster = page.locator(".clusters li", has_text="at your company").first
    cluster.locator("select").select_option("+")
    cluster.locator("input").fill("jobs")
    cluster.locator("button:has-text('Add')").click()

    page.click("#judge")
    page.wait_for_selector("svg.curves .curve", timeout=60_000)
    page.click("#preview")
    page.wait_for_selector("#effect >> text=Own utterances", timeout=60_000)
    effect = page.inner_text("#effect")
    assert "never" in page.inner_text("#changes")
    page.evaluate("scrollTo(0, 0)")
    shoot(page, "dashboard-learn")
    assert [] == in_light_and_dark(page, audit)
    page.click("#apply")
    page.wait_for_selector("text=answered on every node", timeout=30_000)
    shoot(page, "dashboard-learned")

    assert MISSED in effect
    answers = [[ask(node, text)["route"] for node in fleet.nodes] for text in (MISSED, SAID)]
    assert [["visits"] * 3, ["returns"] * 3] == answers
    routes = [
        httpx.get(f"{node.url}/v1/routes/visits", trust_env=False).json()["revision"]
        for node in fleet.nodes
    ]
    returns = httpx.get(f"{fleet.nodes[0].url}/v1/routes/returns", trust_env=False).json()
    # One write changed all of them.
    assert {returns["revision"]} == set(routes)
    left = httpx.get(f"{fleet.nodes[1].url}/v1/feedback", trust_env=False).json()
    assert [] == left["items"]
