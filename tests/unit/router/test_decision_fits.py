"""Fits of the confidence: when they are due, who makes them, and what they leave behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from http_node import HttpNode, http_node
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import CalibrateDecision, Revision, Settings
from synaptoroute.decision import DecisionCalibration, read_decision_calibration
from synaptoroute.engine import engine as engine_module
from synaptoroute.router import WriteOptions
from synaptoroute.router import decision_fits as module
from synaptoroute.router.decision_fits import FitOutlook, RouteSetView, outlook_of

pytestmark = pytest.mark.unit

NUMBERS = DecisionCalibration(
    "1.9", "f" * 64, "blend", 4, 40, 20.0, 0.6, 0.1, 0.3, 0.1, accuracy=0.9, ece=0.1
)
WORDS = "red blue green black white brown pink grey gold silver".split()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits long."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.02)
    monkeypatch.setattr(module, "REFIT_SECONDS_MIN", 0.2)


@pytest.fixture
async def node(tmp_path: Path, soon: None) -> AsyncIterator[HttpNode]:
    """An empty node."""
    async with http_node(tmp_path) as started:
        yield started


def body(name: str, count: int = 10) -> dict[str, Any]:
    """A route of some utterances."""
    return {"utterances": [f"{name} thing number {n} {WORDS[n % 10]}" for n in range(count)]}


async def fill(node: HttpNode, *names: str) -> None:
    for name in names:
        (await node.http.put(f"/v1/routes/{name}", json=body(name))).raise_for_status()


async def report(node: HttpNode) -> dict[str, Any]:
    answer = await node.http.get("/v1/settings/calibration")
    return dict(answer.raise_for_status().json())


async def until_fitted(node: HttpNode, after: str = "") -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            seen = await report(node)
            if seen["state"] == "fitted" and seen["at"] != after:
                return seen
            await asyncio.sleep(0.02)


async def test_node_fits_by_itself_and_again_when_enough_has_changed(node: HttpNode) -> None:
    await fill(node, "apple")
    assert ("too_small", None) == ((await report(node))["state"], (await report(node))["at"])
    await fill(node, "pear", "plum", "fig")
    first = await until_fitted(node)
    await fill(node, "grape")
    second = await until_fitted(node, first["at"])
    metrics = (await node.http.get("/metrics")).text

    assert (5, 50, "adaptive") == (second["routes"], second["utterances"], second["aggregation"])
    assert second["fitted_by"] == node.router._engine().node_id
    assert second["curve"][0]["coverage"] == 1.0
    assert 'synaptoroute_calibration_state{state="fitted"} 1.0' in metrics
    assert "synaptoroute_calibrations_total" in metrics


async def all_fitted(node: HttpNode) -> dict[str, Any]:
    """Wait for a fit of all that is there; one by itself may begin before the last put."""
    await until_fitted(node)
    (await node.http.post("/v1/settings/calibration")).raise_for_status()
    found = await report(node)
    assert (found["changed_share"], found["pending"]) == (0.0, "nothing")
    return found


async def test_small_change_is_left_until_more_come(node: HttpNode) -> None:
    names = [f"route{n}" for n in range(20)]
    await fill(node, *names)
    first = await all_fitted(node)
    await fill(node, "new")
    await asyncio.sleep(0.6)
    later = await report(node)

    assert first["at"] == later["at"]
    assert 0.05 == later["changed_share"]
    assert "nothing" == later["pending"]


@pytest.mark.usefixtures("soon")
async def test_numbers_survive_a_restart_and_a_change_of_aggregation_replaces_them(
    tmp_path: Path,
) -> None:
    async with http_node(tmp_path) as node:
        await fill(node, "apple", "pear", "plum", "fig")
        first = await until_fitted(node)
    async with http_node(tmp_path, fit_confidence=False) as node:
        assert {**first, "pending": 0, "changed_share": 0} == {
            **await report(node),
            "pending": 0,
            "changed_share": 0,
        }
        settings = (await node.http.get("/v1/settings")).json()
        await node.http.put("/v1/settings", json={**settings, "aggregation": "max"})
        stale = await report(node)
        assert ("stale", first["at"]) == (stale["state"], stale["at"])
        answer = await node.http.post("/v1/settings/calibration")
        assert (200, "max") == (answer.status_code, answer.json()["aggregation"])


async def test_fit_on_demand_is_refused_for_a_small_set_and_below_level_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LEVEL", 2)
    async with http_node(tmp_path) as node:
        await fill(node, "apple")
        refused = await node.http.post("/v1/settings/calibration")
        assert (409, "not_finalized") == (refused.status_code, refused.json()["code"])
        assert "off" == (await report(node))["state"]
        await node.http.post("/v1/cluster/finalize", json={"apply": True})
        small = await node.http.post("/v1/settings/calibration")
        assert (400, "invalid_request") == (small.status_code, small.json()["code"])


async def test_fit_runs_on_a_thread_of_its_own_while_queries_are_answered(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on, names = threading.Event(), threading.Event(), []

    def held(*args: Any, **kwargs: Any) -> DecisionCalibration | None:
        names.append(threading.current_thread().name)
        began.set()
        assert goes_on.wait(20)
        return fit(*args, **kwargs)

    fit = node.router.fits._fit
    monkeypatch.setattr(node.router.fits, "_fit", held)
    await fill(node, "apple", "pear", "plum", "fig")
    await asyncio.to_thread(began.wait, 20)
    answer = await node.http.post("/v1/query", json={"text": "apple thing number 3 black"})
    put = await node.http.put("/v1/routes/late", json=body("late"))
    busy = await report(node)
    goes_on.set()
    await until_fitted(node)

    assert ("apple", 201, "fitting") == (answer.json()["route"], put.status_code, busy["pending"])
    assert names[0].startswith("decision-fit")


async def test_overtaken_fit_is_dropped(node: HttpNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node wrote numbers while this one fitted."""
    await node.router.fits.stop()
    await fill(node, "apple", "pear", "plum", "fig")
    fitter, writer = node.router.fits, node.router._writer()
    measure = fitter._measure

    async def overtaken() -> Any:
        found = await measure()
        await writer.write(CalibrateDecision(NUMBERS.dump(), "other"), WriteOptions())
        return found

    monkeypatch.setattr(fitter, "_measure", overtaken)

    assert None is await fitter.fit_now(is_forced=False)
    assert "1.9" == (await report(node))["at"]


def view(records: list[tuple[int, int]], numbers: DecisionCalibration | None) -> RouteSetView:
    """A route set: for each route the seq of its last change, and its utterances."""
    routes = tuple(
        RouteRecord(
            number,
            f"r{number}",
            tuple(range(count)),
            tuple(map(str, range(count))),
            None,
            "{}",
            "null",
            Revision(1, seq),
        )
        for number, (seq, count) in enumerate(records)
    )
    decision = b"" if numbers is None else numbers.dump()
    return RouteSetView(Revision(1, 50), Settings(), decision, "f" * 64, 4, routes)


@pytest.mark.parametrize(
    ("records", "numbers", "expected"),
    [
        ([(1, 10)] * 4, None, ("none", 1.0, True)),
        ([(1, 10)] * 2, None, ("too_small", 1.0, False)),
        ([(1, 1)] * 40, None, ("too_small", 1.0, False)),
        ([(1, 10)] * 4, NUMBERS, ("fitted", 0.0, False)),
        ([(1, 10)] * 4 + [(10, 2)], NUMBERS, ("fitted", 0.05, False)),
        ([(1, 10)] * 3 + [(10, 10)], NUMBERS, ("fitted", 0.25, True)),
        ([(1, 10)] * 3, NUMBERS, ("fitted", 0.25, True)),
        ([(1, 10)] * 4, replace(NUMBERS, aggregation="max"), ("stale", 1.0, True)),
        ([(1, 10)] * 4, replace(NUMBERS, fingerprint="e" * 64), ("stale", 1.0, True)),
    ],
)
def test_outlook(
    records: list[tuple[int, int]],
    numbers: DecisionCalibration | None,
    expected: tuple[str, float, bool],
) -> None:
    found: FitOutlook = outlook_of(view(records, numbers))
    assert expected == (found.state, found.changed_share, found.is_due)


def test_rows_of_a_changed_route_count_one_by_one() -> None:
    """One of ten utterances was replaced: a fortieth of the set, not a quarter."""
    fitted = {record.name: record for record in view([(1, 10)] * 4, NUMBERS).records}
    now = view([(1, 10)] * 3 + [(10, 10)], NUMBERS)
    last = now.records[3]._replace(utterances=(*now.records[3].utterances[:9], "other"))
    now = replace(now, records=(*now.records[:3], last))

    assert (0.025, False) == (outlook_of(now, fitted).changed_share, outlook_of(now, fitted).is_due)
    assert 0.25 == outlook_of(now).changed_share


async def test_utterance_of_a_broad_route_is_no_reason_to_fit(node: HttpNode) -> None:
    for name in ("apple", "pear", "plum"):
        (await node.http.put(f"/v1/routes/{name}", json=body(name, 20))).raise_for_status()
    first = await all_fitted(node)
    more = {"utterances": ["apple pie"]}
    (await node.http.post("/v1/routes/apple/utterances", json=more)).raise_for_status()
    await asyncio.sleep(0.6)
    later = await report(node)

    assert first["at"] == later["at"]
    assert 0.0167 == later["changed_share"]


def test_numbers_that_cannot_be_read_count_as_none() -> None:
    broken = replace(view([(1, 10)] * 4, None), decision=b"decision1\n{}")
    assert None is read_decision_calibration(broken.decision)
    assert ("none", True) == (outlook_of(broken).state, outlook_of(broken).is_due)


def test_large_set_is_thinned_out_by_whole_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FITTED_ROWS_MAX", 20)
    slots, owners = module._chosen_rows(view([(1, 10)] * 5, None).records)

    assert 20 == len(slots)
    assert [10, 10] == np.bincount(owners).tolist()
