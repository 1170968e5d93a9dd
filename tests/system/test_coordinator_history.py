"""What a new coordinator knows of the time before it."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from metric_names import exposition, series
from monitoring import expressions, metrics_in
from node_cluster import StartCluster
from processes import CoordinatorProcess
from synaptoroute.sequencer.log import RedisLog
from synaptoroute_coordinator.memory import pack, unpack
from synaptoroute_coordinator.traffic import RANGES

KEY = "sr:{default}:coordinator"
SECONDS_MAX = 60.0
SENSITIVE = {"drift_answers_min": "20", "alarm_raise_seconds": "0"}

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def traffic(coordinator: CoordinatorProcess) -> dict[str | None, int]:
    """Answers of the last day by route."""
    found = coordinator.http("GET", "/v1/traffic?range=day").json()
    answers = {each["route"]: each["answers"] for each in found["routes"]}
    return answers | {None: found["unmatched"]["answers"]}


def codes(coordinator: CoordinatorProcess) -> list[str]:
    """Codes of the raised alarms."""
    return [each["code"] for each in coordinator.http("GET", "/v1/alarms").json()["alarms"]]


def _make_week_certain(url: str) -> None:
    """Add a week in which every query had a route to the saved history."""
    width = RANGES["7d"].bucket_seconds
    now = int(time.time()) // width
    week = [[now - n, 100.0, 90.0] for n in range(1, 80)]

    async def change() -> None:
        log = RedisLog(url)
        try:
            content = await log.saved_state.load()
            assert content is not None
            document = unpack(content)
            document["traffic"]["series"].append(["default", "refund", [[], [], week]])
            await log.saved_state.store(pack(document))
        finally:
            await log.close()

    asyncio.run(change())


def test_traffic_outlives_every_coordinator(tmp_path: Path, start_cluster: StartCluster) -> None:
    """One is killed, one is stopped; no answer is lost, and none is counted twice.

    The next one compares the answers with those of a week before it.
    """
    cluster = start_cluster("valkey", 1)
    cluster.put(0, "refund", "I want my money back")
    cluster.put(0, "last", "this is the last query")
    first = CoordinatorProcess(tmp_path / "first", cluster.server.url)
    second = CoordinatorProcess(tmp_path / "second", cluster.server.url)

    def ask(text: str) -> None:
        assert 200 == cluster[0].http.post("/v1/query", json={"text": text}).status_code

    def ask_all(
        coordinator: CoordinatorProcess, count: int, *, is_running: bool = False
    ) -> dict[str | None, int]:
        """Ask queries, the last of them once; return the counts when it was counted."""
        for number in range(count):
            ask("I want my money back" if number % 2 else f"xyzzy {number}")
        ask("this is the last query")
        if not is_running:
            coordinator.start()
        lasts.append(True)
        coordinator.until(lambda: traffic(coordinator).get("last") == len(lasts), SECONDS_MAX)
        return traffic(coordinator)

    lasts: list[bool] = []
    drifting = second
    try:
        first.start()
        # Counts from before the first reading belong to no known time.
        first.until(lambda: ask("xyzzy") or traffic(first)[None] > 0, SECONDS_MAX)
        before = ask_all(first, 20, is_running=True)
        cluster.server.call("DEL", KEY)
        first.until(lambda: cluster.server.call("EXISTS", KEY) == ":1\r\n", SECONDS_MAX)
        first.signal(signal.SIGKILL)
        first.wait()
        after_kill = ask_all(second, 10)
        second.until(lambda: second.is_active, SECONDS_MAX)
        texts = cluster[0].http.get("/metrics").text, second.http("GET", "/metrics").text
        second.stop()
        after_stop = ask_all(first, 10)
        first.stop()
        _make_week_certain(cluster.server.url)
        drifting = CoordinatorProcess(tmp_path / "first", cluster.server.url, SENSITIVE)
        drifting.port = first.port
        drifting.start()
        drifting.until(lambda: "drift" in codes(drifting), SECONDS_MAX)
        alarm = next(a for a in drifting.http("GET", "/v1/alarms").json()["alarms"])
        shown = drifting.http("GET", "/metrics").text
    finally:
        for each in (first, second, drifting):
            each.end()

    assert ("drift", "warning", ["default"]) == (alarm["code"], alarm["severity"], alarm["sets"])
    assert "1 route set is used otherwise than in the week before: default" in alarm["message"]
    assert "% (0% before), mean confidence " in alarm["message"]
    assert "synaptoroute_fleet_drifting_sets 1.0" in shown
    assert 'synaptoroute_fleet_set_drifting{set="default"} 1.0' in shown
    exported = series(texts[0]) | series(texts[1])
    assert len(exported) > 100
    # Series of certificates and keys, which this cluster does not have, are in the other text.
    assert set() == metrics_in(expressions()) - exported - series(exposition())
    assert {name: n + (1 if name == "last" else 5) for name, n in before.items()} == after_kill
    assert {name: n + (1 if name == "last" else 5) for name, n in after_kill.items()} == after_stop
