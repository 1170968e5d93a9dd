"""What a new coordinator knows of the time before it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from metric_names import exposition, series
from monitoring import expressions, metrics_in
from node_cluster import StartCluster
from processes import CoordinatorProcess

KEY = "sr:{default}:coordinator"
SECONDS_MAX = 60.0

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def traffic(coordinator: CoordinatorProcess) -> dict[str | None, int]:
    """Answers of the last day by route."""
    found = coordinator.http("GET", "/v1/traffic?range=day").json()
    answers = {each["route"]: each["answers"] for each in found["routes"]}
    return answers | {None: found["unmatched"]["answers"]}


def test_traffic_outlives_every_coordinator(tmp_path: Path, start_cluster: StartCluster) -> None:
    """One is killed, one is stopped; no answer is lost, and none is counted twice."""
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
    finally:
        first.end()
        second.end()

    exported = series(texts[0]) | series(texts[1])
    assert len(exported) > 100
    # Series of certificates and keys, which this cluster does not have, are in the other text.
    assert set() == metrics_in(expressions()) - exported - series(exposition())
    assert {name: n + (1 if name == "last" else 5) for name, n in before.items()} == after_kill
    assert {name: n + (1 if name == "last" else 5) for name, n in after_kill.items()} == after_stop
