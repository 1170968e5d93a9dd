"""The disaster drill with real containers, as `make drill` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import charts
from containers import IMAGES, require_images
from needs import require
from repository import ROOT

sys.path.insert(0, str(ROOT / "deploy"))
import drill
import drill_chart

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

DRILL_SECONDS_MAX = 500


def test_chart_is_drilled_where_a_kubernetes_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Elsewhere the drill says why not, and is no failure."""
    for tool in ("kubectl", "helm"):
        (tmp_path / tool).write_text("#!/bin/sh\necho the connection was refused >&2\nexit 1\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", "")
    assert "KUBECONFIG is not set" == drill_chart.why_not()
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert "no Kubernetes answers" in drill_chart.why_not()
    assert "the connection was refused" in drill_chart.why_not()
    assert 0 == drill_chart.main()
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no kubectl" == drill_chart.why_not()


def test_objects_of_the_chart_drill_are_valid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The pod that restores is confined, and has the volume and the Secrets of the chart."""
    validate = pytest.importorskip("kubernetes_validate")
    binary = charts.helm("4")
    (tmp_path / "helm").symlink_to(binary)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("DRILL_HELM_ARGS", "--set node.image.repository=own,node.image.tag=dev")
    pod = drill_chart.ChartDrill(tmp_path).restorer()
    rendered = charts.render({"fullnameOverride": drill_chart.NAME})
    names = {each["metadata"]["name"] for each in charts.named(rendered, "Secret")}

    for each in (pod, drill_chart._claim("backups")):
        validate.validate(each, "1.36", strict=True)
    assert "own:dev" == pod["spec"]["containers"][0]["image"]
    assert {f"{drill_chart.NAME}-{name}" for name in drill_chart.KEPT_SECRETS} <= names
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize("first", ["1.13", ""])
def test_backup_that_failed_or_is_behind_is_taken_again(
    first: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A node writes an entry by itself, or has got its vote, while the first backup is taken."""
    ordered, taken = list[str](), list[dict[str, object]]()
    newest = {"version": "1.14", "digest": "d", "routes": "3"}

    def ask(path: str, *_: object, **__: object) -> object:
        if path == "/v1/actions/backup":
            ordered.append("1.14" if ordered else first)
            if version := ordered[-1]:
                taken.append({"name": f"b{version}", "version": version, "is_certified": True})
        has_failed = ordered[-1:] == [""]
        alarms = [{"code": "backup_failed", "is_over": False}] if has_failed else []
        return {"backups": taken, "alarms": alarms}

    found = drill.Drill(1, tmp_path)
    monkeypatch.setattr(found, "ask", ask)
    monkeypatch.setattr(found, "state", lambda: newest)
    monkeypatch.setattr(found, "docker", lambda *_: "")
    monkeypatch.setattr(found, "container", lambda _: "")

    assert ("b1.14", newest) == found.back_up()
    assert 2 == len(ordered)


def test_destroyed_cluster_is_restored_from_its_backup() -> None:
    """The same digest on every node of an empty cluster; all nodes vote and take writes."""
    require("docker-compose")
    require_images(*IMAGES)
    images = {f"{name.upper()}_IMAGE": image for name, image in IMAGES.items()}
    done = subprocess.run(
        [sys.executable, ROOT / "deploy/drill.py", "--routes", "20"],
        env={**os.environ, **images},
        capture_output=True,
        text=True,
        timeout=DRILL_SECONDS_MAX,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    shown = [line for line in done.stdout.splitlines() if "digest" in line]
    assert 1 == len({line.rpartition(" ")[2] for line in shown}), done.stdout
    assert 3 == len(shown), "before, in the backup, and after"
