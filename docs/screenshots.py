"""Take the pictures of the documents from the running product: ``python docs/screenshots.py``.

Starts ``synaptoroute up`` with the example routes, asks it the example queries and some that have
no route, opens the dashboard in the system's Chromium and writes docs/images.  No picture is made
or changed by hand.  `make screenshots` calls this.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs/images"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
LIGHT, DARK, PHONE = "light", "dark", "phone"
VIEWS = ((LIGHT, LIGHT, 1200), (DARK, DARK, 1200), (PHONE, LIGHT, 390))
"""Name of the view, colour scheme, width in pixels."""
SETTLE_MS = 9_000
"""The curves of the first page need points."""
TESTS = {
    "where can I park my car when I come to see you": "talk-to-a-person",
    "I'd like to send my headphones back": "returns",
    "the site does not let me in": "sign-in",
    "where is my order": "order-status",
    "will it rain in Lisbon tomorrow": None,
}
UNMATCHED = [
    f"{verb} {what}"
    for verb in ("do you sell", "can I buy", "I am looking for")
    for what in ("a gift card", "gift cards for friends", "a voucher as a present")
]


@contextmanager
def cluster() -> Iterator[tuple[str, str]]:
    """Run three nodes and a coordinator; yield the addresses of the front port and dashboard."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["-c", "from synaptoroute.cli import main; main()", "up", "--port", "0"]
        process = subprocess.Popen(
            [sys.executable, *command, "--data", folder],
            env={**os.environ, "SYNAPTOROUTE_UNMATCHED_KEPT": "100"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield _addresses(process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def _addresses(process: subprocess.Popen[str]) -> tuple[str, str]:
    printed = ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if "Press Ctrl-C" in line:
            front = re.search(r"Serving on (\S+)\.", printed)
            dashboard = re.search(r"dashboard (\S+)", printed)
            if front and dashboard:
                return front[1], dashboard[1]
    raise SystemExit(f"the cluster did not start:\n{printed}")


def call(front: str, method: str, path: str, body: Any) -> dict[str, Any]:
    """Send a request; a write waits for all nodes."""
    request = urllib.request.Request(
        f"{front}/v1/{path}{'' if path.endswith('query') else '?ack=all'}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "SR-Note": "Visitors ask where to go"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return dict(json.load(response))


def ask(front: str, text: str) -> dict[str, Any]:
    """Route a text."""
    return call(front, "POST", "query", {"text": text})


def draft(front: str) -> None:
    """Make two sets, the second one better at the tests of both, and promote it."""
    call(front, "POST", "sets/default/fork", {"as": "support@1"})
    tests = [{"text": text, "route": route} for text, route in TESTS.items()]
    call(front, "PUT", "sets/support@1/tests", {"tests": tests})
    call(front, "PUT", "aliases/support", {"set": "support@1"})
    call(front, "POST", "sets/support@1/fork", {"as": "support@2"})
    learned = {"name": "talk-to-a-person", "utterances": ["Where can I park when I visit you?"]}
    call(front, "POST", "sets/support@2/revisions", {"routes": [learned]})
    gate = {"min_accuracy": 0.9, "max_regressions": 0}
    call(front, "PUT", "aliases/support", {"set": "support@2", "gate": gate})


@contextmanager
def asked(front: str) -> Iterator[None]:
    """Ask example queries all the time."""
    lines = (ROOT / "examples/queries.txt").read_text(encoding="utf-8").splitlines()
    texts = itertools.cycle([line.split("\t")[0] for line in lines if line and line[0] != "#"])
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.02):
            ask(front, next(texts))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def keep(page: Page, name: str, *, is_whole: bool = True) -> None:
    """Write a picture, with as many colours as a page of text needs."""
    page.wait_for_timeout(500)
    shot = Image.open(io.BytesIO(page.screenshot(full_page=is_whole)))
    small = shot.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
    small.save(IMAGES / f"{name}.png", optimize=True)


def take(page: Page, dashboard: str, suffix: str) -> None:
    """Take the pictures of one view of the dashboard."""
    page.goto(f"{dashboard}/#/fleet")
    page.wait_for_selector('.node[data-node="node-2"]', timeout=30_000)
    # A new cluster has no log at first; that alarm stays until it has been over for a while.
    page.wait_for_selector(".alarm", state="detached", timeout=90_000)
    page.wait_for_timeout(SETTLE_MS)
    keep(page, f"dashboard-fleet-{suffix}", is_whole=suffix != PHONE)
    if suffix != LIGHT:
        return
    page.goto(f"{dashboard}/#/query")
    page.fill("#query-text", "I'd like to send my headphones back")
    page.click("form button[type=submit]")
    page.wait_for_selector(".scores", timeout=20_000)
    keep(page, "dashboard-query-light")
    page.goto(f"{dashboard}/#/routes/returns")
    page.wait_for_selector(".utterances li", timeout=20_000)
    keep(page, "dashboard-route-light")
    page.goto(f"{dashboard}/#/learn")
    page.wait_for_selector(".clusters li", timeout=20_000)
    keep(page, "dashboard-learn-light", is_whole=False)
    page.goto(f"{dashboard}/#/traffic")
    page.wait_for_selector(".legend-cell", timeout=20_000)
    keep(page, "dashboard-traffic-light", is_whole=False)
    page.goto(f"{dashboard}/#/compare?set=support%402")
    page.wait_for_selector(".compare", timeout=20_000)
    keep(page, "dashboard-compare-light", is_whole=False)
    page.goto(f"{dashboard}/#/alias/support")
    page.click("summary:has-text('Evidence')")
    keep(page, "dashboard-alias-light", is_whole=False)


def main() -> None:
    """Take all pictures."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        raise SystemExit("this machine lacks Chromium")
    with cluster() as (front, dashboard), sync_playwright() as playwright:
        for text in UNMATCHED:
            ask(front, text)
        draft(front)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with asked(front):
            for suffix, scheme, width in VIEWS:
                context = browser.new_context(
                    viewport={"width": width, "height": 860}, color_scheme=scheme
                )
                take(context.new_page(), dashboard, suffix)
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
