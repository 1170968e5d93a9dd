"""The shipped alerts and dashboard, and a real Prometheus beside a cluster of containers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from containers import Plan, Stack
from needs import require
from repository import ROOT

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus/alerts.yml"
RECORDING = DEPLOY / "prometheus/recording.yml"
DASHBOARD = DEPLOY / "grafana/dashboards/synaptoroute.json"
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
_METRIC = re.compile(r"\bsynaptoroute_(?!cluster\b)[a-z_]+")


def alerts() -> list[dict[str, Any]]:
    """Every rule of the shipped file."""
    rules = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in rules["groups"] for rule in group["rules"]]


def recorded() -> dict[str, str]:
    """Return the expression of each recorded series."""
    rules = yaml.safe_load(RECORDING.read_text(encoding="utf-8"))
    return {rule["record"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}


def dashboard_expressions(path: Path = DASHBOARD) -> list[str]:
    """Return the expressions of a dashboard's panels."""
    panels = json.loads(path.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def expressions() -> list[str]:
    """Return the expressions of all alerts, recorded series and dashboards."""
    found = [rule["expr"] for rule in alerts()] + list(recorded().values())
    return found + [each for path in DASHBOARDS for each in dashboard_expressions(path)]


def metrics_in(expressions: Iterable[str]) -> set[str]:
    """Return the names of the exported series in expressions."""
    return {name for each in expressions for name in _METRIC.findall(each)}


_URL = "http://127.0.0.1:9090/api/v1/"
_VARIABLES = {"$cluster": ".*", "$set": ".*", "$__rate_interval": "30s"}


def start_prometheus(stack: Stack) -> Any:
    """Run this machine's Prometheus in a container of the stack; its files are deploy/'s."""
    program = "/opt/prometheus"
    plan = Plan(
        "haproxy",  # any image with the same libraries, and something to ask HTTP with
        ("prometheus",),
        [program, "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/tmp/data"],
        volumes={
            str(require("prometheus")): program,
            str(ROOT / "deploy/prometheus"): "/etc/prometheus",
        },
        options={"user": "65534:65534", "stop_signal": "SIGTERM"},
    )
    return stack.start_beside("prometheus", plan)


def ask(prometheus: Any, path: str) -> Any:
    """Ask its API from inside; None while it does not answer."""
    code, (out, _) = prometheus.exec_run(["wget", "-q", "-O", "-", _URL + path], demux=True)
    return json.loads(out)["data"] if code == 0 and out else None


def filled(expression: str) -> str:
    """An expression with the variables of the dashboards filled in."""
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def query(prometheus: Any, expression: str) -> list[Any]:
    """The result of an expression, with the variables of the dashboard filled in."""
    expression = filled(expression)
    answer = ask(prometheus, f"query?query={quote(expression)}")
    found: list[Any] = answer["result"] if answer is not None else []
    return found


def without_limit(expression: str) -> str:
    """An expression whose result is there even where no limit is passed."""
    return re.sub(r" (>|==|!=) [0-9.]+$", "", expression.strip())
