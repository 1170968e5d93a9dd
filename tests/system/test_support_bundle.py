"""A support bundle of real processes holds none of the texts and secrets that people gave them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from ports import free_port
from processes import CoordinatorProcess, NodeProcess
from redis_servers import IN_URL, PASSWORD, USER, restricted_server
from servers import Server
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

_COMMAND = "import sys; from synaptoroute.cli import main; sys.argv[0] = 'synaptoroute'; main()"


def mark(what: str) -> str:
    """A text that stands nowhere else."""
    return f"planted {what} quokka/{what}+marker"


@dataclass
class Planted:
    """Processes that hold planted texts.

    Attributes:
        texts: What no bundle may hold.
        names: What a bundle holds only with ``--names``.
    """

    folder: Path
    redis: Server
    node: NodeProcess
    coordinator: CoordinatorProcess
    key: str
    texts: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def bundle(self, name: str, *arguments: str) -> dict[str, bytes]:
        """Make a bundle as an operator does, and read its members."""
        output = self.folder / f"{name}.tar.gz"
        variables = {
            "SYNAPTOROUTE_REDIS_URL": f"redis://{USER}:{IN_URL}@127.0.0.1:{self.redis.port}/0",
            "SYNAPTOROUTE_API_KEY": self.key,
            "SYNAPTOROUTE_DATABASE": str(self.folder / "node" / "node.sqlite"),
            "SYNAPTOROUTE_SIGNING_KEYS_FILE": str(self.folder / "secret"),
            "SYNAPTOROUTE_API_KEYS_FILE": str(self.folder / "keys"),
            "SYNAPTOROUTE_MODEL_NAMES": mark("model-names"),
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={mark('header')}",
        }
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, "support-bundle", "--output", str(output), *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        assert 0o600 == output.stat().st_mode & 0o777
        with tarfile.open(output) as archive:
            return {
                each.name.removeprefix("support-bundle/"): file.read()
                for each in archive
                if (file := archive.extractfile(each)) is not None
            }

    @property
    def urls(self) -> str:
        return f"{self.node.url},{self.coordinator.url}"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """A node and a coordinator on a Valkey with a password, full of planted texts."""
    folder = tmp_path_factory.mktemp("bundle")
    redis = restricted_server("valkey-8.1", folder / "redis").start()
    key, secret = make_key(), "s" * 20 + "hidden" * 8
    for name, text in (
        ("keys", key_line(key, ["admin"], "quokka-key") + "\n"),
        ("secret", f"k1 {secret}\n"),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    shared = {
        "redis_url": f"redis://{USER}:{IN_URL}@127.0.0.1:{redis.port}/0",
        "signing_keys_file": str(folder / "secret"),
        "api_keys_file": str(folder / "keys"),
    }
    options = {"unmatched_kept": "50", "log_queries": "true", "log_level": "debug"}
    port = str(free_port())
    options |= {"port": port, "advertise_url": f"http://127.0.0.1:{port}", "bootstrap_expect": "1"}
    node = NodeProcess(folder / "node", {**shared, **options})
    (folder / "node-key").write_text(key)
    (folder / "node-key").chmod(0o600)
    coordinator = CoordinatorProcess(
        folder / "coordinator",
        shared["redis_url"],
        {
            "signing_keys_file": shared["signing_keys_file"],
            "api_keys_file": shared["api_keys_file"],
            "node_key_file": str(folder / "node-key"),
        },
    )
    made = Planted(folder, redis, node, coordinator, key)
    made.texts = [PASSWORD, key, secret, mark("model-names"), mark("header")]
    try:
        node.start()
        coordinator.start()
        plant(made)
        headers = {"Authorization": f"Bearer {key}"}
        coordinator.until(
            lambda: coordinator.http("GET", "/v1/routes", headers=headers).is_success, 60
        )
        yield made
    finally:
        coordinator.end()
        node.end()
        redis.stop()


def plant(made: Planted) -> None:
    """Write a planted text into every field that takes one."""

    def text(what: str) -> str:
        made.texts.append(mark(what))
        return mark(what)

    route = "quokka-route"
    made.names = [route, "quokka-set"]
    with httpx.Client(
        base_url=made.node.url,
        headers={"Authorization": f"Bearer {made.key}", "SR-Session": text("session")},
        trust_env=False,
        timeout=60.0,
    ) as client:

        def send(method: str, path: str, body: Any, **headers: str) -> dict[str, Any]:
            answer = client.request(method, path, json=body, headers=headers)
            assert answer.is_success, answer.text
            return dict(answer.json())

        body = {
            "utterances": [text("utterance"), text("second")],
            "description": text("description"),
            "negatives": [text("negative")],
            "payload": {"a": text("payload")},
            "metadata": {"b": text("metadata")},
        }
        note = {"SR-Note": text("note")}
        settings = client.get("/v1/settings").json()
        queue = {"feedback": {"items_max": 100}, "ignore": [text("pattern").replace("+", ".")]}
        send("PUT", "/v1/settings", {**settings, **queue})
        send("PUT", f"/v1/routes/{route}?ack=quorum", body, **note)
        send("PUT", "/v1/sets/quokka-set", {})
        send("PUT", f"/v1/sets/quokka-set/routes/{route}", {"utterances": [text("in-a-set")]})
        send("PUT", "/v1/tests", {"tests": [{"text": text("test"), "route": route}]})
        send("POST", "/v1/feedback", {"text": text("feedback"), "route": route})
        send("POST", "/v1/query", {"text": text("query"), "context": [text("turn")]})
        client.get(f"/v1/routes/{quote(text('path'), safe='')}")
        client.put("/v1/routes/bad", json={"utterances": [7], text("field"): 1})


def found_in(members: dict[str, bytes], texts: list[str]) -> list[tuple[str, str]]:
    """Which of the texts stand in which members, in which form whatever."""
    forms = {
        text: {
            text.encode(),
            quote(text, safe="").encode(),
            quote(text).encode(),
            quote(text, safe=" ").replace(" ", "+").encode(),
            json.dumps(text)[1:-1].encode(),
            # Its middle in base64 at each of the three places in a group.
            *(base64.b64encode(b"x" * n + text.encode())[4:-4] for n in range(3)),
        }
        for text in texts
    }
    return [
        (path, text)
        for path, body in members.items()
        for text, own in forms.items()
        if any(form in body for form in own if len(form) >= 5)
    ]


def test_bundle_holds_no_text_and_no_secret(planted: Planted) -> None:
    """Not as they are, not in a URL, and not in base64."""
    log = str(planted.folder / "node" / "log")
    members = planted.bundle("all", "--url", planted.urls, "--log", log)
    manifest = json.loads(members["manifest.json"])
    raw = Path(log).read_text()

    assert mark("query") in raw  # the log has it, the bundle must not
    assert [] == found_in(members, [*planted.texts, *planted.names, "quokka"])
    assert {
        "nodes/0/state.json",
        "nodes/0/metrics.txt",
        "nodes/0/settings.json",
        "coordinators/1/cluster.json",
        "coordinators/1/nodes.json",
        "redis/info.json",
        "machine/platform.json",
        "machine/database.json",
        "machine/doctor.json",
        "logs/0.jsonl",
    } <= set(members)
    assert [] == manifest["left_out"]
    assert "synaptoroute-support-bundle/1" == manifest["schema"]
    assert "ready" == json.loads(members["nodes/0/state.json"])["state"]
    assert json.loads(members["redis/info.json"])["valkey_version"]
    assert "ok" == json.loads(members["machine/database.json"])["quick_check"]
    assert json.loads(members["coordinators/1/nodes.json"])["nodes"][0]["state"]["state"]


def test_bundle_is_made_with_settings_that_are_not_valid_and_a_wrong_key(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that does not start because of its settings is a reason to ask for help."""
    monkeypatch.setenv("SYNAPTOROUTE_LANES", "many")
    monkeypatch.setattr(planted, "key", "sr_" + "w" * 43)
    members = planted.bundle("invalid", "--url", planted.node.url)
    left_out = json.loads(members["manifest.json"])["left_out"]

    assert {"what": "settings", "why": "invalid_config"} in left_out
    assert {"what": "nodes/0/state.json", "why": "status_401"} in left_out
    assert "nodes/0/readiness.json" in members
    assert [] == found_in(members, planted.texts)


def test_names_are_kept_where_the_operator_asks(planted: Planted) -> None:
    members = planted.bundle("names", "--url", planted.urls, "--names")

    assert set(planted.names) == {text for _, text in found_in(members, planted.names)}
    assert [] == found_in(members, planted.texts)


def test_bundle_of_a_node_and_a_redis_that_are_down(planted: Planted) -> None:
    """The bundle has what this machine knows; the manifest names the rest."""
    database = str(planted.folder / "node" / "node.sqlite")
    planted.node.kill()
    planted.redis.stop()
    members = planted.bundle("down", "--url", planted.node.url, "--database", database)
    left_out = {each["what"] for each in json.loads(members["manifest.json"])["left_out"]}
    checks = json.loads(members["machine/doctor.json"])

    assert {"nodes/0", "redis/info.json"} == left_out
    assert json.loads(members["machine/database.json"])["position"]["seq"] > 0
    assert "redis_unreachable" in {each["code"] for each in checks}
    assert [] == found_in(members, [*planted.texts, *planted.names, "quokka"])
