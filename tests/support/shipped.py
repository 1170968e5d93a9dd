"""The files of deploy/ that watch a cluster, read."""

from __future__ import annotations

import json
from typing import Any

import yaml

from house import ROOT

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus/alerts.yml"
DASHBOARD = DEPLOY / "grafana/dashboards/synaptoroute.json"


def alerts() -> list[dict[str, Any]]:
    """Every rule of the shipped file."""
    rules = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in rules["groups"] for rule in group["rules"]]


def dashboard_expressions() -> list[str]:
    """What the panels of the dashboard ask."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]
