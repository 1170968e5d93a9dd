"""Coordinator processes against a real Valkey: start, lease, fence, door, record.

Method: real processes, frozen by SIGSTOP and killed by SIGKILL; nodes are heartbeats of
the test's own where the coordinator only looks at them.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster_room import join, opened, put, report
from coordinator_process import CoordinatorProcess
from servers import Server
from synaptoroute.cluster import RedisLog
from synaptoroute.core.mutation import Audit, ImportAbort, Position
from synaptoroute.web.keys import key_line, make_key

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


def test_starts_without_arrays_and_models(start_coordinator: StartCoordinator) -> None:
    """numpy, onnxruntime, fastembed and tokenizers are blocked in its process."""
    coordinator = start_coordinator()
    coordinator.until(lambda: coordinator.http("GET", "/readyz").status_code == 200)

    assert "lost" == coordinator.cluster()["log_state"]
    assert 200 == coordinator.http("GET", "/").status_code
    assert 0 == coordinator.stop()


def test_one_of_two_is_active_and_the_other_takes_over(start_coordinator: StartCoordinator) -> None:
    """A killed holder is followed within six seconds; one that stops gives the lease back."""
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


def test_paused_holder_stands_by_when_it_wakes(start_coordinator: StartCoordinator) -> None:
    """Frozen for longer than its lease, it finds another in its place and acts no more."""
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
from synaptoroute_coordinator.actions import Acts
from synaptoroute_coordinator.leader_lease import Tenure
from synaptoroute_coordinator.plan import Repair, Trim

async def main():
    log = RedisLog(sys.argv[1])
    tenure, acts = Tenure(log, "paused"), Acts(log)
    await tenure.keep()
    held = tenure.held
    acts.see(await log.head())
    print("held", flush=True)
    sys.stdin.readline()          # frozen here, between the plan and the act
    trimmed = await acts.trim(held, Trim(1, 3))
    repaired = await acts.repair(held, Repair("a", ("b",), "late"), 0)
    print(trimmed.outcome, repaired.outcome, tenure.held, flush=True)
    await log.close()

asyncio.run(main())
"""


async def test_late_act_of_a_paused_holder_is_refused(valkey_server: Server) -> None:
    """The token outdates it: nothing is trimmed and no order is given."""
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


async def floor_reached(log: RedisLog, wanted: int, at: Position) -> int:
    """Keepalive for two voters until the log's floor is there, or the time is over; the floor."""
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
    """The coordinator trims to the policy's number, and not beyond a majority."""
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
    """An audit and an abort that a person asks for stand in the log and in the record."""
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


def test_keys_and_scopes_are_asked_for(tmp_path: Path, start_coordinator: StartCoordinator) -> None:
    """No key 401, too little scope 403, both told in the events; a session stands for its key."""
    reader, admin = make_key(), make_key()
    lines = [key_line(reader, ["read"], "reader"), key_line(admin, ["admin"], "ops")]
    (tmp_path / "keys").write_text("\n".join(lines))
    coordinator = start_coordinator(api_keys_file=str(tmp_path / "keys"))
    coordinator.until(lambda: coordinator.http("GET", "/readyz").status_code == 200)
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


def test_guessing_keys_is_slowed_down(tmp_path: Path, start_coordinator: StartCoordinator) -> None:
    """After ten tries an address waits."""
    (tmp_path / "keys").write_text(key_line(make_key(), ["admin"], "ops"))
    coordinator = start_coordinator(api_keys_file=str(tmp_path / "keys"))
    statuses = [
        coordinator.http("POST", "/v1/session", json={"key": f"sr_{n}"}).status_code
        for n in range(11)
    ]

    assert [401] * 10 + [429] == statuses


def test_page_is_whole_and_closed_to_scripts_of_others(
    start_coordinator: StartCoordinator,
) -> None:
    """Every file that the page names is there, and the policy allows nothing else."""
    coordinator = start_coordinator()
    page = coordinator.http("GET", "/")
    names = [part.partition('"')[0] for part in page.text.split("/assets/")[1:]]

    assert {"app.js", "style.css", "parts.css", "mark.svg"} <= set(names)
    assert {200} == {coordinator.http("GET", f"/assets/{name}").status_code for name in names}
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    assert "style=" not in page.text
    assert 404 == coordinator.http("GET", "/assets/..%2fconfig.py").status_code


def test_only_the_loopback_is_served_without_keys(start_coordinator: StartCoordinator) -> None:
    """A name that another site points at the loopback is refused."""
    coordinator = start_coordinator()
    answer = coordinator.http("GET", "/v1/cluster", headers={"Host": "evil.example"})

    assert (403, "forbidden") == (answer.status_code, answer.json()["code"])


def test_every_condition_is_a_metric_and_every_problem_a_document(
    start_coordinator: StartCoordinator,
) -> None:
    """Alarms can be scraped; errors are problem+json."""
    coordinator = start_coordinator()
    coordinator.until(lambda: coordinator.is_active)
    text = coordinator.http("GET", "/metrics").text
    unknown = coordinator.http("GET", "/v1/nothing")
    malformed = coordinator.http("POST", "/v1/actions/trim", json={"retain_entries": -1})

    assert 'synaptoroute_fleet_alarm{alarm="log_closed"} 1.0' in text
    assert "synaptoroute_fleet_active 1.0" in text
    assert "application/problem+json" == unknown.headers["content-type"]
    assert (422, "invalid_parameter") == (malformed.status_code, malformed.json()["code"])
    assert {"paths", "info"} <= json.loads(coordinator.http("GET", "/v1/openapi.json").text).keys()
