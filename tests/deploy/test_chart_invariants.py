"""Invariants of everything the chart renders: selectors, security, names, ports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from charts import CHART, CI_VALUES, environment, named, pick, pods, render
from repository import ROOT
from synaptoroute.config import ENV_PREFIX, NodeConfig
from synaptoroute_coordinator.config import ENV_PREFIX as COORDINATOR_PREFIX
from synaptoroute_coordinator.config import CoordinatorConfig

sys.path.insert(0, str(ROOT / "docs"))
import values_table

pytestmark = pytest.mark.deploy

every_values = pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
FIXED_LABELS = {
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
}


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Return whether a selector matches a pod."""
    return selector.items() <= labels.items()


@every_values
def test_selectors_match_only_their_own_pods(values: Path) -> None:
    """Every Service, controller, budget and policy selects exactly one kind of pod."""
    objects = render(values=values)
    for each in objects:
        if each["kind"] == "Service":
            selector = each["spec"]["selector"]
        elif each["kind"] in {"StatefulSet", "Deployment", "PodDisruptionBudget"}:
            selector = each["spec"]["selector"]["matchLabels"]
        elif each["kind"] == "NetworkPolicy":
            selector = each["spec"]["podSelector"]["matchLabels"]
        else:
            continue
        taken = [name for name, labels, _ in pods(objects) if matches(selector, labels)]

        assert FIXED_LABELS == set(selector), each["metadata"]["name"]
        assert 1 == len(taken), f"{each['kind']} {each['metadata']['name']}: {taken}"


@every_values
def test_pods_pass_pod_security_restricted(values: Path) -> None:
    """With a read-only root and no token, in every pod, including that of the test."""
    for name, _, spec in pods(render(values=values)):
        context = spec["securityContext"]

        assert spec["automountServiceAccountToken"] is False, name
        assert context["runAsNonRoot"] is True, name
        if "openshift" in values.stem:
            assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys(), name
        else:
            assert 10001 == context["runAsUser"] == context["fsGroup"], name
            assert "OnRootMismatch" == context["fsGroupChangePolicy"], name
        assert "RuntimeDefault" == context["seccompProfile"]["type"], name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert ["ALL"] == own["capabilities"]["drop"], name
        for volume in spec.get("volumes", []):
            assert not {"hostPath"} & volume.keys(), name


@every_values
def test_own_containers_have_limits_and_writable_tmp(values: Path) -> None:
    """/tmp is not on the root file system."""
    for name, _, spec in pods(render(values=values)):
        container = spec["containers"][0]
        if container["name"] != "test":
            assert "/tmp" in {each["mountPath"] for each in container["volumeMounts"]}, name
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name


@every_values
def test_mounts_have_their_volumes(values: Path) -> None:
    """No mount without a volume, no volume without a mount."""
    for each in render(values=values):
        if each["kind"] not in {"StatefulSet", "Deployment", "Pod"}:
            continue
        spec = each["spec"] if each["kind"] == "Pod" else each["spec"]["template"]["spec"]
        claims = each["spec"].get("volumeClaimTemplates", [])
        there = {volume["name"] for volume in spec["volumes"]}
        there |= {claim["metadata"]["name"] for claim in claims}
        mounted = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", [])}

        assert there == mounted, each["metadata"]["name"]


@every_values
def test_volume_claims_have_only_immutable_labels(values: Path) -> None:
    """A version in the labels of a claim would make the next upgrade fail."""
    for each in named(render(values=values), "StatefulSet"):
        for claim in each["spec"].get("volumeClaimTemplates", []):
            assert FIXED_LABELS == set(claim["metadata"]["labels"])


@every_values
def test_variables_of_a_node_are_its_settings(values: Path) -> None:
    """Every SYNAPTOROUTE_ variable is a field of NodeConfig, and the values are valid."""
    objects = render(values=values)
    spec = next(spec for _, labels, spec in pods(objects) if component(labels) == "node")
    told = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in environment(objects, spec).items()
        if name.startswith(ENV_PREFIX)
    }
    plain = {name: value for name, value in told.items() if isinstance(value, str)}

    assert set() == told.keys() - NodeConfig.model_fields.keys()
    assert NodeConfig(**plain).redis_url is None or "redis" in plain["redis_url"]


@every_values
def test_variables_of_the_coordinator_are_its_settings(values: Path) -> None:
    """Every SYNAPTOROUTE_COORDINATOR_ variable is a field of CoordinatorConfig."""
    objects = render(values=values)
    for _, labels, spec in pods(objects):
        if component(labels) == "coordinator":
            told = {
                name.removeprefix(COORDINATOR_PREFIX).lower(): value
                for name, value in environment(objects, spec).items()
                if name.startswith(COORDINATOR_PREFIX)
            }

            assert set() == told.keys() - CoordinatorConfig.model_fields.keys()
            assert 8090 == CoordinatorConfig(**told).port


def component(labels: dict[str, str]) -> str:
    """Return which part of the cluster a pod is."""
    return labels["app.kubernetes.io/component"]


@every_values
def test_services_and_probes_name_ports_that_exist(values: Path) -> None:
    objects = render(values=values)
    for service in named(objects, "Service"):
        selector = service["spec"]["selector"]
        spec = next(spec for _, labels, spec in pods(objects) if matches(selector, labels))
        names = {port["name"] for port in spec["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for name, _, spec in pods(objects):
        container = spec["containers"][0]
        names = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if "httpGet" in container.get(probe, {}):
                assert container[probe]["httpGet"]["port"] in names, f"{name} {probe}"


@every_values
def test_secrets_are_files_never_variables(values: Path) -> None:
    """No pod has a Secret in its environment, and no URL has a password."""
    objects = render(values=values)
    for name, _, spec in pods(objects):
        for container in spec["containers"]:
            for each in container.get("env", []):
                assert "secretKeyRef" not in each.get("valueFrom", {}), name
            for each in container.get("envFrom", []):
                assert "secretRef" not in each, name
    for each in named(objects, "ConfigMap"):
        assert ":" not in each["data"].get("SYNAPTOROUTE_REDIS_URL", "//").split("//")[1].partition(
            "@"
        )[0] or "@" not in each["data"].get("SYNAPTOROUTE_REDIS_URL", "")


def test_ports_of_a_node_are_consistent() -> None:
    """Image, container, headless Service and HAProxy use the same port."""
    objects = render({"haproxy.enabled": True})
    spec = pick(objects, "StatefulSet", "rel-synaptoroute")["spec"]["template"]["spec"]
    haproxy = pick(objects, "Deployment", "haproxy")["spec"]["template"]["spec"]

    assert "8080" == environment(objects, spec)["SYNAPTOROUTE_PORT"]
    assert 8080 == spec["containers"][0]["ports"][0]["containerPort"]
    assert 8080 == pick(objects, "Service", "-headless")["spec"]["ports"][0]["port"]
    assert environment(objects, haproxy)["NODE_ADDRESS"].endswith(
        "-headless.routing.svc.cluster.local:8080"
    )


def test_headless_service_finds_nodes_that_are_not_ready() -> None:
    """A node that catches up must reach its peers before it is ready."""
    headless = pick(render(), "Service", "-headless")["spec"]

    assert "None" == headless["clusterIP"]
    assert headless["publishNotReadyAddresses"] is True
    assert "publishNotReadyAddresses" not in pick(render(), "Service", "rel-synaptoroute")["spec"]


def test_liveness_does_not_depend_on_redis() -> None:
    """An outage of Redis must not restart a node."""
    spec = pick(render(), "StatefulSet", "rel-synaptoroute")["spec"]["template"]["spec"]
    node = spec["containers"][0]

    assert "/livez" == node["livenessProbe"]["httpGet"]["path"]
    assert "/livez" == node["startupProbe"]["httpGet"]["path"]
    assert "/readyz" == node["readinessProbe"]["httpGet"]["path"]


def test_grace_period_covers_sleep_and_drain() -> None:
    objects = render()
    spec = pick(objects, "StatefulSet", "rel-synaptoroute")["spec"]["template"]["spec"]
    sleep = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    drain = environment(objects, spec)["SYNAPTOROUTE_SHUTDOWN_SECONDS"]

    assert "sleep" == sleep[0]
    assert int(sleep[1]) + int(drain) < spec["terminationGracePeriodSeconds"]


def test_encoder_workers_follow_the_cpu_limit() -> None:
    """The process gets its CPU limit, unless the number of workers is set."""

    def lanes(changes: dict[str, Any]) -> Any:
        objects = render(changes)
        spec = pick(objects, "StatefulSet", "rel-synaptoroute")["spec"]["template"]["spec"]
        return environment(objects, spec)["SYNAPTOROUTE_LANES"]

    assert "limits.cpu" == lanes({})["valueFrom"]["resourceFieldRef"]["resource"]
    assert "7" == lanes({"node.settings": {"lanes": 7}})


def test_changed_settings_replace_the_pods() -> None:
    """The template has a checksum of the configuration."""

    def checksum(changes: dict[str, Any]) -> str:
        spec = pick(render(changes), "StatefulSet", "rel-synaptoroute")["spec"]
        found: str = spec["template"]["metadata"]["annotations"]["checksum/config"]
        return found

    assert checksum({}) == checksum({"service.port": 81})
    assert checksum({}) != checksum({"node.settings": {"log_level": "debug"}})


def test_log_is_created_by_all_nodes_of_the_first_install() -> None:
    """Later node counts do not change the number."""

    def expect(changes: dict[str, Any]) -> Any:
        objects = render(changes)
        spec = pick(objects, "StatefulSet", "rel-synaptoroute")["spec"]["template"]["spec"]
        return environment(objects, spec)["SYNAPTOROUTE_BOOTSTRAP_EXPECT"]

    assert "3" == expect({})
    assert "5" == expect({"node.replicaCount": 5})
    assert "2" == expect({"node.bootstrapExpect": 2})
    assert "4" == expect({"autoscaling": {"enabled": True, "minReplicas": 4}})


def test_redis_reads_its_password_from_a_file() -> None:
    """It is in no argument, variable or ConfigMap; eviction is off."""
    objects = render()
    secret = pick(objects, "Secret", "-redis")
    redis = pick(objects, "StatefulSet", "-redis")["spec"]["template"]["spec"]["containers"][0]
    config = pick(objects, "ConfigMap", "-redis")["data"]["redis.conf"]

    assert {"redis-password"} == secret["data"].keys()
    assert "exec redis-server -" in redis["args"][0]
    assert "env" not in redis
    assert "maxmemory-policy noeviction" in config
    assert config.rstrip().endswith("maxmemory 512mb")


def test_policies_let_only_the_cluster_reach_redis() -> None:
    """Redis accepts connections of nodes and coordinators, and makes none."""
    policy = pick(render(), "NetworkPolicy", "-redis")["spec"]
    peers = [
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for peer in policy["ingress"][0]["from"]
    ]

    assert ["node", "coordinator"] == peers
    assert [] == policy["egress"]
    assert {"Ingress", "Egress"} == set(policy["policyTypes"])


def test_readme_lists_all_values() -> None:
    """The table is what `make docs` writes."""
    readme = values_table.README.read_text(encoding="utf-8")
    values = (CHART / "values.yaml").read_text(encoding="utf-8")

    assert values_table.rewritten(readme, values) == readme
    assert 100 < len(list(values_table.described(values)))
