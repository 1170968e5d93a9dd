"""The chart renders valid objects under Helm 3 and 4, with every example of values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import charts
from charts import CHART, CI_VALUES, HELMS, Manifest, environment, named, pick, render
from needs import lacking

pytestmark = pytest.mark.deploy

KUBERNETES = tuple(f"1.{minor}" for minor in range(25, 38))
# Kinds of other projects, whose schemas no Kubernetes release carries.
FOREIGN = {"HTTPRoute", "ServiceMonitor", "PrometheusRule", "Certificate"}


def by_name(path: Path) -> str:
    """Name a test after its file."""
    return path.name.removesuffix("-values.yaml")


@pytest.mark.parametrize("major", HELMS)
def test_chart_passes_lint(major: str) -> None:
    for values in CI_VALUES:
        done = charts.run_helm(major, "lint", str(CHART), "--strict", "--values", str(values))

        assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("values", CI_VALUES, ids=by_name)
def test_both_helms_render_the_same(values: Path) -> None:
    """An installation by one version can be upgraded by the other."""
    kinds = {"Secret"}  # holds what was drawn by lot
    three, four = (
        [o for o in render(values=values, major=m) if o["kind"] not in kinds] for m in HELMS
    )

    assert three == four


@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_are_valid_in_every_supported_kubernetes(version: str) -> None:
    """Each object of each example passes the strict schema of Kubernetes 1.25 to 1.37."""
    try:
        import kubernetes_validate
    except ImportError:
        lacking("the package kubernetes-validate")
    # Most objects are the same in many examples: each is judged once.
    seen: set[str] = set()
    for values in CI_VALUES:
        for each in render(values=values, kube=f"{version}.0"):
            if each["kind"] in FOREIGN or (text := json.dumps({**each, "data": {}})) in seen:
                continue
            kubernetes_validate.validate(each, version, strict=True)
            seen.add(text)

    assert len(seen) > 30


def test_kubernetes_before_1_25_is_refused() -> None:
    done = charts.run_helm("4", "template", "rel", str(CHART), "--kube-version", "1.24.0")

    assert 0 != done.returncode
    assert "1.25" in done.stderr


def test_retention_policy_needs_kubernetes_1_27() -> None:
    before, after = (
        pick(render(kube=kube), "StatefulSet", "rel-synaptoroute")["spec"]
        for kube in ("1.26.0", "1.27.0")
    )

    assert "persistentVolumeClaimRetentionPolicy" not in before
    assert {"whenDeleted": "Retain", "whenScaled": "Retain"} == (
        after["persistentVolumeClaimRetentionPolicy"]
    )


def test_node_count_is_left_to_the_autoscaler() -> None:
    """With an autoscaler the chart sets no count: a server-side apply would reset it."""
    scaled = render({"autoscaling.enabled": True})

    assert "replicas" not in pick(scaled, "StatefulSet", "rel-synaptoroute")["spec"]
    assert 3 == pick(render(), "StatefulSet", "rel-synaptoroute")["spec"]["replicas"]
    assert (
        "rel-synaptoroute"
        == (pick(scaled, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"])
    )


def test_optional_features_are_off_by_default() -> None:
    """Nothing needs a CRD, and nothing is exposed."""
    kinds = {each["kind"] for each in render()}

    assert not kinds & {*FOREIGN, "Ingress", "HorizontalPodAutoscaler"}
    assert {"NetworkPolicy", "PodDisruptionBudget", "StatefulSet"} <= kinds


def test_image_digest_wins_over_the_tag() -> None:
    digest = "sha256:" + "ab" * 32
    image = render({"node.image.digest": digest, "node.image.tag": "v9"})
    spec = pick(image, "StatefulSet", "rel-synaptoroute")["spec"]["template"]["spec"]

    assert spec["containers"][0]["image"].endswith(f"synaptoroute-node@{digest}")


def test_extra_objects_are_templates() -> None:
    """They can use the names of the release."""
    values = CHART / "ci/placement-values.yaml"

    assert {"chart": "synaptoroute"} == pick(render(values=values), "ConfigMap", "rel-extra")[
        "data"
    ]


def test_ingress_goes_through_haproxy_if_it_is_enabled() -> None:
    """Ingress and HTTPRoute use the Service that balances requests."""
    objects = render(values=CHART / "ci/exposed-values.yaml")
    path = pick(objects, "Ingress")["spec"]["rules"][0]["http"]["paths"][0]
    services = {each["metadata"]["name"] for each in named(objects, "Service")}

    assert "/v1" == path["path"]
    assert "rel-synaptoroute-haproxy" == path["backend"]["service"]["name"]
    assert (
        "rel-synaptoroute-haproxy"
        == (pick(objects, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0]["name"])
    )
    assert "rel-synaptoroute-haproxy" in services


def test_single_node_needs_no_redis() -> None:
    objects = render(values=CHART / "ci/single-node-values.yaml")
    _, _, spec = next(pod for pod in charts.pods(objects) if pod[0] == "rel-synaptoroute")
    told = charts.environment(objects, spec)

    assert not [name for name in told if "REDIS" in name or "BOOTSTRAP" in name]
    assert "5000" == told["SYNAPTOROUTE_EMBEDDING_CACHE_ROWS"]
    assert [] == named(objects, "PodDisruptionBudget")


def test_keyless_chart_answers_for_the_hosts_of_its_services_and_of_the_outside() -> None:
    hosts = {"ingress.enabled": True, "ingress.hosts": ["router.example"]}
    changes = {"auth.insecure": True, "http.allowedHosts": ["*.other.example"], **hosts}
    for component in ("node", "coordinator"):
        kind = "StatefulSet" if component == "node" else "Deployment"
        objects = render({**changes, "networkPolicy.enabled": True})
        name = "rel-synaptoroute" + ("" if component == "node" else "-coordinator")
        prefix = "SYNAPTOROUTE_" + ("" if component == "node" else "COORDINATOR_")
        spec = pick(objects, kind, name)["spec"]["template"]["spec"]
        allowed = environment(objects, spec)[f"{prefix}ALLOWED_HOSTS"].split(",")

        assert "rel-synaptoroute.routing.svc.cluster.local" in allowed
        assert "*.rel-synaptoroute-headless.routing.svc.cluster.local" in allowed
        assert {"router.example", "*.other.example"} <= set(allowed)
        assert "10.0.0.0/8" in environment(objects, spec)[f"{prefix}TRUSTED_PROXIES"]


def test_chart_with_keys_allows_every_host_and_trusts_no_proxy_by_default() -> None:
    objects = render()
    spec = pick(objects, "StatefulSet", "rel-synaptoroute")["spec"]["template"]["spec"]
    settings = environment(objects, spec)

    assert not {"SYNAPTOROUTE_ALLOWED_HOSTS", "SYNAPTOROUTE_TRUSTED_PROXIES"} & set(settings)


def test_haproxy_believes_forwarding_headers_of_what_stands_before_it_only() -> None:
    alone = render({"haproxy.enabled": True})
    behind = render(
        {"haproxy.enabled": True, "ingress.enabled": True, "ingress.hosts": ["router.example"]}
    )

    def settings(objects: list[Manifest]) -> dict[str, Any]:
        spec = pick(objects, "Deployment", "haproxy")["spec"]["template"]["spec"]
        return environment(objects, spec)

    assert "TRUSTED_PROXIES" not in settings(alone)
    assert "10.0.0.0/8 172.16.0.0/12" in settings(behind)["TRUSTED_PROXIES"]


def test_nodes_and_coordinator_send_spans_to_the_endpoint() -> None:
    """Credentials of the receiver come from a Secret."""
    objects = render(values=CHART / "ci/observability-values.yaml")
    pods = {name: spec for name, _, spec in charts.pods(objects)}
    for name in ("rel-synaptoroute", "rel-synaptoroute-coordinator"):
        told = environment(objects, pods[name])
        assert "http://collector.observability:4318" == told["OTEL_EXPORTER_OTLP_ENDPOINT"]
        assert ("parentbased_traceidratio", "0.25") == (
            told["OTEL_TRACES_SAMPLER"],
            told["OTEL_TRACES_SAMPLER_ARG"],
        )
        files = {value for name, value in told.items() if name.endswith("OTLP_HEADERS_FILE")}
        assert {"/run/secrets/synaptoroute/otlp/headers"} == files
        volumes = {each["name"]: each for each in pods[name]["volumes"]}
        assert "collector-credentials" == volumes["otlp-headers"]["secret"]["secretName"]


def test_chart_without_an_endpoint_sets_no_variable_of_opentelemetry() -> None:
    objects = render()

    assert "OTEL_" not in json.dumps(objects)
