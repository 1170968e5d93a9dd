"""Coordinator processes against a real Valkey: start, lease, fencing, access, audit log.

Processes are frozen by SIGSTOP and killed by SIGKILL.  Nodes are heartbeats that the test
sends itself where the coordinator only looks at them.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from processes import CoordinatorProcess
from redis_logs import join, opened, put, report
from servers import Server
from synaptoroute.cluster import RedisLog
from synaptoroute.core.mutation import Audit, ImportAbort, Position
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.presence import NodeCommand
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

StartCoordinator = Callable[..., CoordinatorProcess]
FAIL_OVER_SECONDS_MAX = 6.0


@pytest.fixture
def start_coordinator(tmp_path: Path, valkey_server: Server) -> Iterator[StartCoordinator]:
    """Start coordinators that end with the test; settings by name."""
    started: list[CoordinatorProcess] = []

    def start(**settings: str) -> CoordinatorProcess:
        folder = tmp_path / f"coordinator-{len(started)}"
        process = CoordinatorProcess(folder, valkey_server.url, settings)
        started.append(process)
        return process.start()

    yield start
    for process in started:
        process.end()


def test_coordinator_runs_without_numpy_and_models(start_coordinator: StartCoordinator) -> None:
    """numpy, onnxruntime, fastembed and tokenizers are blocked in its process."""
    coordinator = start_coordinator()
    coordinator.until(lambda: coordinator.http("GET", "/readyz").status_code == 200)

    assert "lost" == coordinator.cluster()["log_state"]
    assert 200 == coordinator.http("GET", "/").status_code
    assert 0 == coordinator.stop()


def test_standby_takes_over_from_a_dead_leader(start_coordinator: StartCoordinator) -> None:
    """A killed leader is followed within six seconds; a stopped one releases the lease."""
    first = start_coordinator()
    first.until(lambda: first.is_active)
    second = start_coordinator()
    second.until(lambda: second.cluster()["coordinator"]["holder"])

    assert not second.is_active

    first.signal(signal.SIGKILL)
    took_seconds = second.until(lambda: second.is_active)

    assert FAIL_OVER_SECONDS_MAX >= took_seconds

    third = start_coordinator()
    third.until(lambda: third.cluster()["coordinator"]["holder"])
    second.stop()

    assert FAIL_OVER_SECONDS_MAX >= third.until(lambda: third.is_active)


def test_leader_frozen_beyond_its_lease_stands_by_after_waking(
    start_coordinator: StartCoordinator,
) -> None:
    first = start_coordinator()
    first.until(lambda: first.is_active)
    second = start_coordinator()
    first.signal(signal.SIGSTOP)
    took_seconds = second.until(lambda: second.is_active)
    first.signal(signal.SIGCONT)
    first.until(lambda: not first.is_active)
    refused = first.http("POST", "/v1/actions/audit")

    assert FAIL_OVER_SECONDS_MAX >= took_seconds
    assert (409, "not_active") == (refused.status_code, refused.json()["code"])
    assert second.is_active


LATE_ACT = """
import asyncio, sys
from synaptoroute.sequencer.log import RedisLog
from synaptoroute_coordinator.actions.executor import Executor
from synaptoroute_coordinator.leader_lease import LeaderLease
from synaptoroute_coordinator.plan import Repair, Trim

async def main():
    log = RedisLog(sys.argv[1])
    lease, executor = LeaderLease(log, "paused"), Executor(log)
    await lease.renew()
    held = lease.held
    executor.update_head(await log.head())
    print("held", flush=True)
    sys.stdin.readline()          # frozen here, between the plan and the act
    trimmed = await executor.trim(held, Trim(1, 3))
    repaired = await executor.repair(held, Repair("a", ("b",), "late"), 0)
    print(trimmed.outcome, repaired.outcome, lease.held, flush=True)
    await log.close()

asyncio.run(main())
"""


async def test_late_action_of_a_frozen_leader_is_fenced(valkey_server: Server) -> None:
    """Its lease token is outdated: nothing is trimmed and no command is sent."""
    async with opened(valkey_server.url) as log:
        for number in range(4):
            await log.append([put(f"r{number}")])
        at = await join(log)
        for voter in "abc":
            await log.presence.heartbeat(report(voter, at))
        process = subprocess.Popen(
            [sys.executable, "-c", LATE_ACT, valkey_server.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert "held\n" == process.stdout.readline()
            process.send_signal(signal.SIGSTOP)
            successor = log.lease("coordinator", "successor#1")
            give_up_at = time.monotonic() + 10
            while not hasattr(await successor.acquire(), "token"):
                assert time.monotonic() < give_up_at
                time.sleep(0.1)
            process.send_signal(signal.SIGCONT)
            said, _ = process.communicate("go\n", timeout=20)
        finally:
            process.kill()
            process.wait()
        head = await log.head()

        assert "refused refused None\n" == said
        assert 1 == getattr(head, "floor", 0)
        assert {} == await log.node_commands.all_pending()


async def test_order_that_comes_while_another_is_executed_is_kept(valkey_server: Server) -> None:
    """A node removes the order that it has read, not the one that took its place."""
    async with opened(valkey_server.url) as log:
        await log.append([put("r")])
        lease = log.lease("coordinator", "one#1")
        held = await lease.acquire()
        assert isinstance(held, Held)
        orders = [NodeCommand(name, "scrub", "a test", 1) for name in ("first", "second")]
        await log.node_commands.send(held, "a", orders[0])
        assert orders[0] == await log.node_commands.pending("a")
        await log.node_commands.send(held, "a", orders[1])
        await log.node_commands.complete("a")

        assert orders[1] == await log.node_commands.pending("a")

        await log.node_commands.complete("a")

        assert await log.node_commands.pending("a") is None


async def floor_reached(log: RedisLog, wanted: int, at: Position) -> int:
    """Send heartbeats of two voters until the log has this floor or the time is over."""
    floor = 0
    give_up_at = time.monotonic() + 20
    while floor != wanted and time.monotonic() < give_up_at:
        for voter in "ab":
            await log.presence.heartbeat(report(voter, at))
        floor = getattr(await log.head(), "floor", 0)
        await asyncio.sleep(0.05)
    return floor


async def test_trim_keeps_what_the_policy_and_the_voters_need(
    valkey_server: Server, start_coordinator: StartCoordinator
) -> None:
    """The log is trimmed as the policy says, and never beyond a majority of the voters."""
    async with opened(valkey_server.url) as log:
        for number in range(120):
            await log.append([put(f"r{number}")])
        head = await join(log)
        held = Position(1, 90, "1" * 40)
        for voter in "ab":
            await log.presence.heartbeat(report(voter, held))
        start_coordinator(retain_entries="20", audit_seconds="0", scrub_seconds="0")

        assert 91 == await floor_reached(log, 91, held)

        for number in range(120, 190):
            await log.append([put(f"r{number}")])
        head = await join(log)

        assert head.seq - 20 + 1 == await floor_reached(log, head.seq - 20 + 1, head)


async def test_actions_are_logged_recorded_and_survive_a_restart(
    valkey_server: Server, start_coordinator: StartCoordinator
) -> None:
    """An audit and an abort that an operator asked for are in the log and in the audit log."""
    async with opened(valkey_server.url) as log:
        await log.append([put("a")])
        coordinator = start_coordinator(audit_seconds="0", scrub_seconds="0")
        coordinator.until(lambda: coordinator.is_active)
        audit = coordinator.http("POST", "/v1/actions/audit?depth=rows")
        abort = coordinator.http("POST", "/v1/actions/abort-import", json={"import_id": "i"})
        found = await log.read(Position(1, audit.json()["seq"] - 1))
        mutations = [entry.proposal.mutation for entry in found.entries]

        assert (200, 200) == (audit.status_code, abort.status_code)
        assert isinstance(mutations[0], Audit)
        assert mutations[0].is_deep
        assert ImportAbort("i") == mutations[1]

        coordinator.stop()
        coordinator.start()
        actions = coordinator.http("GET", "/v1/actions").json()["actions"]

        assert ["abort-import", "scrub"] == [each["action"] for each in actions]
        assert {"anybody"} == {each["actor"] for each in actions}


def test_keys_and_scopes_are_enforced(tmp_path: Path, start_coordinator: StartCoordinator) -> None:
    """No key gives 401, a missing scope 403; both are events. A session stands for its key."""
    reader, admin = make_key(), make_key()
    tenant = make_key()
    lines = [
        key_line(reader, ["read"], "reader"),
        key_line(admin, ["admin"], "ops"),
        key_line(tenant, ["write@support-*"], "tenant"),
    ]
    (tmp_path / "keys").write_text("\n".join(lines))
    coordinator = start_coordinator(api_keys_file=str(tmp_path / "keys"))
    coordinator.until(lambda: coordinator.http("GET", "/readyz").status_code == 200)
    by_tenant = {"Authorization": f"Bearer {tenant}"}
    refusal = coordinator.http("DELETE", "/v1/sets/support-a/routes/b", headers=by_tenant)
    limited = coordinator.http("POST", "/v1/session", json={"key": tenant}).json()

    # A key for some sets opens a session, which tells the page what to say.
    assert (403, True) == (refusal.status_code, "write@support-*" in refusal.json()["detail"])
    assert ([], ["write@support-*"]) == (limited["scopes"], limited["grants"])

    by_reader = {"Authorization": f"Bearer {reader}"}

    assert 401 == coordinator.http("GET", "/v1/cluster").status_code
    assert 401 == coordinator.http("POST", "/v1/actions/audit").status_code
    assert 200 == coordinator.http("GET", "/v1/cluster", headers=by_reader).status_code
    assert 403 == coordinator.http("POST", "/v1/actions/audit", headers=by_reader).status_code
    assert 403 == coordinator.http("DELETE", "/v1/routes/a", headers=by_reader).status_code
    assert 401 == coordinator.http("POST", "/v1/session", json={"key": "sr_wrong"}).status_code

    session = coordinator.http("POST", "/v1/session", json={"key": admin})
    cookie = session.headers["set-cookie"]
    by_cookie = {"Cookie": cookie.partition(";")[0]}

    assert ["read", "write", "admin"] == session.json()["scopes"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert 200 == coordinator.http("GET", "/v1/cluster", headers=by_cookie).status_code

    foreign = {**by_cookie, "Origin": "http://evil.example"}

    assert 403 == coordinator.http("POST", "/v1/actions/audit", headers=foreign).status_code

    events = coordinator.http("GET", "/v1/events?once=true", headers=by_cookie).text

    assert "POST /v1/actions/audit by reader was refused" in events
    assert 200 == coordinator.http("DELETE", "/v1/session", headers=by_cookie).status_code
    assert 401 == coordinator.http("GET", "/v1/cluster", headers=by_cookie).status_code


def test_address_is_throttled_after_ten_wrong_keys(
    tmp_path: Path, start_coordinator: StartCoordinator
) -> None:
    (tmp_path / "keys").write_text(key_line(make_key(), ["admin"], "ops"))
    coordinator = start_coordinator(api_keys_file=str(tmp_path / "keys"))
    statuses = [
        coordinator.http("POST", "/v1/session", json={"key": f"sr_guess{n}"}).status_code
        for n in range(11)
    ]
    other = coordinator.http("POST", "/v1/session", json={"key": "sr_other"}).status_code

    assert [401] * 10 + [429] == statuses
    assert 401 == other


def test_wrong_keys_are_counted_by_the_forwarded_address(
    tmp_path: Path, start_coordinator: StartCoordinator
) -> None:
    """Also the cookie is ``Secure`` if the proxy says that its client speaks TLS."""
    key = make_key()
    (tmp_path / "keys").write_text(key_line(key, ["admin"], "ops"))
    coordinator = start_coordinator(
        api_keys_file=str(tmp_path / "keys"), trusted_proxies="127.0.0.0/8"
    )

    def log_in(given: str, host: str, proto: str = "http") -> httpx.Response:
        headers = {"X-Forwarded-For": host, "X-Forwarded-Proto": proto}
        return coordinator.http("POST", "/v1/session", json={"key": given}, headers=headers)

    guesses = [log_in(f"sr_guess{n}", "192.0.2.1").status_code for n in range(11)]
    other = log_in("sr_guess", "192.0.2.2").status_code

    assert [401] * 10 + [429] == guesses
    assert 401 == other
    assert "Secure" in log_in(key, "192.0.2.1", "https").headers["set-cookie"]
    assert "Secure" not in log_in(key, "192.0.2.1").headers["set-cookie"]


def test_wrong_keys_of_others_do_not_lock_out_a_valid_one(
    tmp_path: Path, start_coordinator: StartCoordinator
) -> None:
    """Many users may share the address of one proxy."""
    key = make_key()
    (tmp_path / "keys").write_text(key_line(key, ["admin"], "ops"))
    coordinator = start_coordinator(api_keys_file=str(tmp_path / "keys"))
    for number in range(12):
        coordinator.http("POST", "/v1/session", json={"key": f"sr_{number}"})

    assert 200 == coordinator.http("POST", "/v1/session", json={"key": key}).status_code


SESSION_END_SECONDS_MAX = 1.5  # one second, and a poll of a loaded machine


@pytest.mark.parametrize("how", ["removed", "expired", "rescoped"])
def test_session_and_its_event_stream_end_with_the_key(
    tmp_path: Path, start_coordinator: StartCoordinator, how: str
) -> None:
    """A key that is removed, expires or loses a scope ends its sessions within a second."""
    path, key, other = tmp_path / "keys", make_key(), make_key()
    kept = key_line(other, ["read"], "other")
    until = datetime.now(UTC) + timedelta(hours=1)
    path.write_text(f"{key_line(key, ['admin'], 'ops', until)}\n{kept}\n")
    coordinator = start_coordinator(api_keys_file=str(path))
    coordinator.until(lambda: coordinator.http("GET", "/readyz").status_code == 200)
    session = coordinator.http("POST", "/v1/session", json={"key": key})
    by_cookie = {"Cookie": session.headers["set-cookie"].partition(";")[0]}

    assert 200 == coordinator.http("GET", "/v1/cluster", headers=by_cookie).status_code

    with httpx.stream(
        "GET", f"{coordinator.url}/v1/events", headers=by_cookie, timeout=10
    ) as stream:
        if how == "removed":
            path.write_text(kept)
        if how == "rescoped":
            path.write_text(f"{key_line(key, ['read'], 'ops', until)}\n{kept}\n")
        if how == "expired":
            soon = datetime.now(UTC) + timedelta(seconds=3)
            path.write_text(f"{key_line(key, ['admin'], 'ops', soon)}\n{kept}\n")
            time.sleep(max(0.0, int(soon.timestamp()) - time.time()))
        changed_at = time.monotonic()
        for _ in stream.iter_lines():
            pass
        ended_seconds = time.monotonic() - changed_at

    assert ended_seconds < SESSION_END_SECONDS_MAX
    assert 401 == coordinator.http("GET", "/v1/cluster", headers=by_cookie).status_code
    assert 401 == coordinator.http("POST", "/v1/actions/audit", headers=by_cookie).status_code

    # The old key in a file that is put back, by mistake or by an attacker, is a new matter:
    # the session stays ended.
    path.write_text(f"{key_line(key, ['admin'], 'ops')}\n{kept}\n")
    time.sleep(1.0)

    assert 401 == coordinator.http("GET", "/v1/cluster", headers=by_cookie).status_code


def test_sessions_end_with_the_process(tmp_path: Path, start_coordinator: StartCoordinator) -> None:
    key = make_key()
    (tmp_path / "keys").write_text(key_line(key, ["admin"], "ops"))
    coordinator = start_coordinator(api_keys_file=str(tmp_path / "keys"))
    session = coordinator.http("POST", "/v1/session", json={"key": key})
    by_cookie = {"Cookie": session.headers["set-cookie"].partition(";")[0]}
    coordinator.stop()
    coordinator.start()

    assert 401 == coordinator.http("GET", "/v1/cluster", headers=by_cookie).status_code


def test_record_names_key_address_and_outcome(
    tmp_path: Path, start_coordinator: StartCoordinator
) -> None:
    """Of sessions, of actions, and of what a key was not allowed to do.

    A key may have the name of the coordinator; its actions are not taken for the coordinator's.
    """
    admin, reader = make_key(), make_key()
    lines = [key_line(admin, ["admin"], "coordinator"), key_line(reader, ["read"], "eve")]
    (tmp_path / "keys").write_text("\n".join(lines))
    coordinator = start_coordinator(api_keys_file=str(tmp_path / "keys"))
    coordinator.until(lambda: coordinator.http("GET", "/readyz").status_code == 200)
    session = coordinator.http("POST", "/v1/session", json={"key": admin})
    by_cookie = {"Cookie": session.headers["set-cookie"].partition(";")[0]}

    def show(path: str) -> Any:
        return coordinator.http("GET", path, headers=by_cookie).json()

    coordinator.until(lambda: show("/v1/cluster")["coordinator"]["is_active"])
    forged = {"X-API-Key": reader, "X-Actor": "coordinator"}
    coordinator.http("POST", "/v1/actions/audit", headers=forged)
    coordinator.http("POST", "/v1/actions/audit", headers=by_cookie)
    coordinator.until(lambda: len(show("/v1/actions")["actions"]) >= 3)
    actions = show("/v1/actions")["actions"]
    by_actor = {(each["actor"], each["action"]): each for each in actions}

    assert {
        ("coordinator", "open a session"),
        ("eve", "POST /v1/actions/audit"),
        ("coordinator", "audit"),
    } <= set(by_actor)
    assert "refused" == by_actor["eve", "POST /v1/actions/audit"]["outcome"]
    assert {"127.0.0.1"} == {each["address"] for each in by_actor.values()}


def test_files_of_a_coordinator_are_its_owner_s_alone(
    tmp_path: Path, start_coordinator: StartCoordinator
) -> None:
    """The mode does not depend on the umask."""
    coordinator = start_coordinator()
    coordinator.until(lambda: coordinator.is_active)
    coordinator.http("POST", "/v1/actions/audit")
    records = list(tmp_path.rglob("actions.jsonl"))

    assert [0o600] == [path.stat().st_mode & 0o777 for path in records]


def test_page_has_all_its_files_and_a_strict_content_policy(
    start_coordinator: StartCoordinator,
) -> None:
    coordinator = start_coordinator()
    page = coordinator.http("GET", "/")
    names = [part.partition('"')[0] for part in page.text.split('"assets/')[1:]]

    assert {"app.js", "style.css", "parts.css", "mark.svg"} <= set(names)
    assert {200} == {coordinator.http("GET", f"/assets/{name}").status_code for name in names}
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    assert "style=" not in page.text
    assert 400 == coordinator.http("GET", "/assets/..%2fconfig.py").status_code


def test_foreign_host_header_is_refused_without_keys(start_coordinator: StartCoordinator) -> None:
    """Another site may point a name of its own at the loopback (DNS rebinding)."""
    coordinator = start_coordinator()
    answer = coordinator.http("GET", "/v1/cluster", headers={"Host": "evil.example"})

    assert (421, "host_not_allowed") == (answer.status_code, answer.json()["code"])


def test_alarms_are_metrics_and_errors_are_problem_documents(
    start_coordinator: StartCoordinator,
) -> None:
    coordinator = start_coordinator()
    coordinator.until(lambda: coordinator.is_active)
    closed = 'synaptoroute_fleet_alarm{alarm="log_closed"} 1.0'
    coordinator.until(lambda: closed in coordinator.http("GET", "/metrics").text)
    text = coordinator.http("GET", "/metrics").text
    unknown = coordinator.http("GET", "/v1/nothing")
    malformed = coordinator.http("POST", "/v1/actions/trim", json={"retain_entries": -1})

    assert "synaptoroute_fleet_active 1.0" in text
    assert "application/problem+json" == unknown.headers["content-type"]
    assert (422, "invalid_parameter") == (malformed.status_code, malformed.json()["code"])
    assert {"paths", "info"} <= json.loads(coordinator.http("GET", "/v1/openapi.json").text).keys()
