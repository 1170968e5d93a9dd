"""The coordinator over three real nodes, and its dashboard in a real browser.

Method: a private Valkey, three node processes, one coordinator, Debian's Chromium driven
by Playwright.  Damage is done from outside: a float is overwritten in a node's memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dashboard_fleet import Fleet, ask, put, wait_ready
from processes import CoordinatorProcess, NodeProcess

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

ROUTES = {
    "refunds": ["I want my money back", "When will I get my refund?", "Please refund the fee"],
    "order-status": ["Where is my parcel?", "Track my order", "My package has not come"],
    "sign-in": ["I forgot my password", "I cannot log in", "Reset my password"],
}
Shoot = Callable[[Any, str], None]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One fleet for all tests of this module; each test leaves it intact."""
    started = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        started.start()
        for name, utterances in ROUTES.items():
            put(started.nodes[0], name, utterances)
        yield started
    finally:
        started.end()


@pytest.fixture
def page(fleet: Fleet, open_page: Callable[..., Any]) -> Any:
    """A page that shows the fleet."""
    assert fleet.coordinator is not None
    return open_page(fleet.coordinator.url)


def test_route_added_in_the_page_is_answered_by_every_node(
    fleet: Fleet, page: Any, shoot: Shoot
) -> None:
    """Entered in the form, previewed, saved, and matched by all nodes."""
    page.goto(f"{page.url.partition('#')[0]}#/routes/+")
    page.fill("#name", "coffee")
    page.fill("#utterances", "The coffee machine is broken\nWho repairs the espresso machine?")
    page.fill("#texts", "our espresso machine does not work\nwhere is my parcel")
    page.click("#try")
    page.wait_for_selector("tr.changed", timeout=15_000)
    shoot(page, "dashboard-preview")
    page.click("button[type=submit]")
    page.wait_for_selector("text=coffee is on all 3 nodes", timeout=15_000)
    answers = [ask(node, "our espresso machine does not work") for node in fleet.nodes]

    assert ["coffee"] * 3 == [answer["route"] for answer in answers]
    assert 1 == len({answer["score"] for answer in answers})

    page.goto(f"{page.url.partition('#')[0]}#/query")
    page.fill("#query-text", "our espresso machine does not work")
    page.click("#ask-all")
    page.wait_for_selector("text=the same answer everywhere", timeout=15_000)
    page.click("form button[type=submit]")
    page.wait_for_selector(".scores", timeout=15_000)
    shoot(page, "dashboard-playground")


SAID = "tell Quentin Featherstonehaugh where the espresso machine is"


def test_query_of_the_playground_is_kept_nowhere(fleet: Fleet, page: Any) -> None:
    """Not in the browser, not in an address, not in a log, an event or a database.

    The texts that nodes or a review queue keep are another setting, which is off here.
    """
    assert fleet.coordinator is not None
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{page.url.partition('#')[0]}#/query")
    page.fill("#query-text", SAID)
    page.click("form button[type=submit]")
    page.wait_for_selector("#exchange", timeout=15_000)
    assert SAID in page.inner_text("#exchange")
    page.click("#ask-all")
    page.wait_for_selector("text=the same answer everywhere", timeout=15_000)
    page.goto(f"{page.url.partition('#')[0]}#/traffic")
    page.wait_for_selector("h1:has-text('Traffic')", timeout=15_000)
    kept = page.evaluate(KEPT_IN_THE_BROWSER)
    view = fleet.coordinator.http("GET", "/v1/events?once=true").text
    forwarded = fleet.coordinator.http("GET", "/v1/tests")
    actions = fleet.coordinator.http("GET", "/v1/actions").text
    held = [str(path) for path in fleet.folder.rglob("*") if path.is_file() and holds(path)]

    assert [] == [text for text in (*asked, kept, view, actions) if "Featherstonehaugh" in text]
    assert [] == held
    assert "no-store" == forwarded.headers["cache-control"]


KEPT_IN_THE_BROWSER = """async () => JSON.stringify([
    { ...localStorage }, { ...sessionStorage }, document.cookie, location.href, document.title,
    history.state, await caches.keys(), (await indexedDB.databases()).map((each) => each.name)])"""


def holds(path: Path) -> bool:
    return b"Featherstonehaugh" in path.read_bytes()


WRONG_PLACES = {
    "routes?set=..": "“..” cannot be the name of a route set",
    "routes?set=%2e": "“.” cannot be the name of a route set",
    "query?set=a%2Fb": "“a/b” cannot be the name of a route set",
    "settings?set=%252e%252e": "“%2e%2e” cannot be the name of a route set",
    "alias/..": "“..” cannot be the name of an alias",
    "alias/%2e%2e%2froutes": "“../routes” cannot be the name of an alias",
    "routes/..": "The route .. does not exist",
    "routes/%": "The route % does not exist",
    "constructor": "nodes agree",
    "traffic?range=constructor": "Last hour",
}
"""Addresses that somebody may have made, and what the page says."""


def test_names_in_an_address_reach_no_other_set(fleet: Fleet, page: Any) -> None:
    """A name that is none is told, and sends no request to another path."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition("/v1/")[2]))
    base = page.url.partition("#")[0]
    for place, said in WRONG_PLACES.items():
        asked.clear()
        page.goto(f"{base}#/{place}")
        page.wait_for_selector(f"main:has-text('{said}')", timeout=15_000)
        if "cannot be" in said:
            allowed = ("cluster", "log", "propagation", "sets?", "aliases?", "events")
            assert [] == [path for path in asked if path and not path.startswith(allowed)], place


def test_vote_is_removed_only_with_the_name_of_the_node(fleet: Fleet, page: Any) -> None:
    """Apart from the harmless actions; another name changes nothing."""
    page.goto(f"{page.url.partition('#')[0]}#/activity")
    page.select_option("#action-node", "node-1")
    assert not page.is_visible("button:has-text('Remove vote')")
    page.click("summary:has-text('Remove, replace, trim')")
    page.click("button:has-text('Remove vote')")
    page.fill("#typed-name", "node-2")
    page.click("dialog[open] button[type=submit]")
    page.wait_for_selector("dialog[open] .wrong:has-text('not the same')")
    page.click("dialog[open] button:has-text('Cancel')")
    page.wait_for_selector("dialog[open]", state="detached")

    assert fleet.coordinator is not None
    assert 3 == len(fleet.coordinator.cluster()["log"]["voters"])


def test_key_for_some_sets_is_told_why_it_sees_nothing(fleet: Fleet, page: Any) -> None:
    session = {
        "needs_key": True,
        "name": "support",
        "scopes": [],
        "grants": ["read@support-*"],
        "namespace": "",
    }
    page.route("**/v1/session", lambda route: route.fulfill(json=session))
    page.reload()
    page.wait_for_selector("#no-access", timeout=15_000)

    assert "read@support-*" in page.inner_text("#no-access")
    assert page.is_visible("#leave")
    assert not page.is_visible("#set-nav")


def test_killed_node_turns_red_and_green_again(fleet: Fleet, page: Any, shoot: Shoot) -> None:
    """Red after the kill, without a reload, and green once the node is back."""
    node = fleet.nodes[2]
    page.wait_for_selector('.node[data-node="node-2"][data-health="ok"]', timeout=20_000)
    node.kill()
    page.wait_for_selector('.node[data-node="node-2"][data-health="bad"]', timeout=20_000)
    shoot(page, "dashboard-node-gone")
    node.launch()
    page.wait_for_selector('.node[data-node="node-2"][data-health="ok"]', timeout=60_000)
    wait_ready(node)


def test_flipped_float_in_memory_is_found_and_repaired(
    fleet: Fleet, page: Any, shoot: Shoot
) -> None:
    """One bit of one row is flipped from outside; an audit finds it and it is repaired."""
    fleet.until(lambda seen: all(node["health"] == "ok" for node in seen["nodes"]))
    victim = fleet.nodes[1]
    assert 0 < poke(victim.process.pid, vector_of(fleet, "refunds"))
    page.wait_for_selector('.node[data-node="node-1"]:not([data-health="ok"])', timeout=40_000)
    shoot(page, "dashboard-repair")
    page.wait_for_selector('.node[data-node="node-1"][data-health="ok"]', timeout=60_000)
    sums = {checksum(node) for node in fleet.nodes}
    page.goto(f"{page.url.partition('#')[0]}#/activity")
    page.wait_for_selector("text=repair:", timeout=10_000)
    shoot(page, "dashboard-activity")

    assert 1 == len(sums)


def checksum(node: NodeProcess) -> str:
    """Return the SHA-256 of the tensor of a node in memory."""
    answer = httpx.get(f"{node.url}/-/digest", trust_env=False)
    return str(answer.json()["tensor_sha256"])


def vector_of(fleet: Fleet, route: str) -> bytes:
    """Return the first vector of a route from the database."""
    import sqlite3

    path = fleet.nodes[0].folder / "node.sqlite"
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = "SELECT s.vector FROM slot s JOIN route r USING (route_id) WHERE r.name = ?"
        vector: bytes = reader.execute(query, (route,)).fetchone()[0]
    finally:
        reader.close()
    return vector


def poke(pid: int, vector: bytes) -> int:
    """Flip a bit of every copy of a vector in a process' memory; give their number.

    The sign of the second float: a copy is found by its bytes, as a cosmic ray would not.
    """
    flipped = vector[:7] + bytes([vector[7] ^ 0x80])
    poked = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "r+b", 0) as memory:
        for line in maps:
            words = line.split()
            if not words[1].startswith("rw") or (len(words) > 5 and words[5].startswith("/")):
                continue
            start, end = (int(part, 16) for part in words[0].split("-"))
            try:
                memory.seek(start)
                held = memory.read(end - start)
            except (OSError, OverflowError, ValueError):
                continue
            at = held.find(vector)
            while at >= 0:
                memory.seek(start + at)
                memory.write(flipped)
                poked += 1
                at = held.find(vector, at + 1)
    return poked


def test_backup_is_restored_with_the_same_digest(fleet: Fleet) -> None:
    """Taken from the running fleet and restored into a new database, bit by bit the same."""
    assert fleet.coordinator is not None
    fleet.until(lambda seen: all(node["health"] == "ok" for node in seen["nodes"]))
    fleet.coordinator.order_backup()
    backups = fleet.folder / "backups"
    fleet.coordinator.until(lambda: next(backups.glob("[!.]*.json")))
    manifest = next(backups.glob("[!.]*.json"))
    said = json.loads(manifest.read_text())
    database = fleet.folder / "restored.sqlite"
    run = [sys.executable, "-m", "synaptoroute.cli.child", str(os.getpid()), "restore"]
    done = subprocess.run(
        [*run, str(manifest), "--database", str(database), "--json"],
        capture_output=True,
        check=True,
        text=True,
    )
    shown = json.loads(done.stdout)
    logged = httpx.get(f"{fleet.nodes[0].url}/-/digest", trust_env=False).json()
    restored = NodeProcess(
        fleet.folder / "alone", {"model": "all-MiniLM-L6-v2-int8", "database": str(database)}
    )
    try:
        restored.launch()
        wait_ready(restored)
        answer = ask(restored, "I want my money back")
        tensor = checksum(restored)
    finally:
        restored.end()

    assert said["version"] == shown["version"]
    assert logged["digest"] == shown["digest"]
    assert (logged["tensor_sha256"], "refunds") == (tensor, answer["route"])


def imports(node: NodeProcess) -> list[str]:
    """Return the open imports of a node."""
    found = httpx.get(f"{node.url}/-/imports", trust_env=False).json()["imports"]
    return [each["import_id"] for each in found]


def test_abandoned_import_is_aborted(fleet: Fleet) -> None:
    """An import whose client disconnects is staged on all nodes, then dropped."""
    url = fleet.nodes[0].url
    assert fleet.coordinator is not None
    staged: list[list[str]] = []

    def half() -> Iterator[bytes]:
        assert fleet.coordinator is not None
        for number in range(600):
            route = {"name": f"i{number}", "utterances": [f"text {number}"]}
            yield json.dumps(route).encode() + b"\n"
        fleet.coordinator.until(lambda: all(imports(node) for node in fleet.nodes))
        staged.extend(imports(node) for node in fleet.nodes)
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        httpx.post(
            f"{url}/v1/import?import_id=half",
            content=half(),
            headers={"Content-Type": "application/x-ndjson"},
            trust_env=False,
            timeout=60,
        )
    fleet.coordinator.until(lambda: not any(imports(node) for node in fleet.nodes))
    record = fleet.coordinator.http("GET", "/v1/actions").json()["actions"]

    assert [1, 1, 1] == [len(found) for found in staged]
    assert ("coordinator itself", "abort-import") in {
        (each["actor"], each["action"]) for each in record
    }


def test_page_works_below_a_prefix(fleet: Fleet, open_page: Callable[..., Any]) -> None:
    """Files, calls and the stream of events keep the prefix, with and without a slash after it."""
    assert fleet.coordinator is not None
    below = CoordinatorProcess(
        fleet.folder / "below",
        fleet.coordinator.redis_url,
        {**fleet.coordinator.settings, "root_path": "/ops/fleet"},
    ).start()
    try:
        for ending in ("", "/"):
            page = open_page(f"{below.url}/ops/fleet{ending}")
            page.wait_for_selector("#pulse.live")
            asked = page.evaluate(
                "performance.getEntriesByType('resource').map((e) => new URL(e.name).pathname)"
            )

            assert {"/ops/fleet/assets/app.js", "/ops/fleet/v1/session"} <= set(asked)
            assert [] == [path for path in asked if not path.startswith("/ops/fleet/")]
    finally:
        below.end()
