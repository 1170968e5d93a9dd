"""Values by which a platform team fits the chart into its cluster, each where it is rendered."""

from __future__ import annotations

from typing import Any

import pytest

from charts import CHART, Manifest, environment, named, pick, pods, render

pytestmark = pytest.mark.deploy

DOOR = CHART / "ci/door-values.yaml"
SENTINEL = CHART / "ci/sentinel-values.yaml"
OPENSHIFT = CHART / "ci/openshift-values.yaml"
COMPONENTS = ("node", "coordinator", "redis", "haproxy")
EVERYTHING = {"haproxy.enabled": True}


def pod(objects: list[Manifest], component: str) -> Manifest:
    label = "app.kubernetes.io/component"
    return next(spec for _, labels, spec in pods(objects) if labels[label] == component)


def workload(objects: list[Manifest], component: str) -> Manifest:
    label = "app.kubernetes.io/component"
    return next(
        each
        for each in objects
        if each["kind"] in {"StatefulSet", "Deployment"}
        and each["metadata"]["labels"][label] == component
    )


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runtimeClassName", "gvisor"),
        ("schedulerName", "batch"),
        ("priorityClassName", "high"),
        ("dnsPolicy", "None"),
        ("dnsConfig", {"nameservers": ["192.0.2.1"]}),
        ("hostAliases", [{"ip": "192.0.2.1", "hostnames": ["a"]}]),
        ("nodeSelector", {"role": "router"}),
        ("tolerations", [{"operator": "Exists"}]),
        ("affinity", {"podAntiAffinity": {}}),
        ("topologySpreadConstraints", [{"maxSkew": 2, "topologyKey": "zone"}]),
        ("initContainers", [{"name": "first", "image": "busybox"}]),
    ],
)
def test_every_component_can_be_placed(component: str, name: str, value: Any) -> None:
    """HAProxy like the others: it is the way in."""
    spec = pod(render({**EVERYTHING, f"{component}.{name}": value}), component)

    assert value == spec[name]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_takes_additions(component: str) -> None:
    beside = {"name": "beside", "image": "busybox"}
    mount = {"name": "more", "mountPath": "/more"}
    added = {
        "extraEnv": [{"name": "EXTRA", "value": "1"}],
        "extraEnvFrom": [{"secretRef": {"name": "more"}}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [mount],
        "extraContainers": [beside],
        "podLabels": {"c": "d"},
        "podAnnotations": {"a": "b"},
        "podSecurityContext": {"runAsUser": 7},
        "containerSecurityContext": {"readOnlyRootFilesystem": False},
    }
    given = {f"{component}.{name}": value for name, value in added.items()}
    objects = render({**EVERYTHING, **given})
    spec, template = pod(objects, component), workload(objects, component)["spec"]["template"]
    container = spec["containers"][0]

    assert {"name": "EXTRA", "value": "1"} in container["env"]
    assert {"secretRef": {"name": "more"}} in container["envFrom"]
    assert mount in container["volumeMounts"]
    assert beside == spec["containers"][1]
    assert {"name": "more", "emptyDir": {}} in spec["volumes"]
    assert "d" == template["metadata"]["labels"]["c"]
    assert "b" == template["metadata"]["annotations"]["a"]
    assert (7, 10001) == (spec["securityContext"]["runAsUser"], spec["securityContext"]["fsGroup"])
    assert container["securityContext"]["readOnlyRootFilesystem"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_has_a_service_account_and_an_update_strategy(component: str) -> None:
    own = {"create": True, "name": "mine", "annotations": {"a": "b"}}
    strategy = {"type": "OnDelete" if component in {"node", "redis"} else "Recreate"}
    given = {f"{component}.serviceAccount": own, f"{component}.updateStrategy": strategy}
    objects = render({**EVERYTHING, **given})
    account = pick(objects, "ServiceAccount", "mine")
    spec = workload(objects, component)["spec"]
    foreign = render({**EVERYTHING, f"{component}.serviceAccount": {"create": False, "name": "x"}})

    assert {"a": "b"} == account["metadata"]["annotations"]
    assert account["automountServiceAccountToken"] is False
    assert "mine" == pod(objects, component)["serviceAccountName"]
    assert strategy == spec["updateStrategy" if component in {"node", "redis"} else "strategy"]
    assert "x" == pod(foreign, component)["serviceAccountName"]
    assert 3 == len(named(foreign, "ServiceAccount"))


@pytest.mark.parametrize(
    ("values", "name"),
    [("service", ""), ("haproxy.service", "-haproxy"), ("coordinator.service", "-coordinator")],
)
def test_every_service_can_be_a_load_balancer(values: str, name: str) -> None:
    fields = {
        "loadBalancerClass": "service.k8s.aws/nlb",
        "loadBalancerIP": "192.0.2.7",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "externalTrafficPolicy": "Local",
        "internalTrafficPolicy": "Local",
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv6", "IPv4"],
        "clusterIP": "10.0.0.7",
    }
    more = {"nodePort": 30_000, "annotations": {"a": "b"}, "labels": {"c": "d"}}
    given = {f"{values}.{key}": value for key, value in {**fields, **more}.items()}
    objects = render({**EVERYTHING, **given, f"{values}.type": "LoadBalancer"})
    service = pick(objects, "Service", f"rel-synaptoroute{name}")

    assert fields | {"type": "LoadBalancer"} == {
        key: service["spec"][key] for key in (*fields, "type")
    }
    assert 30_000 == service["spec"]["ports"][0]["nodePort"]
    assert {"a": "b"} == service["metadata"]["annotations"]
    assert "d" == service["metadata"]["labels"]["c"]


def test_haproxy_is_a_door_with_a_port_and_metrics_of_its_own() -> None:
    """Its metrics are not on the Service of the clients."""
    objects = render({**EVERYTHING, "haproxy.service.port": 8443, "service.port": 81})
    same = render({**EVERYTHING, "service.port": 81})
    metrics = pick(objects, "Service", "-haproxy-metrics")["spec"]

    def ports(found: list[Manifest], name: str) -> list[tuple[str, int]]:
        service = pick(found, "Service", name)["spec"]
        return [(each["name"], each["port"]) for each in service["ports"]]

    assert [("http", 8443)] == ports(objects, "-haproxy")
    assert [("http", 81)] == ports(objects, "rel-synaptoroute")
    assert [("http", 81)] == ports(same, "-haproxy")
    assert ("metrics", 8404) == (metrics["ports"][0]["name"], metrics["ports"][0]["port"])
    monitored = render({**EVERYTHING, "monitoring.serviceMonitor.enabled": True})
    monitor = pick(monitored, "ServiceMonitor", "-haproxy")["spec"]
    service = pick(monitored, "Service", "-haproxy-metrics")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert "metrics" == monitor["endpoints"][0]["port"]


def test_ingress_paths_and_the_coordinators_ingress() -> None:
    objects = render(
        {
            "ingress": {"enabled": True, "hosts": ["r.example"], "paths": [
                {"path": "/v1/query", "pathType": "Exact"}
            ]},
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}], "paths": ["/a", "/b"]},
            "coordinator.ingress": {"enabled": True, "hosts": ["fleet.example"],
                                    "annotations": {"a": "b"}, "className": "nginx"},
            "http.allowedHosts": ["x.example"],
        }
    )  # fmt: skip
    (path,) = pick(objects, "Ingress", "rel-synaptoroute")["spec"]["rules"][0]["http"]["paths"]
    fleet = pick(objects, "Ingress", "-coordinator")
    matches = pick(objects, "HTTPRoute")["spec"]["rules"][0]["matches"]
    told = environment(objects, pod(objects, "coordinator"))

    assert ("/v1/query", "Exact") == (path["path"], path["pathType"])
    assert ["/a", "/b"] == [each["path"]["value"] for each in matches]
    assert ("nginx", {"a": "b"}) == (
        fleet["spec"]["ingressClassName"],
        fleet["metadata"]["annotations"],
    )
    backend = fleet["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert "rel-synaptoroute-coordinator" == backend["name"]
    assert "fleet.example" in told["SYNAPTOROUTE_COORDINATOR_ALLOWED_HOSTS"].split(",")
    assert told["SYNAPTOROUTE_COORDINATOR_TRUSTED_PROXIES"].startswith("10.0.0.0/8")


def test_monitors_take_relabelings_and_limits() -> None:
    for monitor in named(render(values=OPENSHIFT), "ServiceMonitor"):
        endpoint = monitor["spec"]["endpoints"][0]
        targets = [each.get("targetLabel") for each in endpoint["relabelings"]]

        assert ("10s", True) == (endpoint["scrapeTimeout"], endpoint["honorLabels"])
        assert ["job", "synaptoroute_cluster", "region"] == targets
        assert [{"action": "labeldrop", "regex": "node_id"}] == endpoint["metricRelabelings"]


def test_budgets_let_unready_pods_be_evicted_from_kubernetes_1_27() -> None:
    for component in ("", "-haproxy"):
        name = f"rel-synaptoroute{component}"
        before, after = (
            pick(render(values=DOOR, kube=kube), "PodDisruptionBudget", name)["spec"]
            for kube in ("1.26.0", "1.27.0")
        )
        assert "unhealthyPodEvictionPolicy" not in before
        assert "AlwaysAllow" == after["unhealthyPodEvictionPolicy"]
    assert 2 == pick(render(values=DOOR), "PodDisruptionBudget", "-haproxy")["spec"]["minAvailable"]
    off = {"haproxy.podDisruptionBudget.enabled": False, "haproxy.enabled": True}
    names = [each["metadata"]["name"] for each in named(render(off), "PodDisruptionBudget")]
    assert ["rel-synaptoroute", "rel-synaptoroute-coordinator"] == sorted(names)


def test_volume_claims_take_annotations() -> None:
    for each in named(render(values=DOOR), "StatefulSet"):
        (claim,) = each["spec"]["volumeClaimTemplates"]
        assert {"resize": "yes"} == claim["metadata"]["annotations"]


def test_autoscaler_targets_memory_and_takes_another_behavior() -> None:
    behavior = {"scaleDown": {"selectPolicy": "Disabled"}}
    scaled = {
        "enabled": True,
        "targetCPUUtilizationPercentage": 0,
        "targetMemoryUtilizationPercentage": 80,
        "behavior": behavior,
    }
    spec = pick(render({"autoscaling": scaled}), "HorizontalPodAutoscaler")["spec"]
    (metric,) = spec["metrics"]

    assert ("memory", 80) == (
        metric["resource"]["name"],
        metric["resource"]["target"]["averageUtilization"],
    )
    assert behavior == spec["behavior"]


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        (
            "ghcr.io/synaptoroute/synaptoroute-node",
            "m.example:5000/x/synaptoroute/synaptoroute-node",
        ),
        ("localhost/node", "m.example:5000/x/node"),
        ("library/node", "m.example:5000/x/library/node"),
        ("node", "m.example:5000/x/node"),
    ],
)
def test_registry_of_all_images(repository: str, expected: str) -> None:
    given = {"global": {"imageRegistry": "m.example:5000/x/", "imagePullSecrets": ["a"]}}
    given |= {"imagePullSecrets": [{"name": "b"}, {"name": "a"}], "haproxy.enabled": True}
    objects = render({**given, "node.image.repository": repository})
    for name, _, spec in pods(objects):
        assert spec["containers"][0]["image"].startswith("m.example:5000/x/"), name
        assert [{"name": "a"}, {"name": "b"}] == spec["imagePullSecrets"], name
    assert expected == pod(objects, "node")["containers"][0]["image"].rpartition(":")[0]


def test_namespace_and_annotations_of_every_object() -> None:
    """Addresses follow the namespace, too."""
    objects = render(values=OPENSHIFT)
    for each in objects:
        assert "elsewhere" == each["metadata"]["namespace"], each["metadata"]["name"]
        assert "routing" == each["metadata"]["annotations"]["example.org/owner"]
    told = environment(objects, pod(objects, "node"))
    assert told["SYNAPTOROUTE_ADVERTISE_URL"].endswith(
        ".rel-synaptoroute-headless.elsewhere.svc:8080"
    )
    assert ".routing." not in str(objects)


def test_openshift_chooses_users_and_groups() -> None:
    """A value of null removes the field; what is left still passes Pod Security `restricted`."""
    for name, _, spec in pods(render(values=OPENSHIFT)):
        expected = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert expected == spec["securityContext"], name


@pytest.mark.parametrize("component", ["node", "coordinator"])
def test_sentinels_with_a_user_of_their_own_and_tls(component: str) -> None:
    """Passwords and certificates are mounted from Secrets; the settings name the files alone."""
    objects = render(values=SENTINEL)
    spec = pod(objects, component)
    told = environment(objects, spec)
    prefix = "SYNAPTOROUTE_" if component == "node" else "SYNAPTOROUTE_COORDINATOR_"
    volumes = {each["name"]: each.get("secret") for each in spec["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in spec["containers"][0]["volumeMounts"]}

    assert told[f"{prefix}REDIS_URL"].startswith("rediss+sentinel://synaptoroute@sentinel-0:26379,")
    assert ("router", "true") == (
        told[f"{prefix}REDIS_SENTINEL_USER"],
        told[f"{prefix}REDIS_SENTINEL_TLS"],
    )
    for setting, volume, secret, key in (
        ("REDIS_PASSWORD_FILE", "redis-password", "redis-credentials", "redis-password"),
        ("REDIS_SENTINEL_PASSWORD_FILE", "redis-sentinel", "sentinel-credentials",
         "sentinel-password"),
        ("REDIS_CA_FILE", "redis-ca", "redis-ca", "ca.crt"),
        ("REDIS_CERT_FILE", "redis-client", "redis-client", "tls.crt"),
        ("REDIS_KEY_FILE", "redis-client", "redis-client", "tls.key"),
    ):  # fmt: skip
        path = {each["key"]: each["path"] for each in volumes[volume]["items"]}[key]
        assert secret == volumes[volume]["secretName"]
        assert f"{mounts[volume]}/{path}" == told[prefix + setting]


def test_nodes_listen_at_the_replicas_of_redis() -> None:
    """The code reads the list that the chart writes; coordinators listen at the primary."""
    from synaptoroute.sequencer.client import split_urls

    objects = render(values=SENTINEL)
    node, coordinator = (environment(objects, pod(objects, each)) for each in COMPONENTS[:2])

    assert [
        "rediss+sentinel://sentinel-0:26379,sentinel-1:26379,sentinel-2:26379/mymaster/0",
        "rediss://redis-replica.us.example.org:6390/0",
    ] == split_urls(node["SYNAPTOROUTE_REDIS_BUS_URLS"])
    assert not [name for name in coordinator if name.endswith("BUS_URLS")]
