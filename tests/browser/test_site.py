"""The documentation site in a real browser: light, dark and on a phone.

`make docs-site` builds it; without a build the test makes one.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dashboard_fleet import FLAGS
from needs import lacking, require_chromium
from repository import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

SITE = ROOT / ".cache/site"
PAGES = ("index", "operations", "comparison", "reference/http-api", "reference/command-line")
VIEWS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
GRAVE = frozenset({"serious", "critical"})


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Serve the built site; return its address."""
    if not (SITE / "index.html").exists():
        if importlib.util.find_spec("sphinx") is None:
            lacking("the site and the packages that build it (make docs-site)")
        subprocess.run([sys.executable, str(ROOT / "docs/site/build.py")], check=True)
    handler = functools.partial(_Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if importlib.util.find_spec("playwright") is None:
        lacking("the package playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = require_chromium()
        started = playwright.chromium.launch(executable_path=str(chromium), args=FLAGS)
        yield started
        started.close()


@pytest.mark.parametrize("view", VIEWS)
def test_pages_are_whole_and_load_nothing_from_elsewhere(
    view: str, site: str, browser: Any
) -> None:
    """No error, no foreign request, nothing wider than the screen, no serious axe violation."""
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(**VIEWS[view])
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("request", lambda asked: wrong.append(asked.url) if site not in asked.url else None)
    page.on("response", lambda got: wrong.append(got.url) if got.status >= 400 else None)
    for name in PAGES:
        page.goto(f"{site}/{name}.html")
        page.wait_for_load_state("networkidle")
        wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        violations = Axe().run(page).response["violations"] if name in PAGES[:3] else []
        wrong += [f"{name} is wider than the screen"] if wide else []
        wrong += [
            f"{name}: {each['id']}: {each['nodes'][0]['html'][:200]}"
            for each in violations
            if each["impact"] in GRAVE
        ]
    context.close()

    assert "" == "\n".join(wrong)


def test_search_finds_a_setting(site: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{site}/index.html")
    page.fill("input[name=q]", "confidence_min")
    page.press("input[name=q]", "Enter")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    found = page.eval_on_selector_all("#search-results li a", "links => links.map(a => a.href)")
    page.close()

    assert any("accuracy" in link or "reference/" in link for link in found)
