"""The MCP server with the SDK's own client: over stdio and HTTP, on nodes and on a file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from environments import python_of, run_program
from ports import free_port
from repository import ROOT
from synaptoroute.cli.processes import NodeProcess, stop_all
from synaptoroute.cli.route_files import read_route_file
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

ROUTES = ROOT / "examples/routes.yaml"
NAME = "integrations"
START = ["-c", "from synaptoroute.cli import main; main()", "mcp"]
READING = {"route", "explain", "list_routes"}
WRITING = {"add_utterances", "put_route", "delete_route", "feedback"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def variables(api_key: str = "") -> dict[str, str]:
    key = {"SYNAPTOROUTE_API_KEY": api_key} if api_key else {}
    return {"PYTHONPATH": str(ROOT / "node"), **key}


def converse(calls: list[tuple[str, dict[str, Any]]], **plan: Any) -> dict[str, Any]:
    """Run the SDK's client."""
    asked = [{"tool": tool, "arguments": arguments} for tool, arguments in calls]
    found: dict[str, Any] = run_program(
        NAME, "mcp_client.py", [json.dumps({**plan, "calls": asked})]
    )
    return found


@dataclass
class Nodes:
    """Two nodes on their own with the same routes and keys.

    Attributes:
        keys: An API key by its scope.
    """

    processes: list[NodeProcess]
    keys: dict[str, str]
    keys_file: Path
    urls: list[str] = field(default_factory=list)

    def stdio(self, scope: str, calls: list[tuple[str, dict[str, Any]]], **plan: Any) -> Any:
        """Start the server for one conversation."""
        addresses = ",".join(plan.pop("urls", self.urls))
        command = [str(python_of(NAME)), *START, "--url", addresses]
        environment = variables(self.keys[scope])
        return converse(calls, command=command, environment=environment, **plan)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    scopes = {"read": ["read"], "write": ["read", "write"], "admin": ["admin"]}
    keys = {name: make_key() for name in scopes}
    keys_file = folder / "keys"
    keys_file.write_text(
        "\n".join(key_line(key, scopes[name], f"{name}-key") for name, key in keys.items())
    )
    processes = [
        NodeProcess(
            free_port(),
            {
                "database": str(folder / f"{number}.sqlite"),
                "api_keys_file": str(keys_file),
                "fit_confidence": "false",
                "lanes": "1",
            },
            folder / f"{number}.log",
        )
        for number in range(2)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.wait_ready()
            answer = httpx.post(
                f"{process.url}/v1/import?replace=true",
                json={"routes": [r.model_dump() for r in read_route_file(ROUTES).routes]},
                headers={"Authorization": f"Bearer {keys['admin']}"},
                timeout=60,
            )
            assert answer.is_success, answer.text
        yield Nodes(processes, keys, keys_file, [process.url for process in processes])
    finally:
        stop_all(processes)


@contextmanager
def http_server_of(nodes: Nodes, keys_file: Path, log: Path) -> Iterator[str]:
    """An MCP server over HTTP whose own key allows writes; ends normally at SIGTERM."""
    port = free_port()
    command = [str(python_of(NAME)), *START, "--url", nodes.urls[0], "--transport", "http"]
    command += ["--port", str(port), "--api-keys-file", str(keys_file)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=variables(nodes.keys["write"]), stderr=file)
        try:
            wait_listening(port, process)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.terminate()
            assert 0 == process.wait(10), log.read_text()


@pytest.fixture(scope="module")
def http_server(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Its address and its log."""
    log = tmp_path_factory.mktemp("mcp") / "mcp.log"
    with http_server_of(nodes, nodes.keys_file, log) as url:
        yield url, log


def wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/", timeout=1)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the server does not listen")


def test_tools_answer_as_the_node_does(nodes: Nodes) -> None:
    """A read key lists the reading tools alone, and their answers are those of the API."""
    text = "I'd like to send my headphones back"
    found = nodes.stdio(
        "read",
        [
            ("route", {"text": text}),
            ("route", {"text": "write a poem about the sea"}),
            ("explain", {"text": text, "limit": 2, "routes": ["returns", "refunds"]}),
            ("list_routes", {"limit": 2}),
            ("list_routes", {"limit": 2, "after": "change-order"}),
            ("put_route", {"name": "x", "utterances": ["y"]}),
        ],
    )
    node = httpx.post(
        f"{nodes.urls[0]}/v1/query",
        json={"text": text},
        headers={"Authorization": f"Bearer {nodes.keys['read']}"},
    ).json()
    first, none, explained, page, after, refused = found["answers"]

    assert READING == set(found["tools"])
    assert all(tool["read_only"] for tool in found["tools"].values())
    routed = first["structured"]
    assert ("returns", node["confidence"]) == (routed["route"], routed["confidence"])
    assert node["payload"] == routed["payload"]
    assert routed == json.loads(first["text"])
    assert None is none["structured"]["route"]
    assert ["returns", "refunds"] == [
        each["route"] for each in explained["structured"]["candidates"]
    ]
    assert 0 <= explained["structured"]["p_none"] <= 1
    names = [each["name"] for each in page["structured"]["routes"]]
    assert names == sorted(names)
    assert 3 == len(page["structured"]["routes"][0]["examples"])
    assert "change-order" < after["structured"]["routes"][0]["name"]
    assert (True, "forbidden") == (refused["is_error"], refused["structured"]["code"])


def test_write_key_lists_the_tools_that_change_routes(nodes: Nodes) -> None:
    """Their changes are there for the next call; refusals have the node's code."""
    text = "is there a place for my bicycle"
    found = nodes.stdio(
        "write",
        [
            ("put_route", {"name": "bicycles", "utterances": [text], "payload": {"tool": "b"}}),
            ("route", {"text": text}),
            ("add_utterances", {"name": "bicycles", "utterances": ["may I bring my bike in"]}),
            ("list_routes", {"after": "bicycle", "limit": 1}),
            ("delete_route", {"name": "bicycles"}),
            ("delete_route", {"name": "bicycles"}),
            ("feedback", {"text": text, "route": "returns"}),
        ],
        urls=nodes.urls[:1],
    )
    put, routed, added, listed, deleted, again, said = found["answers"]

    assert READING | WRITING == set(found["tools"])
    assert {"put_route", "delete_route"} == {
        name for name, tool in found["tools"].items() if tool["destructive"]
    }
    assert "applied" == put["structured"]["status"] == deleted["structured"]["status"]
    assert ("bicycles", {"tool": "b"}) == (
        routed["structured"]["route"],
        routed["structured"]["payload"],
    )
    assert 1 == added["structured"]["count"]
    assert 2 == listed["structured"]["routes"][0]["utterances_count"]
    assert "route_not_found" == again["structured"]["code"]
    assert "feedback_off" == said["structured"]["code"]


def test_next_node_is_asked_if_one_does_not_answer(nodes: Nodes) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    text = {"text": "where is my order"}
    found = nodes.stdio("read", [("route", text), ("route", text)], urls=[dead, nodes.urls[1]])
    lost = nodes.stdio("read", [("route", text)], urls=[dead])

    assert ["order-status"] * 2 == [each["structured"]["route"] for each in found["answers"]]
    assert lost["answers"][0]["is_error"]
    assert READING == set(lost["tools"])


def test_http_needs_a_key_and_answers_by_its_scopes(nodes: Nodes, http_server: Any) -> None:
    """Both revisions of the protocol; the caller's key decides what is listed and allowed."""
    url, log = http_server
    put = ("put_route", {"name": "x", "utterances": ["y"]})
    answers = {
        (scope, mode): converse(
            [("route", {"text": "where is my order"}), put],
            url=url,
            headers={"Authorization": f"Bearer {nodes.keys[scope]}"},
            mode=mode,
        )
        for scope, mode in (("read", "auto"), ("read", "legacy"), ("admin", "auto"))
    }
    reader = answers["read", "auto"]

    assert READING == set(reader["tools"]) == set(answers["read", "legacy"]["tools"])
    assert reader["protocol"] != answers["read", "legacy"]["protocol"]
    assert "order-status" == reader["answers"][0]["structured"]["route"]
    assert "forbidden" == reader["answers"][1]["structured"]["code"]
    assert READING | WRITING == set(answers["admin", "auto"]["tools"])
    assert "applied" == answers["admin", "auto"]["answers"][1]["structured"]["status"]
    assert not any(key in log.read_text() for key in nodes.keys.values())


def test_http_refuses_other_sites_hosts_keys_and_large_bodies(
    nodes: Nodes, http_server: Any
) -> None:
    url, log = http_server
    accept = {"Accept": "application/json, text/event-stream"}
    key = {"Authorization": f"Bearer {nodes.keys['read']}"}

    def status(headers: dict[str, str], body: Any = INITIALIZE) -> int:
        return httpx.post(url, json=body, headers={**accept, **headers}).status_code

    assert 200 == status(key)
    assert 200 == status({**key, "Origin": "http://localhost:6274"})
    assert 401 == status({})
    assert 401 == status({"Authorization": "Bearer guess-me-if-you-can"})
    assert 403 == status({**key, "Origin": "https://evil.example"})
    assert 421 == status({**key, "Host": "evil.example"})
    assert 405 == httpx.get(url, headers={**accept, **key}).status_code
    assert 413 == status(key, {**INITIALIZE, "params": {"x": "x" * 5_000_000}})
    assert "guess-me" not in log.read_text()


def test_key_that_is_taken_away_is_refused_at_once(nodes: Nodes, tmp_path: Path) -> None:
    """The file of keys is read again; a slow head of a request does not hold others up."""
    file, (first, second) = tmp_path / "keys", (make_key(), make_key())
    file.write_text(key_line(first, ["read"], "first"))
    accept = {"Accept": "application/json, text/event-stream"}

    with http_server_of(nodes, file, tmp_path / "mcp.log") as url:

        def status(key: str) -> int:
            headers = {**accept, "X-API-Key": key}
            return httpx.post(url, json=INITIALIZE, headers=headers).status_code

        before = status(first), status(second)
        file.write_text(key_line(second, ["read"], "second"))
        until = time.monotonic() + 10
        while status(first) != 401 and time.monotonic() < until:
            time.sleep(0.05)
        after = status(first), status(second)

    assert ((200, 401), (401, 200)) == (before, after)


def test_routes_of_a_file_need_no_node(nodes: Nodes) -> None:
    """The routes do not change; what is malformed gets a code and is not repeated."""
    command = [str(python_of(NAME)), *START, "--routes", str(ROUTES)]
    secret = "hunter2-and-more"
    calls: list[tuple[str, dict[str, Any]]] = [
        ("route", {"text": "I'd like to send my headphones back"}),
        ("route", {"text": "12345"}),
        ("route", {"text": '{"text": "where is my order"}'}),
        ("route", {"text": f"{secret}\x00"}),
        ("route", {"text": secret * 3_000}),
        ("route", {"text": "ok", secret: 1}),
        ("explain", {"text": "ok", "limit": 101}),
        (secret, {}),
        ("delete_route", {"name": "returns"}),
    ]
    found = converse(calls, command=command, environment=variables(), mode="legacy")
    codes = [each["structured"].get("code") for each in found["answers"]]

    assert READING == set(found["tools"])
    assert "returns" == found["answers"][0]["structured"]["route"]
    assert [None] * 3 == codes[:3]
    assert ["invalid_query"] * 4 + ["unknown_tool", "forbidden"] == codes[3:]
    refusals = [each["text"] for each in found["answers"][3:5]]
    assert [] == [text for text in refusals if secret in text]


def test_calls_beyond_the_limit_are_refused() -> None:
    """The ones that run go on; an unexpected error tells the client nothing of itself."""
    done, broken, refused, later = run_program(NAME, "mcp_limits.py", variables=variables())

    assert (False, None) == (done[0], done[1]["route"])
    assert (True, "internal_error") == (broken[0], broken[1]["code"])
    assert "secret" not in json.dumps(broken)
    assert (True, "overloaded", 1.0) == (
        refused[0],
        refused[1]["code"],
        refused[1]["retry_after_seconds"],
    )
    assert not later[0]


def test_stdio_ends_with_its_client() -> None:
    """The end of the input is the end of the process; nothing else is on its output."""
    command = [str(python_of(NAME)), *START, "--url", f"http://127.0.0.1:{free_port()}"]
    call = {"name": "route", "arguments": {"text": "x"}}
    lines = [
        INITIALIZE,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
    ]
    with subprocess.Popen(
        command,
        env=variables(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("".join(f"{json.dumps(line)}\n" for line in lines))
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        rest, log = process.communicate(timeout=30)

    assert 0 == process.returncode, log
    assert "" == rest
    assert [1, 2] == [answer["id"] for answer in answers]
    assert "connection_failed" in answers[1]["result"]["content"][0]["text"]


def test_public_address_needs_keys() -> None:
    command = [str(python_of(NAME)), *START, "--transport", "http", "--host", "0.0.0.0"]
    done = subprocess.run(command, env=variables(), capture_output=True, text=True, timeout=60)

    assert 2 == done.returncode
    assert "--api-keys-file" in done.stderr


@pytest.mark.parametrize("extra", ["mcp"])
def test_missing_extra_is_named(extra: str) -> None:
    """In an environment without the packages of the extra, such as this one."""
    done = subprocess.run(
        [sys.executable, *START], env=variables(), capture_output=True, text=True, timeout=60
    )

    assert 2 == done.returncode
    assert f"pip install 'synaptoroute-cluster[{extra}]'" in done.stderr
