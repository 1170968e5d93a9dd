"""The chart refuses mistakes: each rule of its schema and each guard is tested."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts import CHART, HELMS, merged, refusal, rules, run_helm, together
from needs import lacking
from repository import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import values_table

pytestmark = pytest.mark.deploy

NO_REDIS = {"redis.enabled": False, "coordinator.enabled": False}
TLS = {"redis.enabled": False, "externalRedis.url": "redis://r:6379"}
GUARDS: dict[str, dict[str, Any]] = {
    "exclude each other: set redis.enabled=false": {"externalRedis.url": "redis://r:6379"},
    "more than one node needs Redis": NO_REDIS,
    "is one volume": {"node.persistence.existingClaim": "c"},
    "must hold no credentials": {**TLS, "externalRedis.url": "redis://u:p@r:6379"},
    "externalRedis.username needs": {**TLS, "externalRedis.username": "u"},
    "replicaUrls needs externalRedis.url": {"externalRedis.replicaUrls": ["redis://r2:6379"]},
    "externalRedis.sentinel needs a URL": {**TLS, "externalRedis.sentinel.tls": True},
    "externalRedis.sentinel.username needs": {
        **TLS,
        "externalRedis.url": "redis+sentinel://s:26379/mymaster",
        "externalRedis.sentinel.username": "u",
    },
    "externalRedis.tls needs a URL": {**TLS, "externalRedis.tls.caSecret": "ca"},
    "the coordinator needs Redis": {"redis.enabled": False, "node.replicaCount": 1},
    "not both": {"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}},
    "minReplicas is above": {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}},
    "autoscaling needs a target": {
        "autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": 0}
    },
    "bootstrapExpect is above": {"node.bootstrapExpect": 4},
    "must be above preStopSeconds": {"node.terminationGracePeriodSeconds": 25},
    "auth.insecure and auth.existingSecret": {"auth": {"insecure": True, "existingSecret": "s"}},
    "allowUnsigned needs": {"signing.allowUnsigned": True, "signing.create": False},
    "tls.enabled needs tls.existingSecret": {"tls.enabled": True},
    "tls.certManager.enabled needs tls.enabled": {"tls.certManager.enabled": True},
    "needs tls.certManager.issuerRef.name": {
        "tls": {"enabled": True, "certManager": {"enabled": True}}
    },
    "allowPlainPeers needs": {"tls.allowPlainPeers": True},
    "redisPorts needs externalRedis.url": {"networkPolicy.redisPorts": [6380]},
    "needs coordinator.enabled and": {"coordinator.ingress.enabled": True},
    "autoscaling.replicas needs": {"autoscaling.replicas": 5},
    "need a Service of the type": {"haproxy.service.externalTrafficPolicy": "Local"},
    "ingress.enabled needs": {"ingress.enabled": True},
    "httpRoute.enabled needs": {"httpRoute.enabled": True},
}
MISTAKES: dict[str, Any] = {
    "nodes": {"replicaCount": 3},
    "node.replicas": 3,
    "node.replicaCount": 0,
    "node.bootstrapExpect": 100,
    "node.image.digest": "sha256:abc",
    "node.image.pullPolicy": "Sometimes",
    "node.image.tag": "no/slash",
    "node.image.repository": "",
    "node.settings": {"embeding_cache_rows": 1},
    "node.resources": {"limits": {"memory": "1 GB"}},
    "node.startupProbe": {"httpGet": {"path": "/"}},
    "node.persistence.size": "big",
    "node.persistence.accessModes": ["ReadOnlyMany"],
    "node.persistence.retention": {"whenScaled": "Keep"},
    "node.podLabels": {"a": 1},
    "node.tolerations": ["all"],
    "logNamespace": "no spaces",
    "service.type": "ExternalName",
    "service.port": 70000,
    "coordinator.port": 80,
    "coordinator.replicaCount": 0,
    "redis.maxmemory": "lots",
    "externalRedis.url": "http://r",
    "externalRedis.replicaUrls": ["http://r"],
    "externalRedis.replicaurls": ["redis://r"],
    "externalRedis.sentinel.tls": "yes",
    "autoscaling.maxReplicas": "ten",
    "podDisruptionBudget.minAvailable": "half",
    "networkPolicy.redisPorts": [0],
    "namespaceOverride": "No_Name",
    "haproxy.service.externalTrafficPolicy": "Near",
    "ingress.paths": [],
    "podDisruptionBudget.unhealthyPodEvictionPolicy": "Never",
    "ingress.hosts": [""],
    "monitoring.serviceMonitor.interval": "soon",
    "monitoring.prometheusRule.thresholds.errorRatio": 2,
    "auth.insecure": "yes",
    "extraObjects": [1],
}


@pytest.mark.parametrize("major", HELMS)
@pytest.mark.parametrize("said", GUARDS)
def test_contradiction_is_refused_with_advice(said: str, major: str) -> None:
    assert said in refusal(GUARDS[said], major=major)


def test_every_guard_is_tested() -> None:
    text = (CHART / "templates/_guards.tpl").read_text(encoding="utf-8")
    messages = re.findall(r'fail "([^"]+)"', text)
    unproved = [each for each in messages if not any(said in each for said in GUARDS)]

    assert len(GUARDS) == len(messages)
    assert [] == unproved


def test_credentials_in_the_url_of_a_replica_are_refused() -> None:
    """The URLs are in a ConfigMap."""
    given = {**TLS, "externalRedis.replicaUrls": ["redis://user:secret@r2:6379/0"]}

    assert "must hold no credentials" in refusal(given, major="4")


@pytest.mark.parametrize("key", MISTAKES)
def test_schema_refuses_a_mistake(key: str) -> None:
    """A wrong type, a value out of range, or a misspelt name."""
    told = refusal({key: MISTAKES[key]}, major="4")

    assert "values don't meet the specifications of the schema" in told
    assert key.split(".")[0] in told or "Additional" in told or "additional" in told


def test_every_rule_of_the_schema_refuses_some_value() -> None:
    """Each type, limit, pattern, enumeration and closed object."""
    try:
        from jsonschema import Draft7Validator
    except ImportError:
        lacking("the package jsonschema")
    judge = Draft7Validator(schema())
    every = list(rules(schema()))
    idle = [
        rule
        for rule in every
        if not any(
            rule.path == tuple(error.absolute_path) and rule.keyword == error.validator
            for error in judge.iter_errors(rule.document)
        )
    ]

    assert [] == idle
    assert 400 < len(every)


@pytest.mark.parametrize("major", HELMS)
def test_helm_reports_every_broken_rule(major: str, tmp_path: Path) -> None:
    """The error names the place."""
    unseen = []
    for group in together(list(rules(schema()))):
        values = tmp_path / "values.yaml"
        values.write_text(yaml.safe_dump(merged(group)), encoding="utf-8")
        done = run_helm(major, "template", "rel", str(CHART), "--values", str(values))
        places = places_named(done.stderr, major)
        unseen += [rule for rule in group if rule.path not in places]

        assert 0 != done.returncode

    assert [] == unseen


def schema() -> dict[str, Any]:
    """Return the schema of the chart."""
    found: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return found


def places_named(told: str, major: str) -> set[tuple[str | int, ...]]:
    """Return the places in Helm's error: `- a.b.0: ...` of version 3, `- at '/a/b/0': ...` of 4."""
    if major == "3":
        named = [each.replace("(root)", "") for each in re.findall(r"^- ([^:]+): ", told, re.M)]
        found = [name.split(".") if name else [] for name in named]
    else:
        named = re.findall(r"^ *- at '([^']*)': ", told, re.MULTILINE)
        found = [name.split("/")[1:] for name in named]
    return {tuple(int(key) if key.isdecimal() else key for key in place) for place in found}


def test_values_of_umbrella_charts_are_accepted() -> None:
    """`global` and `enabled` reach every subchart."""
    assert "" == refusal({"global": {"anything": 1}, "enabled": True}, major="3")


def test_schema_describes_every_value() -> None:
    """No object accepts unknown keys."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    assert [] == list(_undescribed(values, schema(), ""))


def _undescribed(value: Any, schema: dict[str, Any], path: str) -> list[str]:
    """List the paths of values that the schema does not describe."""
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    known = schema["properties"]
    missing = [f"{path}{name}" for name in value if name not in known]
    missing += [
        f"{path}{name} (free)" for name in known if schema.get("additionalProperties", True)
    ]
    for name in value.keys() & known.keys():
        missing += _undescribed(value[name], known[name], f"{path}{name}.")
    return missing


def test_schema_has_the_settings_of_the_processes() -> None:
    """It offers what the code reads (`make docs`), and the chart sets only existing settings."""
    text = values_table.SCHEMA.read_text(encoding="utf-8")

    assert values_table.reshaped(text) == text
    for part, config in values_table.SETTINGS.items():
        assert set() == set(values_table.SET_BY_CHART[part].split()) - config.model_fields.keys()
