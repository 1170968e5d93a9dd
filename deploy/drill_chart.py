#!/usr/bin/env python3
"""The disaster drill on Kubernetes: the chart in a namespace of its own, which it deletes.

Installs the chart, loads routes, takes a backup, deletes the release with every volume and Secret,
restores the backup on the volume of one node, installs the chart again, and compares the digest
of every node.  Where no Kubernetes answers it says so and does nothing.

Usage: make drill, with KUBECONFIG.  DRILL_HELM_ARGS has arguments of `helm install`, such as
'--set node.image.repository=synaptoroute-node,node.image.tag=dev'.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from drill import BACKUP_SECONDS_MAX, NODES, DrillFailed

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "helm/synaptoroute"
RELEASE: Final = "drill"
NAME: Final = "drill-synaptoroute"
COMMAND_SECONDS_MAX: Final = 900
STEP_SECONDS_MAX: Final = 300.0
KEPT_SECRETS: Final = ("cluster-secret", "identities")
# Sends one request from inside a pod, where the API key is a file or a variable.
REQUEST: Final = """
import json, sys, urllib.request
port, method, path, key, body = sys.argv[1:6]
request = urllib.request.Request(f'http://127.0.0.1:{port}{path}', method=method,
    data=body.encode() or None, headers={'Authorization': f'Bearer {key}',
    'Content-Type': 'application/x-ndjson' if 'import' in path else 'application/json'})
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with opener.open(request, timeout=60) as answer:
    print(answer.read().decode())
"""


class ChartDrill:
    """One drill.

    Args:
        kept: Folder of what an operator keeps elsewhere.
    """

    def __init__(self, kept: Path) -> None:
        self.kept = kept
        self.began = time.monotonic()
        self.space = f"srdrill{os.getpid()}"

    def run(self) -> None:
        """Do all steps, and delete the namespace.

        Raises:
            DrillFailed: A step failed.
        """
        self.kubectl("create", "namespace", self.space)
        try:
            self.install()
            before, routes = self.load(), 50
            self.say(f"{routes} routes, digest {before}")
            backup = self.back_up()
            self.destroy()
            self.restore(backup)
            self.install()
            after = self.digest()
            if before != after:
                raise DrillFailed(f"digest before: {before}, after: {after}")
            self.say(f"passed: every node has the digest {after}")
        finally:
            self.kubectl("delete", "namespace", self.space, "--wait=false")

    # --- steps ----------------------------------------------------------------------------

    def install(self) -> None:
        self.say("install the chart")
        self.apply(_claim("backups"))
        more = shlex.split(os.environ.get("DRILL_HELM_ARGS", ""))
        backups = "coordinator.backups.existingClaim=backups"
        words = ["install", RELEASE, str(CHART), "--namespace", self.space, "--wait"]
        sets = ["--set", f"{backups},coordinator.replicaCount=1", "--timeout", "10m"]
        _run(["helm", *words, *sets, *more])

    def load(self) -> str:
        """Write routes; return the digest that every node has."""
        self.say("load routes")
        lines = "\n".join(
            json.dumps({"name": f"drill-{n}", "utterances": [f"question {n}", f"case {n} please"]})
            for n in range(50)
        )
        self.ask(f"{NAME}-0", 8080, "POST", "/v1/import?ack=all", lines)
        # Nodes fit a changed route set in the background, which changes the digest.
        self.ask(f"{NAME}-0", 8080, "POST", "/v1/settings/calibration", "{}")
        return self.digest()

    def digest(self) -> str:
        """Return the digest of all nodes, once it is one."""
        give_up_at = time.monotonic() + STEP_SECONDS_MAX
        while True:
            states = [self.ask(f"{NAME}-{n}", 8080, "GET", "/-/digest") for n in range(NODES)]
            digests = {state["digest"] for state in states}
            if len(digests) == 1:
                return str(digests.pop())
            if time.monotonic() > give_up_at:
                raise DrillFailed(f"the nodes differ: {sorted(digests)}")
            time.sleep(1)

    def back_up(self) -> str:
        """Take a backup, and copy it out with the Secrets that make the cluster; its name."""
        self.say("take a backup")
        pod = self.coordinator()
        give_up_at = time.monotonic() + STEP_SECONDS_MAX
        while not (found := self._backups_after_order(pod)):
            if time.monotonic() > give_up_at:
                raise DrillFailed("no backup was finished")
        name = str(found[0]["name"])
        for suffix in (".sqlite", ".json"):
            data = self.kubectl_bytes("exec", pod, "--", "cat", f"/backups/{name}{suffix}")
            (self.kept / f"{name}{suffix}").write_bytes(data)
        for secret in KEPT_SECRETS:
            text = self.kubectl("get", "secret", f"{NAME}-{secret}", "--output", "json")
            (self.kept / f"{secret}.json").write_text(json.dumps(_bare(json.loads(text))))
        self.say(f"kept elsewhere: {name}, the cluster secret and the keys of the voters")
        return name

    def _backups_after_order(self, pod: str) -> list[dict[str, Any]]:
        """Order a backup and wait for one; none if it failed, as it does where a vote is new."""
        try:
            self.ask(pod, 8090, "POST", "/v1/actions/backup", "{}")
        except DrillFailed:  # no node has been audited yet, or a backup is running
            time.sleep(2)
            return []
        give_up_at = time.monotonic() + BACKUP_SECONDS_MAX
        found: list[dict[str, Any]] = []
        while not found and time.monotonic() < give_up_at:
            time.sleep(1)
            found = self.ask(pod, 8090, "GET", "/v1/backups")["backups"]
        return found

    def destroy(self) -> None:
        self.say("destroy everything: release, volumes, Secrets")
        _run(["helm", "uninstall", RELEASE, "--namespace", self.space, "--wait"])
        self.kubectl("delete", "persistentvolumeclaim,secret,pod", "--all", "--wait")

    def restore(self, name: str) -> None:
        """Put the Secrets back, and the backup on the volume of the first node."""
        self.say("restore the backup on the volume of one node; its origin is verified")
        for secret in KEPT_SECRETS:
            self.apply(json.loads((self.kept / f"{secret}.json").read_text()))
        self.apply(_claim(f"data-{NAME}-0"))
        self.apply(self.restorer())
        self.kubectl("wait", "--for=condition=Ready", "pod/restore", "--timeout=300s")
        for suffix in (".sqlite", ".json"):
            data = (self.kept / f"{name}{suffix}").read_bytes()
            self.kubectl_bytes(
                "exec", "--stdin", "restore", "--", "sh", "-c", f"cat > /tmp/{name}{suffix}",
                data=data,
            )  # fmt: skip
        command = f"synaptoroute restore /tmp/{name}.json --database /data/synaptoroute.sqlite"
        files = "--signing-keys-file /secret/signing-keys --genesis-file /voters/genesis.json"
        self.say(self.kubectl("exec", "restore", "--", "sh", "-c", f"{command} {files}").strip())
        self.kubectl("delete", "pod", "restore", "--wait")

    def restorer(self) -> dict[str, Any]:
        """A pod of the node's image with the volume of the first node and the kept Secrets."""
        more = shlex.split(os.environ.get("DRILL_HELM_ARGS", ""))
        shown = ["--show-only", "templates/node/statefulset.yaml"]
        rendered = _run(["helm", "template", RELEASE, str(CHART), *more, *shown])
        image = next(line.split()[-1] for line in rendered.splitlines() if " image: " in line)
        mounts = {"data": "/data", "secret": "/secret", "voters": "/voters", "tmp": "/tmp"}
        volumes: list[dict[str, Any]] = [
            {"name": "data", "persistentVolumeClaim": {"claimName": f"data-{NAME}-0"}},
            {"name": "secret", "secret": {"secretName": f"{NAME}-cluster-secret"}},
            {"name": "voters", "secret": {"secretName": f"{NAME}-identities"}},
            {"name": "tmp", "emptyDir": {}},
        ]
        seccomp = {"type": "RuntimeDefault"}
        user = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
        confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {
            "name": "restore",
            "image": image,
            "command": ["sleep", "3600"],
            "securityContext": confined,
            "volumeMounts": [{"name": n, "mountPath": path} for n, path in mounts.items()],
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {**user, "seccompProfile": seccomp},
            "containers": [container],
            "volumes": volumes,
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "restore"}, "spec": spec}

    # --- tools -----------------------------------------------------------------------------

    def coordinator(self) -> str:
        label = "app.kubernetes.io/component=coordinator"
        return self.kubectl("get", "pod", "--selector", label, "--output", "name").split()[0]

    def ask(self, pod: str, port: int, method: str, path: str, body: str = "") -> Any:
        """Send a request from inside a pod, with the admin key of the chart."""
        key = self.kubectl(
            "get", "secret", f"{NAME}-api-keys", "--output", "jsonpath={.data.admin-key}"
        )
        decoded = _run(["base64", "--decode"], key.encode())
        words = ["exec", pod, "--", "python3", "-c", REQUEST, str(port), method, path, decoded]
        return json.loads(self.kubectl(*words, body) or "{}")

    def apply(self, document: dict[str, Any]) -> None:
        self.kubectl_bytes("apply", "--filename", "-", data=json.dumps(document).encode())

    def kubectl(self, *words: str) -> str:
        return self.kubectl_bytes(*words).decode()

    def kubectl_bytes(self, *words: str, data: bytes = b"") -> bytes:
        return _run_bytes(["kubectl", "--namespace", self.space, *words], data)

    def say(self, text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self.began:6.1f} s  {text}\n")
        sys.stdout.flush()


def _claim(name: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": spec,
    }


def _bare(secret: dict[str, Any]) -> dict[str, Any]:
    """A Secret without what the API server added."""
    metadata = {"name": secret["metadata"]["name"], "labels": secret["metadata"].get("labels", {})}
    kind = {name: secret[name] for name in ("apiVersion", "kind", "type", "data")}
    return {**kind, "metadata": metadata}


def _run(command: list[str], data: bytes = b"") -> str:
    return _run_bytes(command, data).decode()


def _run_bytes(command: list[str], data: bytes = b"") -> bytes:
    done = subprocess.run(
        command, input=data, capture_output=True, timeout=COMMAND_SECONDS_MAX, check=False
    )
    if done.returncode != 0:
        shown = " ".join(command)[:300]
        raise DrillFailed(f"{shown}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def why_not() -> str:
    """The reason why the drill cannot be done here; empty if it can."""
    for tool in ("kubectl", "helm"):
        if not shutil.which(tool):
            return f"there is no {tool}"
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG is not set"
    try:
        _run(["kubectl", "version", "--request-timeout=5s"])
    except DrillFailed as error:
        return f"no Kubernetes answers: {str(error).strip().splitlines()[-1]}"
    return ""


def main() -> int:
    """Run the drill; 0 if it passed or cannot be done here, 1 if it failed."""
    if reason := why_not():
        sys.stdout.write(f"skipped on Kubernetes: {reason}\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="drill-") as kept:
        try:
            ChartDrill(Path(kept)).run()
        except DrillFailed as error:
            sys.stderr.write(f"the drill failed: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
