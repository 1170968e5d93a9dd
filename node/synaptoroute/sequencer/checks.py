"""What the server is and how it is set, judged once at the start.

A server that evicts our keys, or that keeps nothing on disk, works well until it
does not.  What cannot be read is said too: a managed Redis may hide its settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from synaptoroute.errors import SequencerUnavailable
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.scripts import Scripts

REDIS_MAJOR_MIN: Final = 7
VALKEY_MAJOR_MIN: Final = 8

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the server that an operator should know.

    Attributes:
        code: Stable name.
        severity: ``error`` where a node must not join this server.
        message: What it means and what to do.
    """

    code: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The server, as far as it may be asked.

    Attributes:
        kind: ``redis``, ``valkey`` or ``unknown``.
        version: Its version; empty if unknown.
        role: ``master``, ``slave`` or ``unknown``.
        findings: What an operator should know.
    """

    kind: str
    version: str
    role: str
    findings: tuple[Finding, ...]

    @property
    def is_usable(self) -> bool:
        """Whether a node may join."""
        return not any(each.severity == "error" for each in self.findings)


async def check_server(link: Link, scripts: Scripts) -> ServerFacts:
    """Look at the server.

    Raises:
        SequencerUnavailable: It does not answer, or refuses the scripts.
    """
    head = await scripts.head()
    info = await _info(link)
    kind, version = _version_of(info)
    findings = [*_judge_version(kind, version), *_judge_info(info)]
    if head.role == "unknown":
        findings.append(
            Finding(
                "info_forbidden",
                "warning",
                "scripts may not call INFO, so a failover that loses writes is found by "
                "positions alone; allow the command to the ACL user",
            )
        )
    if head.role == "slave":
        findings.append(
            Finding("replica", "error", "this server is a replica; connect to the master")
        )
    findings += _judge_settings(await _settings(link), info)
    return ServerFacts(kind, version, head.role, tuple(findings))


async def _info(link: Link) -> dict[str, str]:
    """Read INFO; empty where it is not allowed."""
    try:
        text = await link.call("INFO")
    except SequencerUnavailable as error:
        if error.fields.get("reason") is not Reason.REFUSED:
            raise
        return {}
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


async def _settings(link: Link) -> dict[str, str]:
    """Read the settings that matter; empty where CONFIG is not allowed."""
    names = ("maxmemory-policy", "appendonly", "save", "min-replicas-to-write")
    try:
        flat = await link.call("CONFIG", "GET", *names)
    except SequencerUnavailable as error:
        if error.fields.get("reason") is not Reason.REFUSED:
            raise
        return {}
    words = [word.decode(errors="replace") for word in flat]
    return dict(zip(words[::2], words[1::2], strict=False))


def _version_of(info: Mapping[str, str]) -> tuple[str, str]:
    if "valkey_version" in info:
        return "valkey", info["valkey_version"]
    return ("redis", info["redis_version"]) if "redis_version" in info else ("unknown", "")


def _judge_version(kind: str, version: str) -> list[Finding]:
    least = {"redis": REDIS_MAJOR_MIN, "valkey": VALKEY_MAJOR_MIN}.get(kind)
    major = version.partition(".")[0]
    if least is None or not major.isdecimal():
        return [Finding("version_unknown", "warning", "INFO does not say what server this is")]
    if int(major) < least:
        message = f"{kind} {version} is too old: Redis 7 or Valkey 8 is needed"
        return [Finding("version_too_old", "error", message)]
    return []


def _judge_info(info: Mapping[str, str]) -> list[Finding]:
    if info.get("cluster_enabled") == "1":
        message = "this is a Redis Cluster; a node keeps to the shard that it was given"
        return [Finding("cluster_mode", "warning", message)]
    return []


def _judge_settings(settings: Mapping[str, str], info: Mapping[str, str]) -> list[Finding]:
    findings = []
    policy = settings.get("maxmemory-policy") or info.get("maxmemory_policy")
    is_append_only = settings.get("appendonly", "") == "yes" or info.get("aof_enabled") == "1"
    if policy is None:
        message = "neither INFO nor CONFIG may be read, so eviction and persistence are unknown"
        return [Finding("settings_unknown", "warning", message)]
    if policy != "noeviction" and not policy.startswith("volatile-"):
        message = f"maxmemory-policy is {policy}: it may evict the log; set noeviction"
        findings.append(Finding("eviction", "warning", message))
    if not is_append_only and not settings.get("save"):
        message = "nothing is kept on disk: a restart loses the log; set appendonly yes"
        findings.append(Finding("no_persistence", "warning", message))
    elif not is_append_only:
        message = "only snapshots are kept on disk: a crash loses minutes; set appendonly yes"
        findings.append(Finding("snapshots_only", "warning", message))
    replicas = int(info.get("connected_slaves", "0") or 0)
    if replicas and settings.get("min-replicas-to-write", "0") == "0":
        message = "min-replicas-to-write is 0: a cut-off master goes on taking writes; set 1"
        findings.append(Finding("min_replicas", "warning", message))
    return findings
