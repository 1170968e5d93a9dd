"""Upgrades and rollbacks of the chart: what is there stays as it is."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts import CHART, HELMS, Manifest, left, named, owned, pick, pods, render, render_in
from charts import run_helm as run
from needs import require
from ports import free_port
from repository import ROOT
from servers import ask

pytestmark = pytest.mark.deploy

NAME = "rel-synaptoroute"
SCALED = ("--set", "autoscaling.enabled=true")
STOP_SECONDS_MAX = 10.0


def stateful(replicas: int) -> Manifest:
    found = left("StatefulSet", NAME)
    found["spec"] = {"replicas": replicas}
    return found


def spec_of(objects: list[Manifest]) -> dict[str, Any]:
    found: dict[str, Any] = pick(objects, "StatefulSet", NAME)["spec"]
    return found


@pytest.mark.parametrize("major", HELMS)
@pytest.mark.parametrize("count", [3, 7])
def test_autoscaling_keeps_the_node_count_that_is_there(count: int, major: str) -> None:
    """Left out of an update, the count of a StatefulSet would become 1."""
    for options in (SCALED, ("--is-upgrade", *SCALED)):
        assert count == spec_of(render_in([stateful(count)], *options, major=major))["replicas"]


def test_node_count_is_set_where_the_chart_sees_no_cluster() -> None:
    changes = {"autoscaling.enabled": True, "autoscaling.replicas": 4}

    assert 4 == spec_of(render(changes))["replicas"]
    assert "replicas" not in spec_of(render({"autoscaling.enabled": True}))
    assert (
        7
        == spec_of(render_in([stateful(7)], *SCALED, "--set", "autoscaling.replicas=4"))["replicas"]
    ), "what is there counts"


@pytest.mark.parametrize("major", HELMS)
def test_secrets_that_are_made_once_are_in_no_release(major: str) -> None:
    """They are hooks: a rollback applies the manifest of a release, and no hook of an upgrade."""
    done = run(major, "template", "rel", str(CHART), "--namespace", "routing", "--no-hooks")
    made = named(render(major=major), "Secret")

    assert 4 == len(made)
    assert "kind: Secret" not in done.stdout
    for each in made:
        annotations = each["metadata"]["annotations"]
        assert "pre-install,pre-upgrade" == annotations["helm.sh/hook"]
        # Helm deletes a hook's object before it makes it again, unless another policy is named.
        assert "before-hook-creation" not in annotations["helm.sh/hook-delete-policy"]
        assert "hook-succeeded" not in annotations["helm.sh/hook-delete-policy"]


@pytest.mark.parametrize("major", HELMS)
def test_edited_secrets_are_left_alone(major: str) -> None:
    """A key that an operator added or removed is in the Secret only: nothing renders it again."""
    there = [owned(each) for each in named(render(major=major), "Secret")]
    keys = next(each for each in there if each["metadata"]["name"].endswith("-api-keys"))
    keys["data"]["keys"] = base64.b64encode(b"read sha256:00 other").decode()

    for options in ((), ("--is-upgrade",)):
        assert [] == named(render_in(there, *options, major=major), "Secret")
    missing = [each for each in there if each is not keys]
    made = named(render_in(missing, "--is-upgrade", major=major), "Secret")
    assert [f"{NAME}-api-keys"] == [each["metadata"]["name"] for each in made]


def shell_commands() -> list[tuple[str, str]]:
    """The shell scripts that are the first process of a container, in every example of values."""
    found = set()
    for values in (None, *sorted((CHART / "ci").glob("*-values.yaml"))):
        for name, _, spec in pods(render(values=values)):
            container = spec["containers"][0]
            words = [*container.get("command", []), *container.get("args", [])]
            if words and words[0].endswith("sh"):
                found.add((name.rpartition("-")[2], words[-1]))
    return sorted(found)


def test_no_shell_stays_the_first_process_of_a_container() -> None:
    """The kernel drops signals to it: the kubelet would kill the pod after its grace period."""
    commands = shell_commands()

    assert {"redis", "haproxy"} == {name for name, _ in commands}
    for name, script in commands:
        last = [line for line in script.splitlines() if line and not line.startswith((" ", "END"))]
        assert any(line.startswith("exec ") for line in last[-3:]), f"{name}: {script}"


def test_bundled_redis_ends_at_sigterm_and_keeps_its_data(tmp_path: Path) -> None:
    """By the command of the chart, with its configuration and a password with odd characters."""
    objects = render()
    spec = next(spec for name, _, spec in pods(objects) if name.endswith("-redis"))
    config = pick(objects, "ConfigMap", "-redis")["data"]["redis.conf"]
    port, password = free_port(), "pass'word$(x)"
    (tmp_path / "redis.conf").write_text(
        config.replace("dir /data", f"dir {tmp_path}") + f"\nport {port}\nbind 127.0.0.1\n"
    )
    (tmp_path / "password").write_text(password)
    script = spec["containers"][0]["args"][0]
    script = script.replace("/usr/local/etc/redis/redis.conf", str(tmp_path / "redis.conf"))
    script = script.replace("/run/secrets/redis/password", str(tmp_path / "password"))
    binary = require("redis-server")
    for number in range(2):
        with subprocess.Popen(
            ["/bin/sh", "-ec", script], cwd=tmp_path, env={"PATH": f"{binary.parent}:/bin:/usr/bin"}
        ) as process:
            try:
                seen = _ask(port, password, "INCR", "starts")
                began = time.monotonic()
                os.kill(process.pid, signal.SIGTERM)
                process.wait(STOP_SECONDS_MAX)
            finally:
                process.kill()
        assert 0 == process.returncode, "Redis has saved and ended, and is no child of a shell"
        assert f":{number + 1}\r\n" == seen
        assert time.monotonic() - began < STOP_SECONDS_MAX


def _ask(port: int, password: str, *words: str) -> str:
    """Send one command after the password; Redis may still be starting."""
    give_up_at = time.monotonic() + STOP_SECONDS_MAX
    while True:
        try:
            assert "NOAUTH" in ask(port, *words)
            break
        except (OSError, AssertionError):
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
    parts = [[b"AUTH", password.encode()], [word.encode() for word in words]]
    request = b"".join(
        b"*%d\r\n" % len(part) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in part)
        for part in parts
    )
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        said = connection.recv(4096)
        while said.count(b"\r\n") < 2:
            said += connection.recv(4096)
    assert said.startswith(b"+OK\r\n"), said
    return said.removeprefix(b"+OK\r\n").decode()


@pytest.mark.parametrize(
    ("url", "more", "ports"),
    [
        ("redis://r", [], [6379]),
        ("rediss://redis.example.org:6380/0", [], [6380]),
        ("redis+sentinel://s1:26379,s2:26380,s3/mymaster/0", [], [26379, 26380, 6379]),
        ("rediss+sentinel://s1/mymaster", [6390], [26379, 6390]),
        ("redis://[2001:db8::1]:7000/0", [], [7000]),
        ("redis://r:7000/0", [7001], [7000, 7001]),
    ],
)
def test_policies_let_nodes_reach_the_redis_of_the_url(
    url: str, more: list[int], ports: list[int]
) -> None:
    changes = {"redis.enabled": False, "externalRedis.url": url, "networkPolicy.redisPorts": more}
    for component in ("node", "coordinator"):
        policy = pick(render(changes), "NetworkPolicy", f"-{component}")["spec"]
        opened = [[each["port"] for each in rule["ports"]] for rule in policy["egress"]]

        assert ports in opened


def test_policies_let_nodes_reach_the_replicas_of_redis() -> None:
    """Nodes listen there, and Sentinels name servers with ports of their own."""
    changes = {
        "redis.enabled": False,
        "externalRedis.url": "redis://r:7000/0",
        "externalRedis.replicaUrls": ["redis://r2:7001/0", "redis+sentinel://s1,s2:26380/m"],
    }
    policy = pick(render(changes), "NetworkPolicy", "-node")["spec"]
    opened = [[each["port"] for each in rule["ports"]] for rule in policy["egress"]]

    assert [7000, 7001, 26379, 26380, 6379] in opened


def test_production_example_of_the_document_reaches_its_redis(tmp_path: Path) -> None:
    """The first YAML of the section renders, and its NetworkPolicy opens the port of its URL."""
    text = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    example = text.partition("## For production")[2].partition("```yaml")[2].partition("```")[0]
    (tmp_path / "values.yaml").write_text(example)
    done = run("4", "template", "rel", str(CHART), "--values", str(tmp_path / "values.yaml"))
    assert 0 == done.returncode, done.stderr
    objects = [each for each in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if each]
    policy = pick(objects, "NetworkPolicy", "-node")["spec"]

    assert "6380" in yaml.safe_load(example)["externalRedis"]["url"]
    assert [6380] in [[each["port"] for each in rule["ports"]] for rule in policy["egress"]]


def test_example_of_sentinels_in_the_document_reaches_them(tmp_path: Path) -> None:
    """Both the Sentinels and the servers that they name."""
    text = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    example = text.partition("# router.yaml\n")[2].partition("```")[0]
    (tmp_path / "values.yaml").write_text(example)
    done = run("4", "template", "rel", str(CHART), "--values", str(tmp_path / "values.yaml"))
    assert 0 == done.returncode, done.stderr
    objects = [each for each in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if each]
    policy = pick(objects, "NetworkPolicy", "-node")["spec"]

    assert [26379, 6379] in [[each["port"] for each in rule["ports"]] for rule in policy["egress"]]


@pytest.mark.parametrize("major", HELMS)
def test_helm_warns_of_nothing(major: str) -> None:
    """Links in a chart's folder are named at every call of Helm."""
    assert "" == run(major, "template", "rel", str(CHART)).stderr
    assert [] == [path for path in CHART.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("alerts.yml", "deploy/prometheus/alerts.yml"),
        ("recording.yml", "deploy/prometheus/recording.yml"),
        ("dashboard.json", "deploy/grafana/dashboards/synaptoroute.json"),
        ("decisions.json", "deploy/grafana/dashboards/decisions.json"),
        ("haproxy.cfg", "deploy/haproxy/haproxy.cfg"),
        ("redis.conf", "deploy/redis/redis.conf"),
    ],
)
def test_files_of_the_chart_are_those_of_compose(name: str, source: str) -> None:
    """`make docs` copies them: Helm packs no file from outside the chart's folder."""
    assert (ROOT / source).read_bytes() == (CHART / "files" / name).read_bytes()
