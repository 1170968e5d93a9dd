"""The programs of examples/ run, as their first lines say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

import npm
from environments import python_of
from needs import require
from ports import free_port
from repository import ROOT
from synaptoroute.cli.processes import NodeProcess
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

EXAMPLES = ROOT / "examples"
WITH_NODE = {"PYTHONPATH": str(ROOT / "node")}
START_SECONDS_MAX = 60.0
JOKE = "Tell me a joke"


@contextmanager
def running(words: list[str | Path], log: Path, **variables: str) -> Iterator[Any]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, env={**os.environ, **variables}, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def wait_until(condition: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < until:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_chat_answers_by_the_function_of_the_route(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "app.log"
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES / "chat_tools", "app:app"]
    with running([*words, "--port", str(port)], log, **WITH_NODE):
        wait_until(lambda: httpx.get(f"{url}/docs").is_success, log)

        def answer(message: str) -> dict[str, Any]:
            found: dict[str, Any] = httpx.post(f"{url}/chat", json={"message": message}).json()
            return found

        charged = answer("You charged me twice for order 4821")
        parcel = answer("where's my parcel")
        closed = answer("are you open on Saturday evening")
        other = answer("write a poem about the sea")
        empty = httpx.post(f"{url}/chat", json={"message": ""})

    assert ("open_refund", "A refund for order 4821 is open.") == (
        charged["tool"],
        charged["answer"],
    )
    assert "order_status" == parcel["tool"]
    assert "opening_hours" == closed["tool"]
    assert None is other["tool"]
    assert 422 == empty.status_code


def test_agent_acts_on_what_the_mcp_server_answers() -> None:
    done = subprocess.run(
        [python_of("integrations"), EXAMPLES / "mcp_agent/agent.py"],
        env={**os.environ, **WITH_NODE},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert [
        "tools: route, explain, list_routes",
        "where is my order -> call get_order_status",
        "write a poem about the sea -> hand over to a person",
    ] == done.stdout.splitlines(), done.stderr


def test_decision_model_of_the_ai_sdk_asks_a_node(tmp_path: Path) -> None:
    """With the package itself; errors are those of the SDK."""
    folder = tmp_path / "ai_sdk"
    shutil.copytree(ROOT / "tests/conformance/ai_sdk", folder)
    shutil.copy(EXAMPLES / "ai_sdk/synaptoroute.mjs", folder)
    npm.install(folder)
    with keyed_node(tmp_path) as (node, key):
        done = npm.run_node(["decide.mjs", node.url, key], folder)

    found = json.loads(done.stdout or "null")
    assert found, done.stderr
    assert ("small-model", 1) == (found["choice"], found["confidence"])
    assert {"small-model": 1, "large-model": 0, "none": 0} == found["probabilities"]
    assert ["tier", "again"] == found["others"]
    assert found["inputTokens"] > 0
    assert ["AI_APICallError", 422] == found["empty"]
    assert ["AI_APICallError", 401] == found["wrongKey"]
    assert None is not found["unsupported"]


# --- the gateway -------------------------------------------------------------------------


class Echo(BaseHTTPRequestHandler):
    """Answers with its server's name and the header that the gateway sets."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        name = self.server.server_name
        body = json.dumps({"model": name, "route": self.headers.get("X-Route")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def echo(name: str) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.server_name = name
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def keyed_node(folder: Path) -> Iterator[tuple[NodeProcess, str]]:
    """A node with the routes of two models, and a key that may read."""
    reader, admin = make_key(), make_key()
    lines = (key_line(reader, ["read"], "gateway"), key_line(admin, ["admin"], "admin"))
    (folder / "keys").write_text("\n".join(lines))
    settings = {
        "database": str(folder / "node.sqlite"),
        "api_keys_file": str(folder / "keys"),
        "fit_confidence": "false",
        "lanes": "1",
    }
    node = NodeProcess(free_port(), settings, folder / "node.log")
    node.start()
    try:
        node.wait_ready()
        answer = httpx.post(
            f"{node.url}/v1/import",
            content=(EXAMPLES / "litellm_proxy/routes.yaml").read_bytes(),
            headers={"Content-Type": "application/yaml", "X-API-Key": admin},
        )
        assert answer.is_success, answer.text
        yield node, reader
    finally:
        node.stop()


def test_gateway_sets_the_route_and_goes_on_without_a_node(tmp_path: Path) -> None:
    """The header is the node's, never the client's; a node that hangs costs 200 ms once."""
    haproxy, port, log = require("haproxy"), free_port(), tmp_path / "haproxy.log"
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    words: list[str | Path] = [haproxy, "-db", "-f", EXAMPLES / "gateway_haproxy/haproxy.cfg"]

    def ask(text: Any, role: str = "user", **headers: str) -> tuple[str, str | None]:
        messages = [{"role": "user", "content": JOKE}, {"role": role, "content": text}]
        body = {"model": "auto", "messages": messages}
        found = httpx.post(url, json=body, headers=headers, timeout=10).json()
        return found["model"], found["route"]

    with (
        keyed_node(tmp_path) as (node, key),
        echo("small") as small,
        echo("large") as large,
        running(
            words,
            log,
            GATEWAY=f"127.0.0.1:{port}",
            NODE_1=f"127.0.0.1:{free_port()}",
            NODE_2=node.url.removeprefix("http://"),
            SYNAPTOROUTE_API_KEY=key,
            SMALL=small,
            LARGE=large,
            ROUTE_LUA=str(EXAMPLES / "gateway_haproxy/route.lua"),
        ),
    ):
        wait_until(lambda: ask(JOKE) == ("small", "small-model"), log)
        proof = ask("Prove that the square root of two is irrational")
        quoted = ask('Translate "good morning"\n\tinto Spanish')
        backslash = ask("\\x \\u0041 \\ é")
        none = ask("bring me the red shoes in size 43", **{"X-Route": "small-model"})
        assistant = ask("Prove that the square root of two is irrational", role="assistant")
        parts = ask([{"type": "text", "text": JOKE}])
        os.kill(node.pid, signal.SIGSTOP)
        started = time.monotonic()
        hangs = ask(JOKE)
        took_seconds = time.monotonic() - started
        os.kill(node.pid, signal.SIGKILL)
        dead = ask(JOKE)

    assert ("large", "large-model") == proof
    assert ("small", "small-model") == quoted
    assert ("large", None) == none == backslash
    assert ("small", "small-model") == assistant
    assert ("large", None) == parts == hangs == dead
    assert took_seconds < 5
