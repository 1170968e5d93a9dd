"""docs/operations.md: no setting and no metric without a word on what to do with it."""

from __future__ import annotations

import re

import pytest

from metric_names import exposition, families
from repository import ROOT
from synaptoroute.config import NodeConfig
from synaptoroute_coordinator.config import CoordinatorConfig

pytestmark = pytest.mark.tidy

OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
FLEET = ROOT / "coordinator/synaptoroute_coordinator/app/metrics.py"


def section(heading: str) -> str:
    """What stands under a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)^#+ ", OPERATIONS, re.M | re.S)
    assert found, heading
    return found[1]


def columns(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def fleet_metrics() -> set[str]:
    """Every metric of the coordinator, as its code names it."""
    text = FLEET.read_text(encoding="utf-8")
    found = set(re.findall(r'"synaptoroute_(fleet_[a-z_]+)"', text))
    found |= {f"fleet_{name}" for name in re.findall(r'^ +\("([a-z_]+)", "', text, re.MULTILINE)}
    counters = set(re.findall(r'CounterMetricFamily\(\s*"synaptoroute_(\w+)"', text))
    return {f"synaptoroute_{name}{'_total' if name in counters else ''}" for name in found}


@pytest.mark.parametrize(
    ("column", "config"), [(1, NodeConfig), (2, CoordinatorConfig)], ids=["node", "coordinator"]
)
def test_every_setting_has_its_occasion(
    column: int, config: type[NodeConfig | CoordinatorConfig]
) -> None:
    """The table of occasions names each setting of the code, and none that is not there."""
    cells = [row[column] for row in columns("Which setting, when")]
    named = {name for cell in cells for name in re.findall(r"`([A-Z_]+)(?:=\w+)?`", cell)}

    assert {name.upper() for name in config.model_fields} == named


def test_every_metric_has_its_occasion() -> None:
    """The table of metrics names each one of nodes and coordinators, and none that is not there."""
    named = [name for row in columns("Metrics") for name in re.findall(r"`(\w+)`", row[0])]
    node = {
        f"{name}_total" if f"{name}_total " in exposition() else name
        for name in families(exposition())
    }

    assert len(named) == len(set(named))
    assert node | fleet_metrics() == set(named)
