"""A server that answers like the API of a Kubernetes cluster, for `lookup` in the chart."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Kinds of the chart's objects and of what it looks up: by API group, with the plural.
KINDS = {
    "/api/v1": {
        "ConfigMap": "configmaps",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Pod": "pods",
        "Secret": "secrets",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
    },
    "/apis/apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "/apis/autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "/apis/networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "/apis/policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
}


def _group(path: str) -> dict[str, Any]:
    _, _, name, version = path.split("/")
    of = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [of], "preferredVersion": of}


def _documents(objects: Sequence[Mapping[str, Any]], namespace: str) -> dict[str, Any]:
    groups = [_group(path) for path in KINDS if path.startswith("/apis/")]
    found: dict[str, Any] = {
        "/version": {"major": "1", "minor": "30", "gitVersion": "v1.30.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for path, kinds in KINDS.items():
        resources = [
            {"name": plural, "kind": kind, "namespaced": True, "verbs": ["get"]}
            for kind, plural in kinds.items()
        ]
        group = path.split("/", 2)[2]
        found[path] = {"kind": "APIResourceList", "groupVersion": group, "resources": resources}
        for each in objects:
            if each["kind"] in kinds:
                place = f"{path}/namespaces/{namespace}/{kinds[each['kind']]}"
                found[f"{place}/{each['metadata']['name']}"] = each
    return found


@contextmanager
def fake_kubernetes(
    objects: Sequence[Mapping[str, Any]], namespace: str = "routing"
) -> Iterator[str]:
    """Serve objects of one namespace on the loopback interface; gives the address."""
    documents = _documents(objects, namespace)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = documents.get(self.path.partition("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
            body = json.dumps(document or {**missing, "reason": "NotFound"}).encode()
            self.send_response(200 if document else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
