"""A real browser, driven by Playwright, for the tests of the dashboard."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboard_fleet import FLAGS
from needs import lacking, require_chromium

LEFT_OUT = """(document.querySelector("main").innerText.split("\\n"))
    .filter((line) => ["null", "false", "undefined", "NaN"].includes(line.trim()))"""
"""Lines of a page that are the text of a value which should not be there."""
GRAVE = frozenset({"serious", "critical"})
OpenPage = Callable[..., Any]
SHOTS = os.environ.get("SYNAPTOROUTE_SCREENSHOTS")


@pytest.fixture
def open_page() -> Iterator[OpenPage]:
    """Open pages of one browser: ``open_page(url, width=1360)``; a page error fails the test."""
    if importlib.util.find_spec("playwright") is None:
        lacking("the package playwright")
    from playwright.sync_api import sync_playwright

    chromium = require_chromium()
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=FLAGS)

        def open_one(url: str, width: int = 1360, height: int = 900, **options: Any) -> Any:
            viewport = {"width": width, "height": height}
            page = browser.new_context(viewport=viewport, **options).new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on(
                "console",
                lambda said: errors.append(said.text) if "Content Security" in said.text else None,
            )
            page.goto(url)
            page.wait_for_selector('.node[data-node="node-2"]', timeout=30_000)
            return page

        yield open_one
        browser.close()
    assert [] == errors


@pytest.fixture
def shoot() -> Callable[[Any, str], None]:
    """Save a screenshot of a page to the folder ``SYNAPTOROUTE_SCREENSHOTS``, if it is set."""

    def keep(page: Any, name: str) -> None:
        if SHOTS:
            page.evaluate("document.getElementById('toast').classList.remove('shown')")
            page.wait_for_timeout(400)
            page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)

    return keep


FADES_NOT = """() => {
  for (const toast of document.querySelectorAll(".toast")) toast.style.transition = "none";
}"""
"""A message that fades has another contrast at each moment, so it comes and goes at once."""


@pytest.fixture
def audit() -> Callable[[Any], list[str]]:
    """Judge a page by axe-core: its serious violations, and values that are no text."""
    if importlib.util.find_spec("axe_playwright_python") is None:
        lacking("the package axe-playwright-python")
    from axe_playwright_python.sync_playwright import Axe

    def judge(page: Any) -> list[str]:
        page.evaluate(FADES_NOT)
        place = page.url.partition("#")[2]
        left_out = [f"{place} shows {each}" for each in page.evaluate(LEFT_OUT)]
        return left_out + [
            f"{place}: {each['id']}: {node['html'][:160]}"
            for each in Axe().run(page).response["violations"]
            if each["impact"] in GRAVE
            for node in each["nodes"][:3]
        ]

    return judge
