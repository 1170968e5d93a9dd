"""TLS of the chart: every component that speaks or asks HTTP follows `tls.enabled`."""

from __future__ import annotations

import pytest

from charts import CHART, Manifest, environment, named, pick, pods, render

pytestmark = pytest.mark.deploy

EXAMPLE = CHART / "ci/tls-values.yaml"
SECRET = {"tls.enabled": True, "tls.existingSecret": "certificates"}
FOLDER = "/run/secrets/synaptoroute/tls"


def pod(objects: list[Manifest], component: str) -> Manifest:
    label = "app.kubernetes.io/component"
    return next(spec for _, labels, spec in pods(objects) if labels[label] == component)


def probes(spec: Manifest) -> list[Manifest]:
    container = spec["containers"][0]
    return [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]


@pytest.mark.parametrize("component", ["node", "coordinator"])
def test_probes_and_variables_follow(component: str) -> None:
    plain, tls = render(), render(SECRET)
    prefix = "SYNAPTOROUTE_" if component == "node" else "SYNAPTOROUTE_COORDINATOR_"
    told = environment(tls, pod(tls, component))

    assert [None] * 3 == [each.get("scheme") for each in probes(pod(plain, component))]
    assert ["HTTPS"] * 3 == [each["scheme"] for each in probes(pod(tls, component))]
    assert not [name for name in environment(plain, pod(plain, component)) if "TLS" in name]
    assert f"{FOLDER}/tls.crt" == told[f"{prefix}TLS_CERT"]
    assert f"{FOLDER}/tls.key" == told[f"{prefix}TLS_KEY"]
    assert f"{FOLDER}/ca.crt" == told[f"{prefix}TLS_CLIENT_CA"]
    assert f"{prefix}ALLOW_PLAIN_PEERS" not in told
    assert f"{prefix}TLS_CLIENT_AUTH" not in told, "the kubelet has no certificate"


def test_without_mutual_authentication_peers_are_verified_all_the_same() -> None:
    objects = render({**SECRET, "tls.mutual": False, "tls.allowPlainPeers": True})
    told = environment(objects, pod(objects, "node"))

    assert "SYNAPTOROUTE_TLS_CLIENT_CA" not in told
    assert f"{FOLDER}/ca.crt" == told["SYNAPTOROUTE_PEER_CA_FILE"]
    assert "true" == told["SYNAPTOROUTE_ALLOW_PLAIN_PEERS"]


def test_nodes_advertise_https() -> None:
    told = environment(render(SECRET), pod(render(SECRET), "node"))

    assert told["SYNAPTOROUTE_ADVERTISE_URL"].startswith("https://$(POD_NAME).")


def test_one_secret_serves_every_component_under_fixed_names() -> None:
    keys = {"tls.certKey": "cert", "tls.keyKey": "key", "tls.caKey": "authority"}
    objects = render({**SECRET, **keys, "haproxy.enabled": True})
    for component in ("node", "coordinator", "haproxy", "test"):
        (volume,) = [v for v in pod(objects, component)["volumes"] if v["name"] == "tls"]
        assert "certificates" == volume["secret"]["secretName"]
        assert {"cert": "tls.crt", "key": "tls.key", "authority": "ca.crt"} == {
            each["key"]: each["path"] for each in volume["secret"]["items"]
        }


def monitors_of_tls(objects: list[Manifest]) -> list[Manifest]:
    """Monitors of what speaks TLS: HAProxy's metrics have a port of their own, inside only."""
    found = [
        each
        for each in named(objects, "ServiceMonitor")
        if not each["metadata"]["name"].endswith("-haproxy")
    ]
    assert 2 == len(found)
    return found


def certificate_names() -> list[str]:
    names: list[str] = pick(render(values=EXAMPLE), "Certificate")["spec"]["dnsNames"]
    return names


def is_named(host: str) -> bool:
    return any(
        host == name or (name.startswith("*.") and host.partition(".")[2] == name[2:])
        for name in certificate_names()
    )


def test_the_certificate_names_every_address_that_is_used() -> None:
    objects = render(values=EXAMPLE)
    node, haproxy = (environment(objects, pod(objects, each)) for each in ("node", "haproxy"))
    asked = environment(objects, pod(objects, "test"))
    advertised = node["SYNAPTOROUTE_ADVERTISE_URL"].replace("$(POD_NAME)", "rel-synaptoroute-7")
    urls = [advertised, asked["SERVICE"], *asked["NODES"].split(",")]
    hosts = [url.removeprefix("https://").partition(":")[0] for url in urls]
    hosts += [haproxy["NODE_NAME"], haproxy["COORDINATOR_NAME"], "router.example.org"]
    hosts += [
        monitor["spec"]["endpoints"][0]["tlsConfig"]["serverName"]
        for monitor in monitors_of_tls(objects)
    ]

    assert 10 == len(hosts)
    assert [] == [host for host in hosts if not is_named(host)]


def test_cert_manager_makes_the_secret_that_is_mounted() -> None:
    objects = render(values=EXAMPLE)
    spec = pick(objects, "Certificate")["spec"]
    (volume,) = [v for v in pod(objects, "node")["volumes"] if v["name"] == "tls"]

    assert spec["secretName"] == volume["secret"]["secretName"]
    assert {"name": "cluster-ca", "kind": "ClusterIssuer", "group": "cert-manager.io"} == (
        spec["issuerRef"]
    )
    assert {"server auth", "client auth"} <= set(spec["usages"])


def test_haproxy_verifies_nodes_and_reads_changed_certificates() -> None:
    objects = render(values=EXAMPLE)
    spec = pod(objects, "haproxy")
    told = environment(objects, spec)
    plain = render({"haproxy.enabled": True})

    assert f"{FOLDER}/ca.crt" == told["NODE_CA_FILE"]
    assert f"{FOLDER}/tls.crt" == told["BIND_CERT_FILE"] == told["CLIENT_CERT_FILE"]
    assert "kill -USR2 1" in spec["containers"][0]["command"][2]
    assert "NODE_CA_FILE" not in environment(plain, pod(plain, "haproxy"))
    assert "haproxy" == pod(plain, "haproxy")["containers"][0]["command"][0]


def test_prometheus_scrapes_with_tls() -> None:
    for monitor in monitors_of_tls(render(values=EXAMPLE)):
        endpoint = monitor["spec"]["endpoints"][0]
        assert "https" == endpoint["scheme"]
        assert "ca.crt" == endpoint["tlsConfig"]["ca"]["secret"]["key"]
        assert "insecureSkipVerify" not in endpoint["tlsConfig"]
    plain = render({"monitoring.serviceMonitor.enabled": True})
    for monitor in named(plain, "ServiceMonitor"):
        assert "scheme" not in monitor["spec"]["endpoints"][0]
