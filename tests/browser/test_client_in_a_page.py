"""The JavaScript client in a page of another origin, in a real browser, with an API key."""

from __future__ import annotations

import importlib.util
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dashboard_fleet import FLAGS
from needs import lacking, require_chromium
from npm import install, run_npm
from processes import NodeProcess
from repository import ROOT
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

PROGRAM = """
async ({ url, apiKey }) => {
  const { Client, ClientError } = await import("/index.js");
  const client = new Client({ urls: url, apiKey, retry: { attemptsMax: 2, firstWaitMs: 10 } });
  const told = [];
  const note = async (work) => {
    try { told.push(await work()); } catch (error) {
      told.push(error instanceof ClientError ? error.code : `${error}`);
    }
  };
  await note(async () => (await client.putRoute({ name: "a", utterances: ["one"] })).created);
  await note(async () => (await client.query("one")).route);
  await note(async () => client.version !== undefined);
  await note(async () => (await client.getRoute("missing")).name);
  await note(async () => {
    const names = [];
    for await (const route of client.exportRoutes()) names.push(route.name);
    return names.join();
  });
  const other = new Client({ urls: url, apiKey: "sr_wrong", retry: { attemptsMax: 1 } });
  await note(async () => (await other.query("one")).route);
  return told;
}
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves the files of one folder."""

    def log_message(self, *_: Any) -> None:
        """Nothing to the terminal."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Origin of a server with the built client and an empty page."""
    folder = tmp_path_factory.mktemp("js") / "client"
    source = ROOT / "clients" / "js"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    install(folder)
    run_npm(folder, "run", "build")
    (folder / "dist" / "page.html").write_text("<!doctype html><title>page</title>")
    handler = partial(Quiet, directory=str(folder / "dist"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run_in_page(page_url: str, node: NodeProcess, key: str) -> list[Any]:
    if importlib.util.find_spec("playwright") is None:
        lacking("the package playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(require_chromium()), args=FLAGS)
        page = browser.new_page()
        page.goto(f"{page_url}/page.html")
        found: list[Any] = page.evaluate(PROGRAM, {"url": node.url, "apiKey": key})
        browser.close()
    return found


@pytest.mark.parametrize("is_allowed", [True, False])
def test_page_of_another_origin_uses_the_client(
    pages: str, tmp_path: Path, is_allowed: bool
) -> None:
    """An origin that is listed reads answers, versions and errors; another one gets nothing."""
    key = make_key()
    keys = tmp_path / "keys"
    keys.write_text(key_line(key, ["read", "write"], "page") + "\n")
    origin = pages if is_allowed else "https://app.example"
    settings = {"model": "test-hash-64", "api_keys_file": str(keys), "cors_origins": origin}
    node = NodeProcess(tmp_path / "node", settings).start()
    try:
        told = run_in_page(pages, node, key)
    finally:
        node.end()

    if is_allowed:
        assert [True, "a", True, "route_not_found", "a", "unauthorized"] == told
    else:
        refused = "connection_failed"
        assert [refused, refused, False, refused, refused, refused] == told
