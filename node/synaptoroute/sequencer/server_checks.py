"""Checks of a Redis or Valkey server: what would break if a cluster used it.

``check_server`` reads the server's own account of itself.  ``examine`` also tries what nodes
do: every command, the scripts, Pub/Sub, the Sentinels.  It writes keys of its own below the
namespace, which it deletes and which expire by themselves.

The code of a finding is stable.  ``docs/redis.md`` lists the codes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import redis.exceptions

from synaptoroute.core.codec import LEVEL
from synaptoroute.errors import ProtocolError, SequencerUnavailable
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.client import IO_ERRORS, Connector, Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.scripts import TEXTS, Head, NoLog, Scripts
from synaptoroute.sequencer.wire import INLINE_BYTES_MAX

REDIS_MAJOR_MIN: Final = 7
VALKEY_MAJOR_MIN: Final = 8
LATENCY_SECONDS_WARN: Final = 0.05
CLOCK_SECONDS_WARN: Final = 5.0
REPLICA_LAG_SECONDS_WARN: Final = 10
IDLE_SECONDS_MIN: Final = 10
SENTINELS_MIN: Final = 3
COMMANDS: Final = (
    "ping", "info", "time", "evalsha", "script|load", "subscribe", "publish",
    "hget", "hset", "hmget", "hgetall", "hvals", "hdel", "exists", "del",
    "xadd", "xrange", "xrevrange", "xlen", "xtrim",
    "zadd", "zrem", "zscore", "zrange", "zrangebyscore",
    "get", "set", "pexpire", "pttl", "rename",
)  # fmt: skip
"""Every command that nodes and coordinators send, in scripts or without."""

_PROBE_MS: Final = 10_000
_PINGS: Final = 20
_WAIT_MS: Final = 1_000
_MESSAGE_SECONDS_MAX: Final = 2.0

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    code: str
    severity: Severity  # ``error`` if a cluster would not work on this server
    message: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Facts about the server, and findings about its settings."""

    kind: str  # ``redis``, ``valkey`` or ``unknown``
    version: str  # empty if unknown
    role: str  # ``master``, ``slave`` or ``unknown``
    findings: tuple[Finding, ...]

    @property
    def is_usable(self) -> bool:
        """Whether a node may join."""
        return not any(each.severity == "error" for each in self.findings)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the nodes that the server is compared with."""

    log_bytes_max: int
    clock_skew_seconds_max: float


async def check_server(link: Link, role: str) -> ServerFacts:
    """Check the server and its settings by what it says of itself; warnings and errors only."""
    info = await _info(link)
    kind, version = _version_of(info)
    settings = await _settings(link)
    findings = [*_check_version(kind, version), *_check_role(role, info)]
    findings += [*_check_settings(settings, info), *_check_health(info)]
    return ServerFacts(kind, version, role, tuple(findings))


def read_info(connector: Connector) -> dict[str, str]:
    """Read INFO of a server; empty if that is not allowed.

    Raises:
        SequencerUnavailable: It cannot be reached.
    """

    async def ask() -> dict[str, str]:
        link = connector.link()
        try:
            return await _info(link)
        finally:
            await link.close()

    return asyncio.run(ask())


async def _info(link: Link) -> dict[str, str]:
    try:
        text = await link.call("INFO")
    except SequencerUnavailable as error:
        if error.fields.get("reason") is not Reason.REFUSED:
            raise
        return {}
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


_SETTINGS: Final = (
    "maxmemory-policy", "appendonly", "appendfsync", "save", "min-replicas-to-write", "timeout",
    "client-output-buffer-limit",
)  # fmt: skip


async def _settings(link: Link) -> dict[str, str]:
    try:
        flat = await link.call("CONFIG", "GET", *_SETTINGS)
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


def _check_version(kind: str, version: str) -> Iterator[Finding]:
    least = {"redis": REDIS_MAJOR_MIN, "valkey": VALKEY_MAJOR_MIN}.get(kind)
    major = version.partition(".")[0]
    if least is None or not major.isdecimal():
        message = "INFO does not name the server and its version"
        yield Finding("version_unknown", "warning", message, "use Redis 7 or Valkey 8, or newer")
    elif int(major) < least:
        message = f"{kind} {version} is too old"
        yield Finding("version_too_old", "error", message, "use Redis 7 or Valkey 8, or newer")


def _check_role(role: str, info: Mapping[str, str]) -> Iterator[Finding]:
    if role == "unknown":
        yield Finding(
            "info_forbidden",
            "warning",
            "scripts may not call INFO: a failover that loses writes is found by positions alone",
            "allow INFO to the ACL user",
        )
    if role == "slave":
        message = "this server is a replica"
        yield Finding("replica", "error", message, "connect to the primary endpoint")
    if info.get("cluster_enabled") == "1":
        message = "this is a Redis Cluster; a node keeps to the shard that it was given"
        yield Finding("cluster_mode", "warning", message, "switch cluster mode off")


def _check_settings(settings: Mapping[str, str], info: Mapping[str, str]) -> Iterator[Finding]:
    policy = settings.get("maxmemory-policy") or info.get("maxmemory_policy")
    is_append_only = settings.get("appendonly", "") == "yes" or info.get("aof_enabled") == "1"
    if policy is None:
        message = "INFO and CONFIG may not be read, so eviction and persistence are unknown"
        yield Finding("settings_unknown", "warning", message, "see docs/redis.md for your provider")
        return
    if policy != "noeviction" and not policy.startswith("volatile-"):
        message = f"maxmemory-policy is {policy}: it may evict the log"
        yield Finding("eviction", "warning", message, "set maxmemory-policy noeviction")
    if not is_append_only and not settings and "aof_enabled" in info:
        message = "there is no append-only file, and CONFIG may not be read: snapshots are unknown"
        yield Finding("snapshots_unknown", "warning", message, "switch the append-only file on")
    elif not is_append_only and not settings.get("save"):
        message = "nothing is kept on disk: a restart loses the log"
        yield Finding("no_persistence", "warning", message, "set appendonly yes")
    elif not is_append_only:
        message = "only snapshots are kept on disk: a crash loses minutes"
        yield Finding("snapshots_only", "warning", message, "set appendonly yes")
    elif settings.get("appendfsync") == "no":
        message = "appendfsync is no: a crash of the machine loses half a minute"
        yield Finding("fsync_never", "warning", message, "set appendfsync everysec")
    replicas = _number(info.get("connected_slaves"))
    if replicas and settings.get("min-replicas-to-write", "1") == "0":
        message = "min-replicas-to-write is 0: a cut-off master continues to take writes"
        yield Finding("min_replicas", "warning", message, "set min-replicas-to-write 1")
    idle_seconds = _number(settings.get("timeout"))
    if 0 < idle_seconds < IDLE_SECONDS_MIN:
        message = f"the server closes connections after {idle_seconds} idle seconds"
        yield Finding("idle_timeout", "warning", message, "set timeout 0")
    buffer_bytes = _pubsub_buffer_bytes(settings.get("client-output-buffer-limit", ""))
    if 0 < buffer_bytes < 64 * INLINE_BYTES_MAX:
        message = f"a subscriber is cut off when {buffer_bytes:,} bytes wait for it"
        advice = "set client-output-buffer-limit pubsub 64mb 16mb 30"
        yield Finding("subscriber_buffer", "warning", message, advice)


def _pubsub_buffer_bytes(setting: str) -> int:
    """Return the hard limit of subscribers; 0 if there is none or it is unknown."""
    words = setting.split()
    place = words.index("pubsub") if "pubsub" in words else len(words)
    return _number(words[place + 1]) if place + 1 < len(words) else 0


def _check_health(info: Mapping[str, str]) -> Iterator[Finding]:
    failing = [
        name
        for name in ("aof_last_write_status", "rdb_last_bgsave_status", "aof_last_bgrewrite_status")
        if info.get(name, "ok") != "ok"
    ]
    if failing:
        message = f"the server cannot save to its disk ({', '.join(failing)}); it refuses writes"
        yield Finding("disk_failing", "error", message, "free or replace the server's disk")


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


# --- examine ------------------------------------------------------------------------------------


async def examine(connector: Connector, namespace: str, limits: Limits) -> list[Finding]:
    """Check everything that a cluster needs; also say what is fine, with severity ``ok``."""
    findings: list[Finding] = []
    if connector.is_sentinel:
        findings += await _check_sentinels(connector)
    link = connector.link()
    try:
        findings += await _Examination(connector, link, Keys(namespace), limits).run()
    except SequencerUnavailable as error:
        findings.append(_unreachable(connector, error))
    finally:
        await link.close()
    return findings


def _unreachable(connector: Connector, error: SequencerUnavailable) -> Finding:
    message, reason = error.message, error.fields.get("reason")
    said = str(error.fields.get("redis_error", ""))
    if "CERTIFICATE_VERIFY_FAILED" in message:
        advice = "set SYNAPTOROUTE_REDIS_CA_FILE, and use a host name that the certificate has"
        return Finding("certificate_refused", "error", message, advice)
    if reason is Reason.REFUSED and _is_about_rights(said):
        return next(_check_refusals({"ping": said}))
    if reason is Reason.REFUSED and ("password" in said or "Authentication" in said):
        advice = "correct the user and the password in the URL or the password file"
        return Finding("credentials_refused", "error", message, advice)
    advice = f"start the server at {connector.label}, or correct SYNAPTOROUTE_REDIS_URL"
    return Finding("unreachable", "error", message, advice)


def judge_latency(middle_seconds: float, longest_seconds: float, timeout_seconds: float) -> Finding:
    """Judge round trips by their median and maximum, and by the timeout of a call."""
    message = (
        f"{middle_seconds * 1e3:.1f} ms to the server and back, "
        f"at most {longest_seconds * 1e3:.1f} ms"
    )
    if longest_seconds > timeout_seconds / 2:
        advice = f"calls are given up after {timeout_seconds:g} s: bring nodes and server together"
        return Finding("latency", "error", message, advice)
    if middle_seconds > LATENCY_SECONDS_WARN:
        return Finding("latency", "warning", message, "each write waits that long, or longer")
    return Finding("latency", "ok", message)


class _Examination:
    """One examination of one server."""

    def __init__(self, connector: Connector, link: Link, keys: Keys, limits: Limits) -> None:
        self._connector, self._link, self._keys, self._limits = connector, link, keys, limits
        self._probe = f"{keys.prefix}doctor:{secrets.token_hex(8)}"

    async def run(self) -> list[Finding]:
        findings = [await self._check_latency(), self._check_transport()]
        info = await _info(self._link)
        findings += self._describe(info)
        refused = await self._refused_commands(is_replica=info.get("role") == "slave")
        findings += _check_refusals(refused)
        role = "unknown"
        if not {"evalsha", "script|load"} & refused.keys():
            head, said = await self._check_scripts()
            role = head.role if head is not None else role
            findings += said
        findings.append(await self._check_clock(refused))
        if "publish" not in refused:
            findings.append(await self._check_pubsub())
        settings = await _settings(self._link)
        findings += [
            *_check_version(*_version_of(info)),
            *_check_role(role, info),
            *_check_settings(settings, info),
            *_check_health(info),
            *self._check_memory(info),
        ]
        if info.get("role") == "master":
            findings += await self._check_replicas(info)
        return findings

    def _describe(self, info: Mapping[str, str]) -> Iterator[Finding]:
        kind, version = _version_of(info)
        if not version:
            return
        aof = "append-only file on" if info.get("aof_enabled") == "1" else "no append-only file"
        policy = info.get("maxmemory_policy", "eviction unknown")
        yield Finding("server", "ok", f"{kind} {version}, {aof}, {policy}")

    async def _check_latency(self) -> Finding:
        await self._link.call("PING")
        seconds = []
        for _ in range(_PINGS):
            began = time.perf_counter()
            await self._link.call("PING")
            seconds.append(time.perf_counter() - began)
        middle, longest = statistics.median(seconds), max(seconds)
        return judge_latency(middle, longest, self._connector.socket_timeout_seconds)

    def _check_transport(self) -> Finding:
        if self._connector.is_tls:
            return Finding("transport", "ok", "TLS, the certificate is verified")
        if self._connector.is_on_this_machine:
            return Finding("transport", "ok", "no TLS, on this machine")
        message = "no TLS: others on the network read the password and the utterances"
        return Finding("plain_text", "warning", message, "use rediss://")

    # --- commands ---------------------------------------------------------------------------

    async def _refused_commands(self, *, is_replica: bool) -> dict[str, str]:
        """Try every command on keys of this examination; return the refusals by command."""
        refused = {}
        for name, words, is_write in self._calls():
            if is_write and is_replica:
                continue
            if error := await self._refusal(*words):
                refused[name] = error
        return refused

    async def _refusal(self, *words: Any) -> str:
        """Return the server's refusal of a call; empty if it did it."""
        try:
            await self._link.call(*words)
        except redis.exceptions.NoScriptError:
            return ""
        except SequencerUnavailable as error:
            if error.fields.get("reason") is not Reason.REFUSED:
                raise
            return str(error.fields.get("redis_error") or error.message)
        return ""

    def _calls(self) -> Iterator[tuple[str, tuple[Any, ...], bool]]:
        """Yield the name of each command, a call of it, and whether it writes."""
        text, other, table = f"{self._probe}:t", f"{self._probe}:u", f"{self._probe}:h"
        stream, ranks = f"{self._probe}:s", f"{self._probe}:z"
        yield "ping", ("PING",), False
        yield "info", ("INFO", "replication"), False
        yield "time", ("TIME",), False
        yield "script|load", ("SCRIPT", "LOAD", b"return 1"), False
        yield "evalsha", ("EVALSHA", "0" * 40, 0), False
        yield "publish", ("PUBLISH", self._probe, "1"), False
        yield "set", ("SET", text, "1", "PX", _PROBE_MS), True
        yield "get", ("GET", text), False
        yield "pttl", ("PTTL", text), False
        yield "exists", ("EXISTS", text), False
        yield "hset", ("HSET", table, "f", "1", "g", "2"), True
        yield "pexpire", ("PEXPIRE", table, _PROBE_MS), True
        for command in ("HGET", "HMGET"):
            yield command.lower(), (command, table, "f"), False
        for command in ("HGETALL", "HVALS"):
            yield command.lower(), (command, table), False
        yield "hdel", ("HDEL", table, "f"), True
        yield "xadd", ("XADD", stream, "1-1", "f", "v"), True
        yield "pexpire", ("PEXPIRE", stream, _PROBE_MS), True
        yield "xrange", ("XRANGE", stream, "-", "+", "COUNT", 1), False
        yield "xrevrange", ("XREVRANGE", stream, "+", "-", "COUNT", 1), False
        yield "xlen", ("XLEN", stream), False
        yield "xtrim", ("XTRIM", stream, "MINID", "=", "1-1"), True
        yield "zadd", ("ZADD", ranks, "GT", 1, "m"), True
        yield "pexpire", ("PEXPIRE", ranks, _PROBE_MS), True
        yield "zscore", ("ZSCORE", ranks, "m"), False
        yield "zrange", ("ZRANGE", ranks, 0, -1), False
        yield "zrangebyscore", ("ZRANGEBYSCORE", ranks, "-inf", "+inf", "LIMIT", 0, 1), False
        yield "zrem", ("ZREM", ranks, "n"), True
        yield "rename", ("RENAME", text, other), True
        yield "del", ("DEL", text, other, table, stream, ranks), True

    async def _check_scripts(self) -> tuple[Head | NoLog | None, list[Finding]]:
        """Load the scripts of the nodes, and read the head of the log."""
        for script, text in TEXTS.items():
            if error := await self._refusal("SCRIPT", "LOAD", text):
                message = f"{script.value}.lua cannot be loaded: {error}"
                advice = "nodes need Lua scripts with flags"
                return None, [Finding("scripts_refused", "error", message, advice)]
        try:
            head = await Scripts(self._link, self._keys).head()
        except SequencerUnavailable as error:
            if error.fields.get("reason") is not Reason.REFUSED:
                raise
            return None, [Finding("scripts_refused", "error", error.message)]
        except ProtocolError as error:
            return None, [Finding("log_damaged", "warning", error.message)]
        return head, [_describe_log(head)]

    # --- Pub/Sub, clock, memory, replicas ---------------------------------------------------

    async def _check_pubsub(self) -> Finding:
        """Subscribe to the bus and to a channel of this examination, and publish there."""
        channel, link = self._probe, self._connector.link(timeout_seconds=_MESSAGE_SECONDS_MAX)
        advice = "allow SUBSCRIBE, PUBLISH and the channels of the namespace"
        try:
            connection = await link.connect()
            try:
                for name in (self._keys.bus, channel):
                    await connection.send_command("SUBSCRIBE", name)
                    await connection.read_response(timeout=_MESSAGE_SECONDS_MAX)
                await self._refusal("PUBLISH", channel, "1")
                async with asyncio.timeout(_MESSAGE_SECONDS_MAX):
                    while True:
                        reply: Any = await connection.read_response(timeout=_MESSAGE_SECONDS_MAX)
                        if reply[:2] == [b"message", channel.encode()]:
                            return Finding("pubsub", "ok", "messages arrive")
            finally:
                await link.release(connection)
        except redis.exceptions.ResponseError as error:
            return Finding("pubsub_refused", "error", f"Redis refused: {error}", advice)
        except (*IO_ERRORS, TimeoutError):
            message = f"no message arrived within {_MESSAGE_SECONDS_MAX:g} s"
            return Finding("pubsub_silent", "error", message, advice)
        finally:
            await link.close()

    async def _check_clock(self, refused: Mapping[str, str]) -> Finding:
        if "time" in refused:
            return Finding("clock_unknown", "warning", "TIME is refused")
        before = time.time()
        seconds, micros = await self._link.call("TIME")
        middle = (before + time.time()) / 2
        skew = abs(int(seconds) + int(micros) / 1e6 - middle)
        message = f"{skew:.2f} s between this machine's clock and the server's"
        most = self._limits.clock_skew_seconds_max
        if skew > most:
            advice = f"set both clocks: nodes count as dead beyond {most:g} s"
            return Finding("clock_skew", "error", message, advice)
        if skew > min(CLOCK_SECONDS_WARN, most):
            return Finding("clock_skew", "warning", message, "set both clocks by NTP")
        return Finding("clock", "ok", message)

    def _check_memory(self, info: Mapping[str, str]) -> Iterator[Finding]:
        most, needed = _number(info.get("maxmemory")), 2 * self._limits.log_bytes_max
        if 0 < most < needed:
            yield Finding(
                "memory_small",
                "warning",
                f"maxmemory is {most:,} bytes, and the log may need {needed:,}",
                "raise maxmemory, or lower SYNAPTOROUTE_LOG_BYTES_MAX on all nodes",
            )

    async def _check_replicas(self, info: Mapping[str, str]) -> list[Finding]:
        count = _number(info.get("connected_slaves"))
        if not count:
            message = "none: an outage lasts until the server is started again"
            return [Finding("replicas", "ok", message)]
        lags = [_number(each.get("lag")) for each in _replicas_of(info)]
        message = f"{count} connected, the slowest heard {max(lags, default=0)} s ago"
        if max(lags, default=0) > REPLICA_LAG_SECONDS_WARN:
            advice = "a promotion of that replica loses what it lacks"
            return [Finding("replica_lag", "warning", message, advice)]
        with contextlib.suppress(SequencerUnavailable):
            # Refused to the user of the example ACL, as nodes do not need it.
            reached = int(await self._link.call("WAIT", count, _WAIT_MS // 2))
            if reached < count:
                message = f"{reached} of {count} confirm the newest write within half a second"
                return [Finding("replica_lag", "warning", message)]
        return [Finding("replicas", "ok", message)]


def _replicas_of(info: Mapping[str, str]) -> list[dict[str, str]]:
    rows = [value for name, value in info.items() if name.startswith("slave") and "=" in value]
    pairs = [[word.partition("=") for word in row.split(",")] for row in rows]
    return [{name: value for name, _, value in each} for each in pairs]


def _describe_log(head: Head | NoLog) -> Finding:
    if isinstance(head, NoLog):
        if head.damage:
            message = f"the header of the log is damaged: {head.damage}"
            return Finding("log_damaged", "warning", message, "the nodes make a new one")
        return Finding("log", "ok", "no log of this namespace yet")
    if head.level > LEVEL:
        message = f"the log has level {head.level}, and this release knows {LEVEL}"
        return Finding("log_too_new", "error", message, "install the release of the other nodes")
    message = f"epoch {head.epoch}, {head.seq:,} entries, {head.state}"
    return Finding("log", "ok", message)


def _is_about_rights(error: str) -> bool:
    return "permission" in error or "unknown command" in error or "unknown subcommand" in error


def _check_refusals(refused: Mapping[str, str]) -> Iterator[Finding]:
    """Tell missing rights from a server that takes no writes now."""
    rights = {name: error for name, error in refused.items() if _is_about_rights(error)}
    if rights:
        names = ", ".join(sorted(rights))
        advice = "allow what deploy/redis/users.acl.example lists; managed services may rename it"
        message = f"refused: {names} ({next(iter(rights.values()))})"
        yield Finding("commands_refused", "error", message, advice)
    others = [(name, error) for name, error in refused.items() if name not in rights]
    if others:
        name, error = others[0]
        yield Finding("writes_refused", "error", f"{name}: {error}", "see the server's log")
    if not refused:
        yield Finding("commands", "ok", f"all {len(COMMANDS)} commands are allowed")


# --- Sentinel -----------------------------------------------------------------------------------


async def _check_sentinels(connector: Connector) -> list[Finding]:
    """Ask every Sentinel of the URL for the master, and for what it knows of the others."""
    links = connector.sentinel_links()
    try:
        answers = await asyncio.gather(
            *(_ask_sentinel(link, connector.service) for link in links.values())
        )
    finally:
        await asyncio.gather(*(link.close() for link in links.values()))
    known = [answer for answer in answers if isinstance(answer, dict)]
    findings = [
        Finding("sentinel_unreachable", "warning", f"{address}: {answer}")
        for address, answer in zip(links, answers, strict=True)
        if isinstance(answer, str)
    ]
    return [*findings, *_judge_sentinels(connector.service, known, len(answers))]


async def _ask_sentinel(link: Link, service: str) -> dict[str, str] | str:
    """Return what a Sentinel knows of the service, or why it does not answer."""
    try:
        flat = await link.call("SENTINEL", "MASTER", service)
    except SequencerUnavailable as error:
        return str(error.fields.get("redis_error") or error.message)
    words = [word.decode(errors="replace") for word in flat]
    return dict(zip(words[::2], words[1::2], strict=False))


def _judge_sentinels(
    service: str, known: Sequence[Mapping[str, str]], asked: int
) -> Iterator[Finding]:
    if not known:
        message = f"no Sentinel knows a master of {service!r}"
        yield Finding("sentinel_no_master", "error", message, "correct the service's name")
        return
    masters = {f"{each.get('ip')}:{each.get('port')}" for each in known}
    count = max(_number(each.get("num-other-sentinels")) for each in known) + 1
    if len(masters) > 1:
        message = f"the Sentinels name several masters: {', '.join(sorted(masters))}"
        yield Finding("sentinels_disagree", "error", message, "wait for the failover to end")
    if any("down" in each.get("flags", "") for each in known):
        message = f"{', '.join(sorted(masters))} is down by the Sentinels"
        yield Finding("sentinel_master_down", "error", message)
    if count < SENTINELS_MIN:
        message = f"{count} know of each other: the end of one prevents a failover"
        yield Finding("sentinels_few", "warning", message, "run three on three machines")
    if not any(_number(each.get("num-slaves")) for each in known):
        message = "the master has no replica that could take over"
        yield Finding("sentinel_no_replica", "warning", message)
    if len(masters) == 1:
        message = f"{len(known)} of {asked} answer, and name {masters.pop()}"
        yield Finding("sentinels", "ok", message)


# --- replicas that nodes listen at --------------------------------------------------------------


async def examine_replica(replica: Connector, primary: Connector, namespace: str) -> list[Finding]:
    """Check a replica that nodes listen at and read from: it must carry the primary's messages."""
    keys, links = Keys(namespace), (replica.link(), primary.link())
    there, here = links
    label = replica.label
    try:
        info, wanted = await _info(there), await _info(here)
        if info.get("master_replid") != wanted.get("master_replid"):
            message = f"{label} does not replicate the primary"
            return [Finding("replica_foreign", "error", message, "correct the address")]
        if info.get("role") == "slave" and info.get("master_link_status") != "up":
            message = f"{label} has lost its link to the primary"
            return [Finding("replica_cut_off", "warning", message, "nodes use others meanwhile")]
        await Scripts(there, keys).head()
        seconds = await _message_seconds(replica, here, f"{keys.prefix}doctor:replica")
    except SequencerUnavailable as error:
        message = f"{label}: {error.message}"
        if error.fields.get("reason") is Reason.REFUSED:
            advice = "give it the ACL user of the primary"
            return [Finding("replica_refused", "error", message, advice)]
        advice = "nodes use others meanwhile"
        return [Finding("replica_unreachable", "warning", message, advice)]
    finally:
        for link in links:
            await link.close()
    if seconds is None:
        message = f"a message of the primary does not arrive at {label}"
        return [Finding("replica_silent", "error", message, "allow the channels of the namespace")]
    behind = _number(wanted.get("master_repl_offset")) - _number(info.get("master_repl_offset"))
    message = f"{label}: a message takes {seconds * 1e3:.1f} ms, {max(0, behind):,} bytes behind"
    return [Finding("replica_followed", "ok", message)]


async def _message_seconds(replica: Connector, primary: Link, channel: str) -> float | None:
    """Publish at the primary; return how long the message takes to a subscriber of the replica."""
    link = replica.link(timeout_seconds=_MESSAGE_SECONDS_MAX)
    try:
        connection = await link.connect()
        try:
            await connection.send_command("SUBSCRIBE", channel)
            await connection.read_response(timeout=_MESSAGE_SECONDS_MAX)
            began = time.perf_counter()
            await primary.call("PUBLISH", channel, "1")
            await connection.read_response(timeout=_MESSAGE_SECONDS_MAX)
            return time.perf_counter() - began
        finally:
            await link.release(connection)
    except (redis.exceptions.RedisError, TimeoutError):
        return None
    finally:
        await link.close()
