"""A cluster of real containers: Redis, nodes, HAProxy, coordinator, on a network of their own.

Everything carries one label, and the stack removes by that label what it started and
nothing else.  The images come from `make images`; without them, or without a daemon,
the tests that need them are skipped, or fail where everything is required.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import httpx
import pytest

from needs import lacking, require
from ports import free_port
from repository import ROOT

IMAGES = {
    name: os.environ.get(f"{name.upper()}_IMAGE", f"synaptoroute-{name}:test")
    for name in ("node", "coordinator", "redis", "haproxy")
}
LABEL = "io.synaptoroute.test"
READY_SECONDS_MAX = 60.0
STOP_SECONDS = 25
LAG_ENTRIES_MAX = 20
CONTAINED: dict[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "pids_limit": 256,
}


def wait_until(what: str, holds: Callable[[], bool], seconds: float = READY_SECONDS_MAX) -> float:
    """Wait for a condition; return the seconds that it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            pytest.fail(f"after {seconds:.0f} s it does not hold that {what}", pytrace=False)
        time.sleep(0.05)
    return time.monotonic() - began


def ready_at(node: Any) -> datetime:
    """Wait for the log line "ready" of a node; return its time."""

    def lines() -> list[dict[str, Any]]:
        said = [json.loads(line) for line in node.logs().splitlines() if line.startswith(b"{")]
        return [line for line in said if line["message"] == "ready"]

    wait_until("the node says that it is ready", lambda: bool(lines()))
    return datetime.fromisoformat(lines()[0]["timestamp"])


def require_images(*names: str) -> None:
    """Skip or fail where there is no daemon or an image was not built."""
    docker = pytest.importorskip("docker")
    try:
        client = docker.from_env()
    except docker.errors.DockerException:
        lacking("a Docker daemon")
    try:
        for name in names:
            client.images.get(IMAGES[name])
    except docker.errors.ImageNotFound:
        lacking(f"the image {IMAGES[name]} (make images)")
    finally:
        client.close()


@dataclass
class Plan:
    """How a container is started.

    Attributes:
        image: Short name, see ``IMAGES``.
        aliases: Names on its network.
        volumes: Path inside by a volume's name or a file of the project.
        ports: Ports that are published on the loopback.
        options: More arguments of the engine.
    """

    image: str
    aliases: tuple[str, ...]
    command: list[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def run(plan: Plan, network: Any, label: str) -> Any:
    """Start a container that may do nothing it need not."""
    from testcontainers.core.container import DockerContainer

    made = DockerContainer(IMAGES[plan.image]).with_network(network)
    made.with_network_aliases(*plan.aliases).with_envs(**plan.environment)
    made.with_tmpfs_mount("/tmp", "mode=1777,size=64m")
    for source, target in plan.volumes.items():
        made.with_volume_mapping(source, target, "ro" if source.startswith("/") else "rw")
    if plan.command:
        made.with_command(plan.command)
    made.ports = {f"{port}/tcp": ("127.0.0.1", None) for port in plan.ports}
    made.with_kwargs(labels={LABEL: label}, **CONTAINED, **plan.options)
    return made.start().get_wrapped_container()


@dataclass
class Stack:
    """One cluster; nodes have numbers that are never given twice.

    Attributes:
        label: What everything of this stack carries.
        url: URL of HAProxy, for clients.
        coordinator_url: URL of HAProxy, for operators.
    """

    label: str = field(default_factory=lambda: uuid.uuid4().hex)
    url: str = ""
    coordinator_url: str = ""
    nodes: dict[int, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    _client: Any = None
    _inside: Any = None
    _door: Any = None

    def start(self, node_count: int) -> Stack:
        """Start everything and wait until queries are answered through HAProxy."""
        # Read when the package is imported: its helper container is not in any mirror of ours.
        os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
        import docker
        from testcontainers.core.network import Network

        self._client = docker.from_env()
        labels = {"labels": {LABEL: self.label}}
        self._door = Network(docker_network_kw=labels).create()
        self._inside = Network(docker_network_kw={**labels, "internal": True}).create()
        self._start_redis()
        for _ in range(node_count):
            self.add_node(expect=node_count)
        self._start_coordinator()
        self._start_haproxy()
        try:
            self.wait_whole(node_count)
        except BaseException:
            sys.stderr.write(f"{self.live_nodes()}\n{self.logs()}\n")
            raise
        return self

    @property
    def _name(self) -> str:
        """Start of every name in this stack."""
        return f"sr-{self.label[:8]}"

    def _start_redis(self) -> None:
        config = "/usr/local/etc/redis/redis.conf"
        files = {f"{self._name}-redis": "/data", str(ROOT / "deploy/redis/redis.conf"): config}
        command = ["redis-server", config]
        options = {"user": "999:1000"}
        plan = Plan("redis", ("redis",), command, volumes=files, options=options)
        self.others["redis"] = run(plan, self._inside, self.label)

    def _start_haproxy(self) -> None:
        config = "/usr/local/etc/haproxy/haproxy.cfg"
        plan = Plan(
            "haproxy",
            ("haproxy",),
            ["haproxy", "-W", "-db", "-f", config],
            {
                "NODE_ADDRESS": "node:8080",
                "NODES_MAX": "8",
                "COORDINATOR_ADDRESS": "coordinator:8090",
            },
            {str(ROOT / "deploy/haproxy/haproxy.cfg"): config},
            (8080, 8090),
            {"user": "99:99"},
        )
        # An internal network publishes nothing, so the way out comes first.
        proxy = run(plan, self._door, self.label)
        self._inside.connect(proxy.id, ["haproxy"])
        proxy.reload()
        ports = proxy.attrs["NetworkSettings"]["Ports"]
        self.url = f"http://127.0.0.1:{ports['8080/tcp'][0]['HostPort']}"
        self.coordinator_url = f"http://127.0.0.1:{ports['8090/tcp'][0]['HostPort']}"
        self.others["haproxy"] = proxy

    def _start_coordinator(self) -> None:
        environment = {
            "SYNAPTOROUTE_COORDINATOR_REDIS_URL": "redis://redis:6379/0",
            "SYNAPTOROUTE_COORDINATOR_INSECURE": "true",
        }
        volumes = {f"{self._name}-coordinator": "/data"}
        plan = Plan("coordinator", ("coordinator",), environment=environment, volumes=volumes)
        self.others["coordinator"] = run(plan, self._inside, self.label)

    def start_beside(self, name: str, plan: Plan) -> Any:
        """Start one more container on the nodes' network."""
        self.others[name] = run(plan, self._inside, self.label)
        return self.others[name]

    def fleet(self, path: str) -> int:
        """Status of an answer of the coordinator, asked through HAProxy."""
        return httpx.get(self.coordinator_url + path, timeout=5.0).status_code

    def is_active_coordinator(self) -> bool:
        """Return whether the coordinator holds the lease and sees all nodes."""
        lines = httpx.get(f"{self.coordinator_url}/metrics", timeout=5.0).text.splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return float(found["synaptoroute_fleet_active"]) == 1 and float(
            found["synaptoroute_fleet_live_nodes"]
        ) == len(self.nodes)

    def add_node(self, *, number: int | None = None, expect: int = 3) -> int:
        """Start a node; one of an earlier number takes up that node's volume."""
        at = max(self.nodes, default=0) + 1 if number is None else number
        host = f"{self._name}-node-{at}"
        environment = {
            "SYNAPTOROUTE_ADVERTISE_URL": f"http://{host}:8080",
            "SYNAPTOROUTE_BOOTSTRAP_EXPECT": str(expect),
            "SYNAPTOROUTE_INSECURE": "true",
            "SYNAPTOROUTE_LANES": "1",
            "SYNAPTOROUTE_NODE_NAME": host,
            "SYNAPTOROUTE_PORT": "8080",
            "SYNAPTOROUTE_REDIS_URL": "redis://redis:6379/0",
            "SYNAPTOROUTE_SHUTDOWN_SECONDS": "10",
        }
        volumes = {host: "/data"}
        plan = Plan("node", ("node", host), environment=environment, volumes=volumes)
        self.nodes[at] = run(plan, self._inside, self.label)
        return at

    def remove_node(self, number: int) -> None:
        """Stop a node as an orchestrator does, and remove its container; its volume stays."""
        node = self.nodes.pop(number)
        node.stop(timeout=STOP_SECONDS)
        node.remove()

    def start_and_stop_one(self, *, is_member: bool) -> float:
        """Start another node with an empty database; return the seconds until it was ready.

        From the call of the engine to the line of the node's log, by one clock.
        """
        began = datetime.now(UTC)
        if is_member:
            number = self.add_node()
            found = ready_at(self.nodes[number])
            self.remove_node(number)
        else:
            plan = Plan("node", ("alone",), environment={"SYNAPTOROUTE_INSECURE": "true"})
            alone = run(plan, self._inside, self.label)
            try:
                found = ready_at(alone)
            finally:
                alone.remove(force=True, v=True)
        return (found - began).total_seconds()

    def empty_redis(self) -> None:
        """Put a new container with an empty volume in the place of Redis."""
        redis = self.others.pop("redis")
        redis.kill("SIGKILL")
        redis.remove(force=True)
        self._client.volumes.get(f"{self._name}-redis").remove(force=True)
        self._start_redis()

    def takes_writes(self) -> bool:
        """Return whether HAProxy forwards a write that succeeds."""
        document = {"name": "probe", "utterances": ["is this written"]}
        with suppress(httpx.HTTPError):
            answer = httpx.put(f"{self.url}/v1/routes/probe", json=document, timeout=30.0)
            return answer.is_success
        return False

    def cut_off(self, number: int) -> None:
        """Take a node off the network."""
        self._client.networks.get(self._inside.id).disconnect(self.nodes[number])

    def heal(self, number: int) -> None:
        """Reconnect it under its names, by which the others find it."""
        self._inside.connect(self.nodes[number].id, ["node", f"{self._name}-node-{number}"])

    def live_nodes(self) -> list[Mapping[str, Any]]:
        """Return the live nodes as the cluster reports them; empty while no node answers."""
        try:
            answer = httpx.get(f"{self.url}/v1/cluster", timeout=5.0)
        except httpx.HTTPError:
            return []
        if answer.status_code != httpx.codes.OK:
            return []
        return [each for each in answer.json()["nodes"] if each["is_live"]]

    def wait_whole(self, node_count: int) -> float:
        """Wait until this many nodes are live with the same position and digest."""

        def is_whole() -> bool:
            live = self.live_nodes()
            states = {(each["version"], each["digest"]) for each in live}
            return node_count == len(live) and 1 == len(states)

        return wait_until(f"{node_count} nodes hold one state", is_whole)

    def wait_whole_or_moving(self, node_count: int) -> float:
        """Wait until this many nodes follow closely and get queries, while writes continue."""

        def follow() -> bool:
            live = self.live_nodes()
            return node_count == len(live) and all(
                each["state"] == "live" and each["lag_entries"] < LAG_ENTRIES_MAX for each in live
            )

        seconds = wait_until(f"{node_count} nodes follow the log", follow)
        return seconds + wait_until(
            "HAProxy knows them all", lambda: node_count == self.known_to_haproxy()
        )

    def known_to_haproxy(self) -> int:
        """How many nodes HAProxy sends queries to, by its own metrics."""
        look = (
            "wget -q -O - 'http://127.0.0.1:8404/metrics?scope=server'"
            """ | grep -c '^haproxy_server_status{proxy="queries",server="node.*state="UP"} 1$'"""
        )
        said, _ = self.others["haproxy"].exec_run(["sh", "-c", look], demux=True).output
        return int(said or 0)

    def logs(self) -> str:
        """The ends of all logs, for a failed test."""
        every = {**{f"node {at}": node for at, node in self.nodes.items()}, **self.others}
        return "\n".join(
            f"--- {name}\n{container.logs(tail=40).decode(errors='replace')}"
            for name, container in every.items()
        )

    def stop(self) -> None:
        """Remove every container, network and volume of this stack, by its label."""
        found = {"label": f"{LABEL}={self.label}"}
        for container in self._client.containers.list(all=True, filters=found):
            container.remove(force=True, v=True)
        for network in self._client.networks.list(filters=found):
            network.remove()
        for volume in self._client.volumes.list():
            if volume.name.startswith(f"{self._name}-"):
                volume.remove(force=True)
        self._client.close()


UP_SECONDS_MAX = 300
ROUTED_SECONDS_MAX = 180.0
QUESTION = "I want my money back"


@dataclass
class ComposeProject:
    """One `docker-compose up`; ends with everything that it made.

    Attributes:
        name: The project's name, which all it makes carries.
        url: URL of HAProxy, for clients.
        coordinator_url: URL of HAProxy, for operators.
        files: The compose files, the last of which wins.
        tls: Verifies HAProxy, if it speaks HTTPS.
    """

    name: str = field(default_factory=lambda: f"sr{uuid.uuid4().hex[:8]}")
    url: str = ""
    coordinator_url: str = ""
    files: tuple[str, ...] = ("docker-compose.yml",)
    tls: ssl.SSLContext | None = None
    _environment: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> ComposeProject:
        ports = {"PORT": str(free_port()), "FLEET_PORT": str(free_port())}
        images = {f"{name.upper()}_IMAGE": image for name, image in IMAGES.items()}
        files = {"COMPOSE_FILE": ":".join(self.files)}
        self._environment = {**os.environ, **images, **ports, **files}
        scheme = "http" if len(self.files) == 1 else "https"
        self.url = f"{scheme}://127.0.0.1:{ports['PORT']}"
        self.coordinator_url = f"{scheme}://127.0.0.1:{ports['FLEET_PORT']}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run("down", "--volumes", "--timeout", "5")

    def run(self, *words: str) -> str:
        """Run the tool; return its output, or raise its error."""
        command = [str(require("docker-compose")), "--project-name", self.name, *words]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=UP_SECONDS_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)
        return done.stdout

    def up(self, *words: str) -> float:
        """Start it; return the seconds until HAProxy routed a query."""
        began = time.monotonic()
        self.run("up", "--detach", "--no-build", *words)
        wait_until(
            "a query through HAProxy is routed",
            lambda: self.route() is not None,
            ROUTED_SECONDS_MAX,
        )
        return time.monotonic() - began

    def route(self) -> str | None:
        """Return the route of an example question through HAProxy; None if it fails."""
        try:
            url, body = f"{self.url}/v1/query", {"text": QUESTION}
            answer = httpx.post(url, json=body, timeout=10.0, verify=self.tls or True)
        except httpx.HTTPError:
            return None
        found: str | None = answer.json()["route"] if answer.is_success else None
        return found

    def written(self) -> list[str]:
        """Write routes that a majority of the voters holds; gives their names."""
        names = [f"kept-{number}" for number in range(5)]
        body = {"utterances": ["a text that nobody else says"]}
        with httpx.Client(base_url=self.url, timeout=30.0) as client:
            for name in names:
                answer = client.put(f"/v1/routes/{name}?ack=quorum", json=body)
                assert answer.is_success, answer.text
        return names

    def lost(self, names: list[str]) -> list[str]:
        """Those of the routes that are not there."""
        with httpx.Client(base_url=self.url, timeout=30.0) as client:
            return [name for name in names if not client.get(f"/v1/routes/{name}").is_success]

    def kill(self, service: str) -> float:
        """Kill every container of a service and start it again.

        The restart policy does not apply to containers that the engine was asked to kill.

        Returns:
            Seconds from the first kill until a majority takes a write.
        """
        began = time.monotonic()
        found = [each for each in self.containers() if f"_{service}_" in each.name]
        for container in found:
            container.kill("SIGKILL")
        for container in found:
            container.start()
        self.wait_written()
        return time.monotonic() - began

    def wait_written(self) -> float:
        """Wait until a majority of the voters takes a write; gives the seconds."""

        def is_written() -> bool:
            try:
                url, body = f"{self.url}/v1/routes/probe", {"utterances": ["is this written"]}
                return httpx.put(f"{url}?ack=quorum", json=body, timeout=10.0).is_success
            except httpx.HTTPError:
                return False

        return wait_until("writes are taken", is_written)

    def live_count(self) -> int:
        """How many nodes the cluster counts as live."""
        try:
            answer = httpx.get(f"{self.url}/v1/cluster", timeout=10.0, verify=self.tls or True)
        except httpx.HTTPError:
            return 0
        nodes = answer.json().get("nodes", []) if answer.is_success else []
        return sum(1 for each in nodes if each["is_live"])

    def containers(self) -> list[Any]:
        """Every container that it made."""
        import docker

        client = docker.from_env()
        try:
            found = {"label": f"com.docker.compose.project={self.name}"}
            return list(client.containers.list(all=True, filters=found))
        finally:
            client.close()


_LOOK = r"""
echo user $(id -u)
echo group $(id -g)
grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d :
for place in / /usr /etc /opt /bin; do
  if touch $place/written-by-a-test 2>/dev/null; then echo written $place; fi
done
grep -E '^[^ ]+ / ' /proc/mounts | tail -n 1 | cut -d' ' -f4 | cut -d, -f1 | sed 's/^/root /'
"""


@dataclass(frozen=True)
class Privileges:
    """The privileges of a container.

    Attributes:
        user: Number of the user that the first process runs as.
        group: Number of its group.
        capabilities: Every set of the kernel's that is not empty, by its name.
        root: How the root is mounted: ``ro`` or ``rw``.
        written: Places outside its volumes where a file could be made.
        may_gain: Whether a program may have more rights than who starts it.
        is_filtered: Whether system calls are filtered.
    """

    user: int
    group: int
    capabilities: dict[str, str]
    root: str
    written: tuple[str, ...]
    may_gain: bool
    is_filtered: bool


def look(container: Any) -> Privileges:
    """Read the privileges inside the container."""
    code, out = container.exec_run(["sh", "-c", _LOOK])
    assert code == 0, out
    pairs = [line.split() for line in out.decode().splitlines()]
    told = {name: value for name, value in pairs if name != "written"}
    sets = {name: value for name, value in told.items() if name.startswith("Cap")}
    assert len(sets) == 5, out
    return Privileges(
        user=int(told["user"]),
        group=int(told["group"]),
        capabilities={name: value for name, value in sets.items() if int(value, 16)},
        root=told["root"],
        written=tuple(value for name, value in pairs if name == "written"),
        may_gain=told["NoNewPrivs"] != "1",
        is_filtered=told["Seccomp"] == "2",
    )


def assert_contained(container: Any) -> Privileges:
    """Not root, nothing to write on, no capability, nothing to gain, system calls filtered.

    The user is asked of a new process in the container and of the engine: a number in both.
    """
    found = look(container)

    assert 0 < found.user, container.name
    assert {} == found.capabilities, container.name
    assert "ro" == found.root, container.name
    assert () == found.written, container.name
    assert not found.may_gain, container.name
    assert found.is_filtered, container.name
    assert container.attrs["Config"]["User"].partition(":")[0].isdecimal(), container.name
    return found
