"""Route sets in a real browser: from a wrong answer to a promoted set, and back.

Method: three nodes with the example routes in a set that an alias names.  All that changes is
changed in the page; the nodes are asked over HTTP what they answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from dashboard_fleet import Fleet
from repository import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

WRONG = "where can I leave my bicycle when I come to see you"
"""A query that belongs to ``talk-to-a-person``, and gets no route from the example routes."""
RIGHT = {"I want to send this back": "returns", "I forgot my password": "sign-in"}
Shoot = Callable[[Any, str], None]
Audit = Callable[[Any], list[str]]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three nodes; the alias ``support`` names the set ``support@1``, which has two tests."""
    started = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        started.start()
        send(started, "POST", "/v1/import", (ROOT / "examples" / "routes.yaml").read_bytes())
        send(started, "POST", "/v1/sets/default/fork", {"as": "support@1"})
        tests = [{"text": text, "route": route} for text, route in RIGHT.items()]
        send(started, "PUT", "/v1/sets/support%401/tests", {"tests": tests})
        send(started, "PUT", "/v1/aliases/support", {"set": "support@1"})
        yield started
    finally:
        started.end()


def send(fleet: Fleet, method: str, path: str, body: Any) -> Any:
    """Send a write to a node and wait until all nodes have it."""
    content = (
        {"content": body, "headers": {"Content-Type": "application/yaml"}}
        if isinstance(body, bytes)
        else {"json": body}
    )
    url = f"{fleet.nodes[0].url}{path}?ack=all"
    answer = httpx.request(method, url, timeout=60, trust_env=False, **content)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def answers(fleet: Fleet, text: str, name: str = "support") -> set[tuple[str | None, str]]:
    """Route and set of the answers of all nodes."""
    found = set()
    # The node that took the write shows it; ``ack=all`` says of the others that they have it.
    shown = httpx.get(f"{fleet.nodes[0].url}/v1/settings", trust_env=False).headers["SR-Version"]
    for node in fleet.nodes:
        url = f"{node.url}/v1/sets/{name.replace('@', '%40')}/query"
        headers = {"SR-Min-Version": shown}
        answer = httpx.post(url, json={"text": text}, headers=headers, trust_env=False)
        assert answer.status_code == 200, answer.text
        found.add((answer.json()["route"], answer.json()["route_set"]))
    return found


def go(page: Any, place: str) -> None:
    page.goto(f"{page.url.partition('#')[0]}#/{place}")


def in_every_look(page: Any, audit: Audit) -> list[str]:
    """Findings of axe-core in light, in dark and on a phone, and what is wider than a phone."""
    found = []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(300)  # colours change gradually
        found += [f"{scheme}: {each}" for each in audit(page)]
    size = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 844})
    found += [f"phone: {each}" for each in audit(page)]
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append(f"phone: {page.url.partition('#')[2]} is wider than the screen")
    page.set_viewport_size(size)
    return found


def test_wrong_answer_becomes_a_promoted_draft(
    fleet: Fleet, open_page: Callable[..., Any], shoot: Shoot, audit: Audit
) -> None:
    """Asked, kept as a test, mended in a draft, compared, promoted with evidence, rolled back."""
    assert fleet.coordinator is not None
    assert {(None, "support@1")} == answers(fleet, WRONG)
    page = open_page(fleet.coordinator.url)
    page.select_option("#set", "support")
    go(page, "query?set=support")
    page.fill("#query-text", WRONG)
    page.click("form.ask button[type=submit]")
    page.wait_for_selector("#judgement option[value='talk-to-a-person']", state="attached")
    assert "bicycle" not in page.url
    page.select_option("#right-route", "talk-to-a-person")
    page.click("#add-test")
    page.wait_for_selector("#toast:has-text('The test is on all 3 nodes')", timeout=15_000)
    found = in_every_look(page, audit)
    shoot(page, "sets-playground")
    page.click("#fix")
    page.fill("#asked-text", "support@2")
    page.click("dialog[open] button[type=submit]")

    # The draft: the correction is there, previewed, and applied.
    page.wait_for_selector("#changes li:has-text('where can I leave my bicycle')", timeout=30_000)
    assert "set=support%402" in page.url
    page.click("#preview")
    page.wait_for_selector("#effect >> text=Own utterances", timeout=60_000)
    page.click("#apply")
    page.wait_for_selector("text=answered on every node", timeout=30_000)
    assert {("talk-to-a-person", "support@2")} == answers(fleet, WRONG, "support@2")
    assert {(None, "support@1")} == answers(fleet, WRONG)
    page.click("a:has-text('Run the tests')")
    page.click("#run-tests:not([disabled])")
    page.wait_for_selector("text=3 of 3 answered right", timeout=30_000)
    found += in_every_look(page, audit)
    shoot(page, "sets-tests")

    go(page, "compare?set=support%402")
    page.wait_for_selector(".tag:has-text('1 fixed')", timeout=30_000)
    page.wait_for_selector(".tag:has-text('none broken')")
    found += in_every_look(page, audit)
    shoot(page, "sets-compare")
    page.click("a:has-text('Promote support@2 for support')")
    page.fill("#promote-note", "Arrival – «where is it» is a question about an order")
    page.fill("#min-accuracy", "100")
    page.click("#promote")
    page.wait_for_selector("#promote-outcome .tag:has-text('promoted')", timeout=30_000)
    assert "of 3 tests right, 66.7 % before" in page.inner_text("#promote-outcome")
    assert {("talk-to-a-person", "support@2")} == answers(fleet, WRONG)
    page.click(".changes summary:has-text('Evidence')")
    assert "«where is it» is a question" in page.inner_text(".changes")
    found += in_every_look(page, audit)
    shoot(page, "sets-alias")

    page.click("button:has-text('Roll back to this')")
    page.click("dialog[open] button[type=submit]")
    page.wait_for_selector(".changes b:has-text('support@2 → support@1')", timeout=30_000)
    assert {(None, "support@1")} == answers(fleet, WRONG)
    assert [] == found, "\n".join(found)


def test_worse_draft_is_refused_with_its_failures(
    fleet: Fleet, open_page: Callable[..., Any], shoot: Shoot
) -> None:
    """The gate names the test that the draft breaks; the alias stays."""
    assert fleet.coordinator is not None
    send(fleet, "POST", "/v1/sets/support%401/fork", {"as": "worse@1"})
    page = open_page(fleet.coordinator.url)
    before = answers(fleet, "I forgot my password")
    go(page, "routes/sign-in?set=worse%401")
    page.click("summary:has-text('Delete the route')")
    page.click("button:has-text('Delete …')")
    page.fill("#typed-name", "something else")
    page.click("dialog[open] button[type=submit]")
    page.wait_for_selector("dialog[open] .wrong:has-text('not the same')")
    page.fill("#typed-name", "sign-in")
    page.click("dialog[open] button[type=submit]")
    page.wait_for_selector("text=sign-in was deleted", timeout=15_000)
    page.wait_for_selector("text=Choose a route to read or change it")
    go(page, "alias/support?to=worse%401")
    page.wait_for_selector("#promote-set")
    assert "worse@1" == page.input_value("#promote-set")
    page.click("#promote")
    page.wait_for_selector("#promote-outcome .wrong", timeout=30_000)
    shoot(page, "sets-refused")

    assert "I forgot my password" in page.inner_text("#promote-outcome tr.worse")
    assert before == answers(fleet, "I forgot my password")


def test_change_is_reverted_from_the_history(
    fleet: Fleet, open_page: Callable[..., Any], shoot: Shoot, audit: Audit
) -> None:
    """With its note, and what it was before and after."""
    assert fleet.coordinator is not None
    send(fleet, "POST", "/v1/sets/support%401/fork", {"as": "edited@1"})
    page = open_page(fleet.coordinator.url)
    go(page, "routes/returns?set=edited%401")
    page.click("button.primary:has-text('Change')")
    lines = page.input_value("#utterances")
    # The live preview begins with the tests of the set, and follows the text.
    page.wait_for_selector("td:has-text('I want to send this back')", timeout=15_000)
    page.fill("#utterances", f"{lines}\nmay I bring it back to the shop")
    page.fill("#texts", "may I bring it back to the shop")
    page.wait_for_selector("th:has-text('Draft')", timeout=15_000)
    assert "bring it back" not in page.evaluate("JSON.stringify(localStorage)")
    page.fill("#note", "Shops take things back, too")
    shoot(page, "sets-editor")
    page.click("form button[type=submit]")
    page.wait_for_selector("text=13 utterances", timeout=30_000)
    page.click("a:has-text('History')")
    page.wait_for_selector("text=“Shops take things back, too”", timeout=15_000)
    page.click(".changes summary")
    assert "may I bring it back to the shop" in page.inner_text(".difference .new")
    found = in_every_look(page, audit)
    shoot(page, "sets-history")
    page.click("button:has-text('Revert')")
    page.fill("#typed-name", str(page.text_content("dialog[open] label code")))
    page.click("dialog[open] button[type=submit]")
    page.wait_for_selector("#toast:has-text('The revert is on all 3 nodes')", timeout=30_000)
    path = "/v1/sets/edited%401/routes/returns"
    stored = httpx.get(f"{fleet.nodes[2].url}{path}", trust_env=False).json()

    assert lines.split("\n") == stored["utterances"]
    assert [] == found, "\n".join(found)


def test_link_to_a_query_is_answered_by_the_set_that_it_names(
    fleet: Fleet, open_page: Callable[..., Any]
) -> None:
    """The set, the node and the query are in the address; the payload is shown."""
    assert fleet.coordinator is not None
    send(fleet, "POST", "/v1/sets/support%401/fork", {"as": "linked@1"})
    body = {"utterances": ["Is the link there?"], "payload": {"queue": "links"}}
    send(fleet, "PUT", "/v1/sets/linked%401/routes/links", body)
    page = open_page(fleet.coordinator.url)
    go(page, "query?set=linked%401&node=node-2&text=Is+the+link+there%3F")
    page.wait_for_selector(".answer h2:has-text('links')", timeout=20_000)

    assert "linked@1" == page.input_value("#set")
    assert "node-2" == page.input_value("#query-node")
    assert '"queue": "links"' in page.inner_text(".answer pre")


def test_disagreement_with_a_shadow_becomes_an_utterance(
    fleet: Fleet, open_page: Callable[..., Any], shoot: Shoot, audit: Audit
) -> None:
    """Counted on every node, added up, shown side by side, and taken into the shadow."""
    assert fleet.coordinator is not None
    send(fleet, "POST", "/v1/sets/support%401/fork", {"as": "shaded@1"})
    send(fleet, "POST", "/v1/sets/shaded%401/fork", {"as": "shaded@2"})
    route = {"name": "talk-to-a-person", "utterances": [WRONG]}
    send(fleet, "POST", "/v1/sets/shaded%402/revisions", {"routes": [route]})
    url = f"{fleet.nodes[0].url}/v1/sets/shaded%401/settings"
    settings = httpx.get(url, trust_env=False).json()
    send(fleet, "PUT", "/v1/sets/shaded%401/settings", {**settings, "feedback": {}})
    send(
        fleet,
        "PUT",
        "/v1/aliases/shaded",
        {"set": "shaded@1", "shadow": "shaded@2", "shadow_share": 1.0},
    )
    assert {(None, "shaded@1")} == answers(fleet, WRONG, "shaded")
    answers(fleet, "I forgot my password", "shaded")
    page = open_page(fleet.coordinator.url)
    go(page, "alias/shaded")
    page.wait_for_selector("#disagreements tr:has-text('bicycle')", timeout=30_000)
    assert "50.0 % of 6 queries" in page.inner_text("section.card:has(#disagreements)")
    found = in_every_look(page, audit)
    shoot(page, "sets-shadow")
    page.click("#disagreements tr:has-text('bicycle') button:has-text('talk-to-a-person')")
    page.wait_for_selector("#changes li:has-text('bicycle')", timeout=30_000)

    assert "set=shaded%402" in page.url
    assert [] == found, "\n".join(found)


def test_text_is_erased_from_every_set(fleet: Fleet, open_page: Callable[..., Any]) -> None:
    """Only after the word is typed; the page says what had the text."""
    assert fleet.coordinator is not None
    said = "Ann Smith wants to see somebody"
    for name in ("erased%401", "erased%402"):
        send(fleet, "PUT", f"/v1/sets/{name}", {})
        body = {"utterances": [said, "I want to see somebody"]}
        send(fleet, "PUT", f"/v1/sets/{name}/routes/visits", body)
    page = open_page(fleet.coordinator.url)
    go(page, "activity")
    page.click("summary:has-text('Erase texts')")
    page.fill("#erase-texts", said)
    page.click("button:has-text('Erase …')")
    page.fill("#typed-name", "erase")
    page.click("dialog[open] button[type=submit]")
    page.wait_for_selector("text=2 utterances", timeout=30_000)
    left = [
        httpx.get(f"{fleet.nodes[0].url}/v1/sets/{name}/routes/visits", trust_env=False).json()
        for name in ("erased%401", "erased%402")
    ]

    assert [["I want to see somebody"]] * 2 == [route["utterances"] for route in left]


def test_set_is_deleted_only_with_its_name(
    fleet: Fleet, open_page: Callable[..., Any], shoot: Shoot, audit: Audit
) -> None:
    """A set that an alias names is not offered."""
    assert fleet.coordinator is not None
    send(fleet, "PUT", "/v1/sets/unused", {})
    page = open_page(fleet.coordinator.url)
    go(page, "sets")
    page.click("summary:has-text('Delete a set')")
    offered = page.locator("#delete-set option").all_inner_texts()
    page.select_option("#delete-set", "unused")
    page.click("button:has-text('Delete …')")
    page.fill("#typed-name", "unused")
    page.click("dialog[open] button[type=submit]")
    page.wait_for_selector("#delete-set option:has-text('unused')", state="detached")
    found = in_every_look(page, audit)
    shoot(page, "sets-sets")
    left = httpx.get(f"{fleet.nodes[1].url}/v1/sets", trust_env=False).json()["sets"]

    assert "support@1" not in offered
    assert "default" not in offered
    assert "unused" not in {each["name"] for each in left}
    assert [] == found, "\n".join(found)
