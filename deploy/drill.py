#!/usr/bin/env python3
"""A disaster drill with containers: lose everything, restore a backup, prove that nothing lacks.

Builds a cluster by docker-compose.yml under a name of its own, loads routes, takes a backup,
deletes every container and volume, restores the backup on one node of an empty cluster, and
compares the digest of the whole state on every node.  It touches nothing else on this machine.

Usage: make drill, or deploy/drill.py [--routes N] [--keep FOLDER].  Needs Docker with compose, and
the images of `make images` or those that NODE_IMAGE, COORDINATOR_IMAGE, REDIS_IMAGE and
HAPROXY_IMAGE name.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

ROOT: Final = Path(__file__).resolve().parents[1]
NODES: Final = 3
STEP_SECONDS_MAX: Final = 180.0
POLL_SECONDS: Final = 0.2
COMMAND_SECONDS_MAX: Final = 300
REQUEST_SECONDS_MAX: Final = 60
BACKUP_SECONDS_MAX: Final = 30.0
RESTORED_NODE: Final = "node-1"
ResultT = TypeVar("ResultT")


class DrillFailed(Exception):
    """The drill did not reach its goal; the message says at which step."""


class Drill:
    """One drill.

    Args:
        routes: How many routes are written besides the examples.
        kept: Folder of what an operator keeps elsewhere: the backup and the cluster secret.
    """

    def __init__(self, routes: int, kept: Path) -> None:
        self.routes = routes
        self.kept = kept
        self.began = time.monotonic()
        self.project = f"srdrill{os.getpid()}"
        self.port, self.fleet_port = _free_port(), _free_port()
        images = {
            f"{name.upper()}_IMAGE": f"synaptoroute-{name}:test"
            for name in ("node", "coordinator", "redis", "haproxy")
        }
        ports = {"PORT": str(self.port), "FLEET_PORT": str(self.fleet_port)}
        self.environment = {**images, **os.environ, **ports, "COMPOSE_FILE": "docker-compose.yml"}

    def run(self) -> None:
        """Do all steps.

        Raises:
            DrillFailed: A step failed.
        """
        try:
            self.build()
            name, before = self.back_up()
            self.destroy()
            self.restore(name)
            self.prove(before)
        finally:
            self.compose("down", "--volumes", "--timeout", "5")
        self.say("passed: the state is the same to the bit, and the cluster takes writes")

    # --- steps ----------------------------------------------------------------------------

    def build(self) -> None:
        """Start a cluster and load routes."""
        self.say(f"build a cluster of {NODES} nodes, Redis, a coordinator and HAProxy")
        self.compose("up", "--detach", "--no-build")
        self.wait("the nodes are live", lambda: len(self.live()) == NODES)
        self.wait("the example routes are there", lambda: self.ask("/v1/routes")["routes"])
        self.say(f"load {self.routes} routes")
        lines = "\n".join(
            json.dumps({"name": f"drill-{n}", "utterances": [f"question {n}", f"case {n} please"]})
            for n in range(self.routes)
        )
        self.ask("/v1/import?ack=all", lines, kind="application/x-ndjson")
        # Nodes fit a changed route set in the background, which changes the digest.
        self.ask("/v1/settings/calibration", "{}")
        self.wait("all nodes hold one state", self.state)

    def back_up(self) -> tuple[str, dict[str, str]]:
        """Take a backup, and copy it out together with the cluster secret.

        Returns:
            Its name, and the state of the cluster at its version.
        """
        self.say("take a backup")
        backup, state = self.wait("a backup is verified that has the newest state", self.backed_up)
        if not backup["is_certified"]:
            raise DrillFailed(f"no majority of the voters certifies the backup {backup['name']}")
        self.docker("cp", f"{self.container('coordinator')}:/data/backups/.", str(self.kept))
        self.docker("cp", f"{self.container('node')}:/cluster/secret", str(self.kept / "secret"))
        # The container that restores runs as another user.
        self.kept.chmod(0o755)
        for path in self.kept.iterdir():
            path.chmod(0o644)
        self.say(f"kept elsewhere: {backup['name']} and the cluster secret")
        self.say(f"{state['routes']} routes at {state['version']}, digest {state['digest']}")
        return str(backup["name"]), state

    def backed_up(self) -> tuple[dict[str, Any], dict[str, str]] | None:
        """Order a backup and wait for it; None if it failed or has not the newest state.

        A node may write an entry by itself while the backup is taken, or have got its vote since.
        """
        known = {each["name"] for each in self.backups()}
        try:
            self.ask("/v1/actions/backup", "{}", port=self.fleet_port)
        except urllib.error.HTTPError as error:
            if error.code == 409:  # no node has been audited yet
                return None
            raise

        give_up_at = time.monotonic() + BACKUP_SECONDS_MAX
        while not (made := [each for each in self.backups() if each["name"] not in known]):
            if self.has_failed_backup() or time.monotonic() > give_up_at:
                return None
            time.sleep(POLL_SECONDS)
        state = self.state()
        return (made[0], state) if state and state["version"] == made[0]["version"] else None

    def has_failed_backup(self) -> bool:
        alarms = self.ask("/v1/alarms", port=self.fleet_port)["alarms"]
        return any(each["code"] == "backup_failed" and not each["is_over"] for each in alarms)

    def backups(self) -> list[dict[str, Any]]:
        return list(self.ask("/v1/backups", port=self.fleet_port)["backups"])

    def destroy(self) -> None:
        """Delete every container and volume."""
        self.say("destroy everything: containers, databases, Redis, secrets")
        self.compose("down", "--volumes", "--timeout", "1")
        left = self.docker("volume", "ls", "--quiet", "--filter", f"name={self.project}")
        if left.strip():
            raise DrillFailed(f"volumes are left: {left}")

    def restore(self, name: str) -> None:
        """Restore the backup as the database of one node, and start the cluster."""
        self.say("restore the backup as the database of one node; its origin is verified")
        script = (
            "umask 077 && cp /kept/secret /cluster/secret && "
            f"mkdir /data/{RESTORED_NODE} && synaptoroute restore /kept/{name}.json "
            f"--database /data/{RESTORED_NODE}/synaptoroute.sqlite"
        )
        volume = f"{self.kept}:/kept:ro"
        words = ["run", "--rm", "--no-deps", "--volume", volume, "--entrypoint", "/bin/sh", "node"]
        self.say(self.compose(*words, "-c", script).strip().splitlines()[-1])
        self.say("start the cluster on an empty Redis")
        self.compose("up", "--detach", "--no-build")

    def prove(self, before: dict[str, str]) -> None:
        """Compare the state of every node, give all nodes a vote, and write."""
        self.wait("the nodes are live", lambda: len(self.live()) == NODES)
        after = self.wait("all nodes hold one state", self.state)
        self.say(f"{after['routes']} routes at {after['version']}, digest {after['digest']}")
        for what in ("digest", "routes"):
            if before[what] != after[what]:
                raise DrillFailed(f"{what} before: {before[what]}, after: {after[what]}")
        for node in self.live():
            if node["role"] != "voter":
                body = json.dumps({"node": node["node"], "vote": True})
                self.wait("a voter is added", lambda body=body: self.voted(body))
        self.say(f"all {NODES} nodes vote")
        body = json.dumps({"utterances": ["written after the disaster"]})
        self.ask("/v1/routes/after?ack=quorum", body, method="PUT")

    def voted(self, body: str) -> bool:
        """Give a node a vote; false while the change before is not held by a majority."""
        try:
            return bool(self.ask("/v1/cluster/voters", body)["ack"] == "quorum")
        except urllib.error.HTTPError:
            return False

    # --- what the cluster says ---------------------------------------------------------------

    def live(self) -> list[dict[str, Any]]:
        try:
            nodes = self.ask("/v1/cluster")["nodes"]
        except (OSError, urllib.error.URLError):
            return []
        return [node for node in nodes if node["is_live"]]

    def state(self) -> dict[str, str] | None:
        """Version, digest and number of routes, once every node has the same."""
        nodes = self.live()
        found = {(node["version"], node["digest"]) for node in nodes}
        if len(nodes) != NODES or len(found) != 1:
            return None
        version, digest = found.pop()
        return {"version": version, "digest": digest, "routes": str(self.count())}

    def count(self) -> int:
        """Count the routes in an export, a line each."""
        with self._open("/v1/export", headers={"Accept": "application/x-ndjson"}) as answer:
            return sum(1 for line in answer if line.strip())

    def ask(
        self,
        path: str,
        body: str | None = None,
        *,
        kind: str = "application/json",
        method: str = "",
        port: int = 0,
    ) -> Any:
        """Send a request to HAProxy; return the document of its answer."""
        data = None if body is None else body.encode()
        with self._open(path, data, {"Content-Type": kind}, method, port) as answer:
            return json.loads(answer.read() or b"{}")

    def _open(
        self,
        path: str,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        method: str = "",
        port: int = 0,
    ) -> Any:
        url = f"http://127.0.0.1:{port or self.port}{path}"
        request = urllib.request.Request(
            url, data=data, headers=headers or {}, method=method or None
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=REQUEST_SECONDS_MAX)

    # --- tools -----------------------------------------------------------------------------

    def compose(self, *words: str) -> str:
        tool = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        return _run([*tool, "--project-name", self.project, *words], self.environment)

    def docker(self, *words: str) -> str:
        return _run(["docker", *words], self.environment)

    def container(self, service: str) -> str:
        return self.compose("ps", "--quiet", service).split()[0]

    def wait(self, what: str, found: Callable[[], ResultT | None]) -> ResultT:
        """Wait for something true, and return it."""
        give_up_at = time.monotonic() + STEP_SECONDS_MAX
        while not (result := self._tried(found)):
            if time.monotonic() > give_up_at:
                raise DrillFailed(f"after {STEP_SECONDS_MAX:.0f} s it does not hold that {what}")
            time.sleep(POLL_SECONDS)
        return result

    def _tried(self, found: Callable[[], ResultT | None]) -> ResultT | None:
        try:
            return found()
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise DrillFailed(f"{error.url}: {error.code} {error.read()[:200]!r}") from error
        except OSError:
            pass
        return None

    def say(self, text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self.began:6.1f} s  {text}\n")
        sys.stdout.flush()


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise DrillFailed(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run the drill; 0 if it passed, 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--routes", type=int, default=200, help="routes besides the examples")
    parser.add_argument("--keep", type=Path, help="empty folder for the backup; it stays")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        kept = asked.keep or Path(scratch) / "kept"
        kept.mkdir(parents=True, exist_ok=True)
        try:
            Drill(asked.routes, kept.resolve()).run()
        except DrillFailed as error:
            sys.stderr.write(f"the drill failed: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
