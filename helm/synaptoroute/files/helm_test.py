"""The test of `helm test`: nodes are ready, answer, and see each other's writes.

Standard library only.  Environment variables: NODES (URLs separated by commas), SERVICE (URL),
API_KEY_FILE (optional), WRITES (1 to write; needs a key with the scope, or no keys at all).
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

READY_SECONDS_MAX = 120.0
ANSWER_SECONDS_MAX = 20.0


def ask(method: str, url: str, body: object = None, **headers: str) -> tuple[int, Any, Any]:
    """Send one request; return status, headers and the JSON body."""
    sent = {"content-type": "application/json", **headers}
    key_file = os.environ.get("API_KEY_FILE")
    if key_file:
        sent["authorization"] = "Bearer " + Path(key_file).read_text().strip()
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX) as answer:
            return answer.status, answer.headers, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode(errors="replace")


def wait_ready(url: str) -> None:
    """Wait until a node is ready."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while True:
        try:
            status, _, body = ask("GET", url + "/readyz")
        except OSError as error:
            status, body = 0, str(error)
        if status == 200:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"{url} is not ready after {READY_SECONDS_MAX:.0f} s: {body}")
        time.sleep(1)


def expect(wanted: int, what: str, answer: tuple[int, Any, Any]) -> tuple[Any, Any]:
    """Check the status of an answer; return its headers and body."""
    status, headers, body = answer
    if status != wanted:
        raise SystemExit(f"{what}: {status} instead of {wanted}: {body}")
    sys.stdout.write(f"ok  {what}\n")
    return headers, body


def main() -> None:
    """Run the whole test; exit with a message at the first failure."""
    nodes = os.environ["NODES"].split(",")
    for url in nodes:
        wait_ready(url)
        sys.stdout.write(f"ok  {url} is ready\n")
    service = os.environ["SERVICE"]
    question = {"text": "helm test asks whether the nodes are one cluster"}
    if os.environ.get("WRITES") != "1":
        status, _, _ = ask("POST", service + "/v1/query", question)
        if status not in (200, 401):
            raise SystemExit(f"query: {status}")
        sys.stdout.write("ok  the Service answers; no key was given, so nothing is written\n")
        return
    name = f"helm-test-{uuid.uuid4().hex[:8]}"
    route = f"/v1/routes/{name}"
    document = {"name": name, "utterances": [question["text"]]}
    key = {"Idempotency-Key": str(uuid.uuid4())}
    try:
        written = ask("PUT", nodes[0] + route, document, **key)
        headers, _ = expect(201, f"write on {nodes[0]}", written)
        version = {"SR-Min-Version": headers["SR-Version"]}
        for url in [*nodes[1:], service]:
            found = ask("POST", url + "/v1/query", question, **version)
            _, match = expect(200, f"query on {url} at {version['SR-Min-Version']}", found)
            if match["route"] != name:
                raise SystemExit(f"{url} answers {match['route']!r} instead of {name!r}")
    finally:
        ask("DELETE", nodes[0] + route)


if __name__ == "__main__":
    main()
