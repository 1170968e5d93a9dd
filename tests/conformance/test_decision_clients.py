"""The real clients of OpenAI's decisions and System One, against a node process.

The table in docs/decisions-api.md says which clients, versions and cases these are.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from environments import LOCKS, run_program
from ports import free_port
from repository import ROOT
from synaptoroute.cli.processes import NodeProcess
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ROUTES = {
    "refund": ["I want my money back", "how do I get a refund"],
    "parcel": ["where is my parcel", "track my order"],
    # LiteLLM's tiers as routes.
    "SIMPLE": ["what is 1+1?", "hello there"],
    "COMPLEX": ["prove that there are infinitely many primes", "derive this theorem"],
}
TEXT = "where is my parcel"
FAR = "zebra quantum violin"


@dataclass(frozen=True)
class Target:
    """A node with two API keys."""

    url: str
    reader: str
    writer: str

    def query(self, text: str, routes: list[str]) -> dict[str, Any]:
        """Route a text among routes."""
        response = httpx.post(
            f"{self.url}/v1/query",
            json={"text": text, "routes": routes, "explain": True},
            headers={"x-api-key": self.reader},
        )
        found: dict[str, Any] = response.json()
        return found

    def run(self, name: str, program: str, *more: str) -> Any:
        """Run a program with this node's address and keys."""
        return run_program(name, program, [self.url, self.reader, *(more or (self.writer,))])


@contextmanager
def started(folder: Path, **settings: str) -> Iterator[Target]:
    """Run a node with the routes."""
    reader, writer, admin = make_key(), make_key(), make_key()
    keys = folder / "keys"
    lines = [
        key_line(key, [scope], scope)
        for key, scope in ((reader, "read"), (writer, "write"), (admin, "admin"))
    ]
    keys.write_text("\n".join(lines) + "\n")
    keys.chmod(0o600)
    own = {"database": str(folder / "node.sqlite"), "api_keys_file": str(keys), "lanes": "1"}
    process = NodeProcess(
        free_port(), {**own, "fit_confidence": "false", **settings}, folder / "node.log"
    )
    process.start()
    try:
        process.wait_ready()
        for name, utterances in ROUTES.items():
            httpx.put(
                f"{process.url}/v1/routes/{name}",
                json={"utterances": utterances},
                headers={"x-api-key": admin},
                timeout=30,
            ).raise_for_status()
        yield Target(process.url, reader, writer)
    finally:
        process.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with started(tmp_path_factory.mktemp("node")) as target:
        yield target


def check_answers(found: dict[str, dict[str, Any]], far: float) -> None:
    """Check what every client with one answer a case sees."""
    for name, case in found.items():
        assert 1.0 == pytest.approx(case["sum"]), name
        assert case["input_tokens"] > 3, name
    for name in ("string", "255"):
        assert ("parcel", 1.0) == (found[name]["choice"], found[name]["confidence"])
    assert 255 == found["255"]["values"]
    assert found["255"]["input_tokens"] > 500
    if "none" in found:
        assert ("none", far) == (found["none"]["choice"], found["none"]["confidence"])


def test_openai_and_langchain(node: Target) -> None:
    """Sync and async, strings and messages, typed values, limits, keys, and the error classes."""
    found = node.run("decisions", "decisions_openai.py")
    sync, other = found["openai"]["sync"], found["openai"]["async"]
    p_none = node.query(FAR, ["refund", "parcel"])["p_none"]
    cases = ("string", "messages", "none", "boolean", "several", "255")

    check_answers({name: sync[name] for name in cases}, p_none)
    assert {name: sync[name] for name in cases} == {name: other[name] for name in cases}
    assert sync["boolean"]["choice"] is False
    assert ["route", "other"] == sync["several"]["answers"]
    assert {"parcel"} == set(other["many"])
    assert re.fullmatch(r"\d+\.\d+", sync["version"])
    invalid = ["UnprocessableEntityError", 422, "invalid_query", "invalid_request_error"]
    for name in ("256", "one", "no_text", "no_question", "image"):
        assert invalid == sync[name], name
    assert ["NotFoundError", 404, "model_not_found", "invalid_request_error"] == sync["model"]
    unknown = ["AuthenticationError", 401, "unauthorized", "authentication_error"]
    assert unknown == sync["wrong_key"]
    assert ["PermissionDeniedError", 403, "forbidden", "permission_error"] == sync["no_scope"]
    for name, answers in found["langchain"].items():
        assert [["parcel", 1.0]] * 2 == answers, name


def test_systemone_client(node: Target) -> None:
    """Sync and async; a state of every kind; errors with their details."""
    found = node.run("decisions", "decisions_systemone.py")
    sync = found["sync"]
    cases = ("string", "object", "array", "conversation", "two", "255")

    check_answers({name: sync[name] for name in cases}, 0.0)
    assert found["async"] == {name: sync[name] for name in cases}
    assert {"parcel"} == {sync[name]["choice"] for name in cases}
    assert ("default", "synaptoroute") == (sync["string"]["model"], sync["array"]["model"])
    probability, choice = sync.pop("sides")
    assert "parcel" == choice
    assert 0.5 < probability < 1.0
    statuses = {name: case[0] for name, case in sync.items() if isinstance(case, list)}
    assert {
        "256": 422,
        "noul": 422,
        "model": 404,
        "no_text": 422,
        "wrong_key": 401,
        "no_scope": 403,
    } == statuses
    assert "at most 255" in sync["256"][1]
    assert "both sides" in sync["noul"][1]


def test_litellm_functions_and_router(node: Target) -> None:
    """Both functions under three prefixes, sync and async; the router asks for the tier."""
    found = node.run("decisions", "decisions_litellm.py")

    for prefix in ("typesafe/", "hosted_vllm/", "openai/"):
        forms = found[prefix]
        for name in ("string", "object", "array"):
            assert ["parcel", "parcel"] == [each[0] for each in forms[f"systemone {name}"]]
        assert [["parcel", 1.0, 6]] * 2 == forms["decisions string"]
        assert ["parcel", 1.0] == forms["255"][:2]
        assert 0.5 < forms["sides"] < 1.0
        # LiteLLM's class of a 422 is that of a 400.
        assert ["BadRequestError", 400] == forms["256"]
        assert ["NotFoundError", 404] == forms["model"]
        assert ["AuthenticationError", 401] == forms["wrong_key"]
        assert 403 == forms["no_scope"][1]
    assert 1 == len({found[prefix]["sides"] for prefix in ("typesafe/", "openai/")})
    assert ["small", "large"] == list(found["router"].values())


def test_semantic_router_decision_router(node: Target) -> None:
    """Its utterances are ignored where the set has the route; its 'none' takes what is left."""
    found = node.run("semantic-router", "decisions_semantic_router.py")
    far = node.query(FAR, ["refund", "parcel"])["p_none"]

    assert found["sync"] == found["async"]
    assert ["parcel", "refund", "none"] == [name for name, _ in found["sync"]]
    assert far == found["sync"][2][1]
    assert ["parcel", 1.0] == found["255"]
    for name, status in (("256", 422), ("wrong_key", 401), ("model", 404)):
        assert f"systemone {status}" in found[name]


def test_overload_is_a_rate_limit_to_openai(tmp_path: Path) -> None:
    """A real node with a queue of one query, kept busy by others."""
    with started(tmp_path, queue_requests_max="1", embedding_cache_rows="0") as target:
        is_over = threading.Event()

        def flood(number: int) -> None:
            headers = {"x-api-key": target.reader, "cache-control": "no-cache"}
            with httpx.Client(base_url=target.url, headers=headers) as client:
                while not is_over.is_set():
                    client.post("/v1/query", json={"text": f"{number} " + "some words " * 200})

        floods = [threading.Thread(target=flood, args=(number,)) for number in range(3)]
        for each in floods:
            each.start()
        try:
            found = target.run("decisions", "decisions_openai.py", "overload")
        finally:
            is_over.set()
            for each in floods:
                each.join()
    assert ["RateLimitError", 429, "overloaded", "rate_limit_error"] == found["refused"]
    assert int(found["retry_after"]) >= 1


def test_table_of_clients_names_the_locked_versions() -> None:
    """docs/decisions-api.md."""
    text = (ROOT / "docs/decisions-api.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([\d.]+) \|", text, re.MULTILINE))
    locked = {}
    for name in ("decisions", "semantic-router"):
        for line in (LOCKS / f"{name}.in").read_text().split():
            package, _, version = line.partition("==")
            locked[package] = version
    assert json.dumps(locked, sort_keys=True) == json.dumps(rows, sort_keys=True)
